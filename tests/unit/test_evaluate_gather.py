"""Which events are compared, and the tables that are made of records."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.config_routes import Match, RouteSettings
from headrace.pipeline.config_shadow import ShadowSettings
from headrace.pipeline.envelope import encode_dead_letter, encode_request, encode_result
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.evaluate.compared import LeftOut, OffsetSet, PartsOf, replayed_parts, shadowed_parts
from headrace.pipeline.evaluate.gather import (
    Events,
    RequestReader,
    batches,
    gather_events,
    gather_failures,
    gather_results,
)
from headrace.pipeline.evaluate.gather_labels import gather_topic_truths
from headrace.pipeline.evaluate.store import GROUP_BYTES, GROUP_ROWS, connect
from headrace.pipeline.records import (
    DeadLetter,
    Headers,
    InferenceRequest,
    InferenceResult,
    Modality,
    Part,
    PartOutput,
    Provenance,
    SourceRecord,
    Timings,
)
from headrace.pipeline.replay.chosen import sampled
from headrace.pipeline.replay.ranges import PartitionRange
from tests.unit.fakes import request, text_part

RANGES = (PartitionRange(0, 100, 117), PartitionRange(2, 5, 6), PartitionRange(3, 9, 9))
PHOTO = Part("photo", Modality.IMAGE, "image/jpeg", b"jpeg")
ROUTES = (
    RouteSettings(name="text", model="m", match=Match(modality=(Modality.TEXT,))),
    RouteSettings(name="image", model="n", match=Match(modality=(Modality.IMAGE,))),
)


def at(offset: int, partition: int = 0, topic: str = "in") -> Provenance:
    return Provenance(topic, partition, offset, 1_000 + offset)


def record(
    where: Provenance, value: bytes | None = b"", key: bytes | None = None, headers: Headers = ()
) -> SourceRecord:
    return SourceRecord(where, key, value, headers)


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return found


# --- which events


def test_offset_sets_of_the_same_ranges_add_up() -> None:
    whole = OffsetSet("in", RANGES)
    for offsets in ((100, 109), (109, 116)):
        some = OffsetSet("in", RANGES)
        for offset in offsets:
            some.add(at(offset))
        whole.update(some)
    assert [offset for offset in range(90, 130) if at(offset) in whole] == [100, 109, 116]


@given(st.sets(st.integers(100, 116)), st.integers(-5, 130), st.integers(-1, 4), st.sampled_from(["in", "out"]))
def test_offset_set_holds_what_was_added_and_no_other(added: set[int], offset: int, partition: int, topic: str) -> None:
    held = OffsetSet("in", RANGES)
    for each in added:
        held.add(at(each))
    wanted = topic == "in" and partition == 0 and offset in added
    assert (at(offset, partition, topic) in held) is wanted
    (found,) = held.hold(np.array([partition]), np.array([offset])).tolist()
    assert found is (wanted or (topic != "in" and at(offset, partition) in held))


def names(parts_of: PartsOf, event: InferenceRequest, headers: Headers = ()) -> list[str]:
    return [part.name for part in parts_of(record(at(1), headers=headers), event)]


def test_replay_answers_the_parts_on_its_routes() -> None:
    both = request(text_part(name="words"), PHOTO)
    assert names(replayed_parts(ROUTES, ()), both) == ["words", "photo"]
    assert names(replayed_parts(ROUTES, ["image"]), both) == ["photo"]
    assert names(replayed_parts(ROUTES, ["image"]), request(text_part(name="words"))) == []


def test_replay_of_some_routes_makes_a_dead_letter_of_what_has_none() -> None:
    sound = request(Part("sound", Modality.AUDIO, "audio/wav", b""))
    assert names(replayed_parts(ROUTES, ["image"]), sound) == ["sound"]
    wrong = (("priority", b"high"),)
    assert names(replayed_parts(ROUTES, ["image"]), request(text_part(name="words")), wrong) == ["words"]


def test_shadow_answers_its_share_of_the_parts_on_its_routes() -> None:
    shadow = ShadowSettings(version="2", share=0.3)
    routes = (ROUTES[0], ROUTES[1].model_copy(update={"shadow": shadow}))
    parts_of = shadowed_parts(routes)
    ids = [str(uuid.UUID(int=number)) for number in range(200)]
    taken = [each for each in ids if names(parts_of, request(text_part(name="words"), PHOTO, id=each)) == ["photo"]]
    assert taken == [each for each in ids if sampled(each, 0.3)]
    assert names(parts_of, request(Part("sound", Modality.AUDIO, "audio/wav", b""))) == []


def test_events_are_those_that_are_taken_and_have_a_part_to_compare(tmp_path: Path) -> None:
    contents = {
        100: request(text_part(name="words"), PHOTO),
        101: request(text_part(name="words")),
        103: None,
        110: request(PHOTO),
    }
    records = [record(at(offset), key=b"k") for offset in (100, 101, 103, 104, 110)]
    events = Events(OffsetSet("in", RANGES))
    gather_events(
        tmp_path / "events",
        records,
        lambda each: each.provenance.offset != 104,
        lambda each: contents[each.provenance.offset],
        replayed_parts(ROUTES, ["image"]),
        events,
    )
    found = rows(tmp_path / "events")
    assert [(row["offset"], row["part"]) for row in found] == [(100, "photo"), (103, None), (110, "photo")]
    assert (events.count, events.first_ms) == (3, 1_100)
    assert [offset for offset in range(100, 117) if at(offset) in events.offsets] == [100, 103, 110]


def test_record_that_cannot_be_decoded_is_no_event_where_no_dead_letter_comes_of_it(tmp_path: Path) -> None:
    """A shadow answers nothing of it, and nothing is missing."""
    events = Events(OffsetSet("in", RANGES))
    everything = replayed_parts(ROUTES, ())
    gather_events(
        tmp_path / "events", [record(at(100))], lambda _: True, lambda _: None, everything, events, undecodable=False
    )
    assert (rows(tmp_path / "events"), events.count) == ([], 0)


# --- outcomes


def result(where: Provenance, *routes: str) -> InferenceResult:
    outputs = tuple(PartOutput(f"of {route}", route, "m", "1") for route in routes)
    return InferenceResult("id", "OK", outputs, where, Timings(0, 1, 2), 1, "w", 0)


def letter(where: Provenance, code: str) -> DeadLetter:
    return DeadLetter(None, None, (), where, "infer", code, "", 1, 0, 0, "w")


class Registry:
    """Each contract's schema by an id of its own."""

    def schema(self, schema_id: int) -> str | None:
        return schema_json(list(Contract)[schema_id])

    def register(self, subject: str, schema: str, compatibility: str) -> int:
        raise NotImplementedError


