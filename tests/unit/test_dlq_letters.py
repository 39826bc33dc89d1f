"""Which dead letters are chosen, by whatever is known of them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from headrace.pipeline.letters import LetterChoice, Wanted, narrowed
from headrace.pipeline.present import dead_letter_json, dead_letter_line, dead_letter_lines
from headrace.pipeline.records import Provenance
from headrace.pipeline.replay.ranges import PartitionRange
from tests.unit.redrive_bench import DEAD, NOW_MS, letter

FOUND = letter(
    7,
    code="MODEL_UNAVAILABLE",
    stage="infer",
    route="image",
    model="image_jpeg",
    request_id="a-1",
    provenance=Provenance("uploads", 2, 40, NOW_MS),
    headers=(("ce_source", b"captions"),),
)


@pytest.mark.parametrize(
    ("wanted", "takes"),
    [
        (Wanted(), True),
        (Wanted(codes=("MODEL_UNAVAILABLE",)), True),
        (Wanted(codes=("BAD_*", "MODEL_*")), True),
        (Wanted(codes=("model_unavailable",)), False),
        (Wanted(stages=("infer",), routes=("im*",), models=("image_jpeg",), ids=("a-1",), topics=("uploads",)), True),
        (Wanted(stages=("decode",)), False),
        (Wanted(routes=("text",)), False),
        (Wanted(models=("image",)), False),
        (Wanted(ids=("a-2",)), False),
        (Wanted(topics=(DEAD,)), False),
        (Wanted(codes=("MODEL_UNAVAILABLE",), routes=("text",)), False),
        (Wanted(pipelines=("captions",)), True),
        (Wanted(pipelines=("headrace",)), False),
        (Wanted(positions=((DEAD, 0, 7),)), True),
        (Wanted(positions=(("uploads", 2, 40),)), True),
        (Wanted(positions=((DEAD, 0, 8), ("uploads", 2, 41), ("uploads", 2, 40))), True),
        (Wanted(positions=(("uploads", 0, 7),)), False),
    ],
)
def test_dead_letter_is_taken_if_all_that_is_asked_holds(wanted: Wanted, takes: bool) -> None:
    assert LetterChoice(wanted).takes(FOUND) is takes


def test_dead_letter_without_route_is_of_none() -> None:
    assert LetterChoice(Wanted(codes=("*",))).takes(letter(1))
    assert not LetterChoice(Wanted(routes=("text",))).takes(letter(1))


RANGES = (PartitionRange(0, 5, 50), PartitionRange(1, 0, 10), PartitionRange(2, 3, 3))


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ((), RANGES),
        (((DEAD, 0, 7), ("uploads", 2, 40)), RANGES),
        (((DEAD, 0, 7),), (PartitionRange(0, 7, 8),)),
        (((DEAD, 0, 30), (DEAD, 0, 9), (DEAD, 1, 0)), (PartitionRange(0, 9, 31), PartitionRange(1, 0, 1))),
        (((DEAD, 0, 4), (DEAD, 0, 50), (DEAD, 2, 3), (DEAD, 9, 1)), ()),
    ],
)
def test_only_what_may_hold_the_positions_is_read(
    positions: tuple[tuple[str, int, int], ...], expected: tuple[PartitionRange, ...]
) -> None:
    assert narrowed(RANGES, DEAD, positions) == expected


def test_dead_letter_says_when_it_was_redriven_and_how_often_before() -> None:
    found = letter(1, headers=(("dead_letter_redrives", b"2"),))
    shown = (found.content, found.record, NOW_MS)
    assert dead_letter_line(*shown).endswith("(redriven 2027-01-15 08:00:00.000+00:00)")
    lines = dead_letter_lines(*shown)
    assert "redriven     2027-01-15 08:00:00.000+00:00" in lines
    assert "redrives     2 before it failed this time" in lines
    assert dead_letter_json(found.content, found.record)["redrives"] == 2
    never = (letter(1).content, letter(1).record)
    assert not any("redriv" in line for line in (dead_letter_line(*never), *dead_letter_lines(*never)))


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()
