"""Labels as people write them down."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.pipeline.errors import ConfigError
from headrace.pipeline.evaluate.labels import Truth, json_truth, read_labels

ID = "3B241101-e2bb-4255-8caf-4136c566a962"


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
        ("a.csv", 'topic,partition,offset,label,part\nin,3,17,"a, b",left\n'),
        ("a.json", '{"topic": "in", "partition": 3, "offset": 17, "label": "a, b", "part": "left"}'),
    ],
)
def test_label_by_position_is_read(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert list(read_labels(tmp_path / name)) == [Truth("a, b", None, ("in", 3, 17), "left")]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.csv", "id,label\nx,cat\n", "line 2: id 'x' is not a UUID"),
        ("a.csv", f"id,label\n{ID},\n", "line 2: it has no label"),
        ("a.csv", f"id,label\n{ID},cat,more\n", "line 2: it has more columns than the heading"),
        ("a.csv", "topic,offset,label\nin,1,cat\n", "neither id nor topic, partition and offset"),
        ("a.csv", "topic,partition,offset,label\nin,one,1,cat\n", "partition and offset are whole numbers"),
        ("a.jsonl", '{"label": "cat"}', "line 1: it says neither id"),
        ("a.jsonl", '\n{"label": 3}', "line 2: it has no label, or one that is no text"),
        ("a.jsonl", "[1]", "line 1: it is no JSON object"),
        ("a.jsonl", "{", "line 1: it is not JSON"),
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