RESULT_ID, LETTER_ID, REQUEST_ID = (
    list(Contract).index(each) for each in (Contract.RESULT, Contract.DEAD_LETTER, Contract.REQUEST)
)


def some_events() -> OffsetSet:
    events = OffsetSet("in", RANGES)
    for offset in (100, 101):
        events.add(at(offset))
    return events


def test_results_have_the_original_position_and_are_of_the_events_that_are_compared(tmp_path: Path) -> None:
    """Of one event all there are is kept, in their order, however they come."""
    results = [
        result(at(100), "text", "image"),
        result(at(101), "image"),
        result(at(101, topic="other"), "image"),
        result(at(102), "image"),
        result(at(100), "image"),
    ]
    values = [encode_result(each, RESULT_ID) for each in results]
    ways: list[list[list[bytes | None]]] = [
        [[*values]],
        [[*values[:2]], [], [*values[2:]], [b"no Avro", None]],
        [[each] for each in values],
    ]
    for some in ways:
        left_out = gather_results(tmp_path / "answers", some, Registry(), some_events(), ["image"])
        assert left_out == LeftOut(unreadable=sum(map(len, some)) - len(values), others=2)
        found = rows(tmp_path / "answers")
        answers = [(row["topic"], row["partition"], row["offset"], row["route"]) for row in found]
        assert answers == [("in", 0, 100, "image"), ("in", 0, 101, "image"), ("in", 0, 100, "image")]
        assert [row["parts"] for row in found] == [2, 1, 1]  # of the whole result, whose times they share


