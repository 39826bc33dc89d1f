"""Labels as people write them down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.errors import ConfigError
from headrace.pipeline.evaluate.labels import Truth, json_truth, read_labels, truth

ID = "3B241101-e2bb-4255-8caf-4136c566a962"


def _position(**fields: object) -> str:
    """A line that is right but for these fields."""
    return json.dumps({"topic": "in", "partition": 0, "offset": 5, "label": "cat", **fields})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", f"id,label,part\n{ID},cat,\n"),
        ("a.csv", f"\ufefflabel,id\r\ncat,{ID}\r\n"),
        ("a.jsonl", f'{{"id": "{ID}", "label": "cat"}}\n\n'),
    ],
)
def test_label_by_id_is_read(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert list(read_labels(tmp_path / name)) == [Truth("cat", ID.lower(), None)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'topic,partition,offset,label,part,route\nin,3,17,"a, b",left,image\n'),
        (
            "a.json",
            '{"topic": "in", "partition": 3, "offset": 17, "label": "a, b", "part": "left", "route": "image"}',
        ),
    ],
)
def test_label_by_position_is_read(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert list(read_labels(tmp_path / name)) == [Truth("a, b", None, ("in", 3, 17), "left", "image")]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.csv", "id,label\nx,cat\n", "line 2: id 'x' is not a UUID"),
        ("a.csv", f"id,label\n{ID},\n", "line 2: it has no label"),
        ("a.csv", f"id,label\n{ID},cat,more\n", "line 2: it has more columns than the heading"),
        (
            "a.csv",
            "topic,partition,offset,label\nin,,1,cat\n",
            "line 2: it says neither id nor topic, partition and off",
        ),
        ("a.csv", "topic,partition,offset,label\nin,one,1,cat\n", "line 2: partition 'one' is not a whole number"),
        ("a.csv", "topic,partition,offset,label\nin,1,1_0,cat\n", "line 2: offset '1_0' is not a whole number"),
        (
            "a.csv",
            "topic,offset,label\nin,1,cat\n",
            r"line 1: the heading has no id \(or topic, partition and offset\): ",
        ),
        ("a.csv", f"ID,Label\n{ID},cat\n", r"has no label and no id \(or .*; it is 'ID,Label'$"),
        ("a.csv", f"id;label\n{ID};cat\n", r"has no label and no id \(or .*; it is 'id;label'$"),
        ("a.csv", f"id,class\n{ID},cat\n", r"has no label: names are in lower case"),
        ("a.csv", "", "line 1: the heading has no label and no id"),
        ("a.jsonl", '{"label": "cat"}', "line 1: it says neither id"),
        ("a.jsonl", '\n{"label": 3}', "line 2: it has no label, or one that is no text"),
        ("a.jsonl", "[1]", "line 1: it is no JSON object"),
        ("a.jsonl", "{", "line 1: it is not JSON"),
        ("a.jsonl", "[" * 100_000, "line 1: it is not JSON"),
        ("a.jsonl", _position(offset=1.9), "line 1: offset 1.9 is not a whole number"),
        ("a.jsonl", _position(partition=True), "line 1: partition True is not a whole number"),
        ("a.jsonl", _position(offset=-1), "line 1: offset -1 is not a whole number from 0"),
        (
            "a.jsonl",
            _position(offset=10**20),
            "line 1: offset 100000000000000000000 is not a whole number from 0 to 9223",
        ),
        (
            "a.jsonl",
            _position(partition=2**31),
            "line 1: partition 2147483648 is not a whole number from 0 to 2147483647",
        ),
        ("a.jsonl", _position(topic=None), "line 1: it says neither id nor topic"),
        ("a.jsonl", _position(topic=3), "line 1: it has no topic, or one that is no text"),
        ("a.jsonl", _position(label="\ud800"), "line 1: its label .* has half of a surrogate pair"),
        ("a.jsonl", _position(part="é\udfff"), "line 1: its part .* has half of a surrogate pair"),
        (
            "a.jsonl",
            f'{{"label": "cat", "offset": null, "topic": "t", "partition": 1, "id": "{ID}0"}}',
            "is not a UUID",
        ),
        ("none.csv", None, "cannot be read"),
    ],
)
def test_wrong_label_says_where_and_what(name: str, text: str | None, problem: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=problem):
        list(read_labels(tmp_path / name))


def test_key_of_a_record_is_the_id_unless_it_says_otherwise() -> None:
    assert json_truth(b'{"label": "cat"}', "here", ID) == Truth("cat", ID.lower(), None)
    by_place = b'{"label": "cat", "topic": "in", "partition": 0, "offset": 5}'
    assert json_truth(by_place, "here", ID) == Truth("cat", None, ("in", 0, 5))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.text("0123456789")
NAMES = st.sampled_from(["label", "id", "topic", "partition", "offset", "part", "route"])


@given(st.dictionaries(NAMES, SCALARS))
def test_label_is_one_that_tables_can_hold_or_refused(fields: dict[str, object]) -> None:
    try:
        found = truth(fields, "here")
    except ConfigError:
        return
    (found.label + found.part + found.route).encode()
    if found.position:
        topic, partition, offset = found.position
        assert topic == fields["topic"]
        assert 0 <= partition < 2**31
        assert 0 <= offset < 2**63
