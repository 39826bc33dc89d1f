"""The marks by which no dead letter is redriven twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.records import OutputRecord, Provenance, SourceRecord
from headrace.pipeline.redriving import (
    DeadLetters,
    Marks,
    SpentMarks,
    mark,
    marks_topic,
    redrive_topic_specs,
    seal,
    unmark,
)
from tests.unit.redrive_bench import DEAD, LETTERS, NOW_MS, SETTINGS

MARKS = marks_topic(SETTINGS)
NO_TIMES = (b"1" + 30 * b"0", b"9223372036854775808", b"-5", b"Infinity", b"NaN", b"1.5", b"true", b'"5"', b"null")


def in_topic(output: OutputRecord) -> SourceRecord:
    return SourceRecord(Provenance(output.topic, 0, 7, NOW_MS), output.key, output.value, output.headers)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5000), st.integers(1, 2**62)), max_size=50))
def test_marks_say_which_dead_letters_were_redriven_and_when(found: list[tuple[int, int, int]]) -> None:
    marks = Marks(LETTERS)
    for partition, offset, redriven_ms in found:
        output = mark(LETTERS, Provenance(DEAD, partition, offset, 0), MARKS, redriven_ms)
        assert marks.take(in_topic(output)) == (partition, offset)
    newest = {(partition, offset): redriven_ms for partition, offset, redriven_ms in found}
    for partition in range(10):
        for offset in (0, 1, 127, 128, 4999, *(each for _, each, _ in found)):
            at = Provenance(DEAD, partition, offset, 0)
            assert marks.redriven_ms(at) == newest.get((partition, offset))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (f"{DEAD}:0:1", None),
        (f"{DEAD}:0:1", b"{}"),
        (f"{DEAD}:0:1", b"\xff"),
        (f"{DEAD}:0:1", b"[]"),
        (f"{DEAD}:0:1", b'{"topic_id":"another","redriven_ms":5}'),
        *((f"{DEAD}:0:1", b'{"topic_id":"first","redriven_ms":%s}' % bad) for bad in NO_TIMES),
        (f"{DEAD}:0:1", b"[" * 100_000),
        ("another:0:1", b'{"topic_id":"first","redriven_ms":5}'),
        (f"{DEAD}:0", b'{"topic_id":"first","redriven_ms":5}'),
        ("seal", b'{"process":"p","number":1}'),
    ],
)
def test_what_is_no_mark_of_this_topic_marks_nothing(key: str, value: bytes | None) -> None:
    marks = Marks(LETTERS)
    assert marks.take(SourceRecord(Provenance(MARKS, 0, 0, 0), key.encode(), value, ())) is None
    assert marks.redriven_ms(Provenance(DEAD, 0, 1, 0)) is None


def test_marks_are_spent_when_their_dead_letters_are_gone() -> None:
    spent = SpentMarks(LETTERS, {0: 10, 1: 0})
    old = DeadLetters(DEAD, "before it was made anew")
    for output in (
        mark(LETTERS, Provenance(DEAD, 0, 8, 0), MARKS, NOW_MS),
        mark(LETTERS, Provenance(DEAD, 0, 9, 0), MARKS, NOW_MS),
        mark(LETTERS, Provenance(DEAD, 0, 10, 0), MARKS, NOW_MS),
        mark(LETTERS, Provenance(DEAD, 1, 0, 0), MARKS, NOW_MS),
        mark(old, Provenance(DEAD, 1, 7, 0), MARKS, NOW_MS),
        mark(old, Provenance(DEAD, 1, 8, 0), MARKS, NOW_MS),
        mark(LETTERS, Provenance(DEAD, 1, 8, 0), MARKS, NOW_MS),
        unmark(LETTERS, (0, 8), MARKS),
        seal(MARKS, "p", 1),
    ):
        spent.take(in_topic(output))
    assert sorted(spent) == [(0, 9), (1, 7)]


def test_marks_are_never_deleted_by_age() -> None:
    redriven, marks = redrive_topic_specs(SETTINGS)
    assert (redriven.name, marks.name, marks.partitions) == ("headrace.redriven", "headrace.redriven-marks", 1)
    assert marks.config["cleanup.policy"] == "compact"


def test_marks_outlive_that_dead_letters_go_to_another_topic_for_a_while() -> None:
    """Each topic's dead letters keep their own marks, in the one topic of marks."""
    other = DeadLetters("another", "second")
    outputs = [
        mark(LETTERS, Provenance(DEAD, 0, 1, 0), MARKS, NOW_MS),
        mark(other, Provenance("another", 0, 2, 0), MARKS, 5),
    ]
    first, second, spent = Marks(LETTERS), Marks(other), SpentMarks(other, {0: 10})
    for each in map(in_topic, outputs):
        first.take(each)
        second.take(each)
        spent.take(each)
    assert [first.redriven_ms(Provenance(DEAD, 0, each, 0)) for each in (1, 2)] == [NOW_MS, None]
    assert [second.redriven_ms(Provenance("another", 0, each, 0)) for each in (1, 2)] == [None, 5]
    assert list(spent) == [(0, 2)]