def test_dead_letters_have_the_original_position_and_are_of_the_events_that_are_compared(tmp_path: Path) -> None:
    letters = [letter(at(101), "TOO_LATE"), letter(at(102), "TOO_LATE"), letter(at(101), "NO_ROUTE")]
    values = [encode_dead_letter(each, LETTER_ID) for each in letters]
    values.append(encode_result(result(at(100), "text"), RESULT_ID))
    left_out = gather_failures(tmp_path / "failures", [values[:1], values[1:], [None]], Registry(), some_events())
    assert left_out == LeftOut(unreadable=2, others=1)
    assert [(row["offset"], row["code"]) for row in rows(tmp_path / "failures")] == [
        (101, "TOO_LATE"),
        (101, "NO_ROUTE"),
    ]


def test_values_are_gathered_in_pieces_that_are_neither_long_nor_large() -> None:
    small = list(batches([[b""] * 3, [None] * GROUP_ROWS, []]))
    assert [len(each) for each in small] == [GROUP_ROWS, 3]
    large = list(batches([[bytes(GROUP_BYTES // 2)] * 3, [bytes(2 * GROUP_BYTES)]]))
    assert [len(each) for each in large] == [2, 2]


# --- requests


def test_request_is_read_once_and_only_if_it_is_one() -> None:
    read = RequestReader(Registry(), max_value_bytes=1_000)
    event = request(text_part(name="words"))
    good = record(at(100), encode_request(event, REQUEST_ID))
    assert read(good) == event
    assert read(good) is read(good)
    long = encode_request(request(text_part("x" * 1_000)), REQUEST_ID)
    foreign = encode_result(result(at(100), "text"), RESULT_ID)
    for bad in (b"", None, b"no Avro", good.value[:-1] if good.value else None, long, foreign):
        assert read(record(at(101), bad)) is None
    assert read(record(at(102), good.value)) == event


# --- labels of a topic

ONE, OTHER = (str(uuid.UUID(int=number)) for number in (1, 2))


def labels(folder: Path, records: Iterable[SourceRecord]) -> list[tuple[Any, ...]]:
    with connect(folder / "spill") as database:
        gather_topic_truths(folder / "truths", records, database, folder / "scratch")
    found = rows(folder / "truths")
    return sorted((row["id"], row["offset"], row["part"], row["label"]) for row in found)


def label(offset: int, key: str | None, value: Any, partition: int = 0) -> SourceRecord:
    data = None if value is None else value if isinstance(value, bytes) else json.dumps(value).encode()
    return record(at(offset, partition, "labels"), data, None if key is None else key.encode())


def test_last_label_of_a_key_counts_and_an_empty_record_takes_it_back(tmp_path: Path) -> None:
    told = [
        label(0, ONE, {"label": "cat"}),
        label(1, OTHER, {"label": "dog"}),
        label(2, ONE, b"not JSON"),
        label(3, ONE, {"label": "lynx"}),
        label(4, OTHER, None),
    ]
    assert labels(tmp_path, told) == [(ONE, None, "", "lynx")]


def test_labels_without_a_key_or_with_keys_of_their_own_stand_for_themselves(tmp_path: Path) -> None:
    told = [
        label(0, None, {"label": "cat", "id": ONE}),
        label(1, None, {"label": "dog", "id": OTHER}),
        label(2, f"{ONE}/tail", {"label": "long", "id": ONE, "part": "tail"}),
    ]
    assert labels(tmp_path, told) == [(ONE, None, "", "cat"), (ONE, None, "tail", "long"), (OTHER, None, "", "dog")]


def test_no_labels_at_all_are_no_error(tmp_path: Path) -> None:
    assert labels(tmp_path, []) == []


@pytest.mark.parametrize(("key", "value"), [(ONE, b"{"), ("k", {"label": "cat"}), (ONE, {"label": 1})])
def test_label_that_counts_and_is_none_is_told_with_its_position(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^labels:2:7: "):
        labels(tmp_path, [label(6, ONE, {"label": "cat"}, 2), label(7, key, value, 2)])
