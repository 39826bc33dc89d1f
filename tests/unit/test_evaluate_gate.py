"""Thresholds: what holds, what does not, and what is said about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.pipeline.errors import ConfigError
from headrace.pipeline.evaluate.gate import Gate, judge, load_gate
from headrace.pipeline.evaluate.measures import Interval, Measure, Slice, SliceSize

NIGHT = Slice("header.time", "night")
ZERO = Interval(0.0, 0.0, 0.0)


def measure(
    value: float = 0.9,
    *,
    name: str = "accuracy",
    route: str = "image",
    of: Slice | None = None,
    difference: float | None = -0.02,
    records: int = 100,
    paired: int = 100,
    width: float = 0.05,
) -> Measure:
    def around(middle: float) -> Interval:
        return Interval(middle, middle - width, middle + width)

    baseline = None if difference is None else around(value - difference)
    apart = None if difference is None else around(difference)
    return Measure(name, route, of, records, around(value), baseline, apart, 0.5, 0 if difference is None else paired)


def problems(threshold: dict[str, object], *measures: Measure, slices: Sequence[SliceSize] = ()) -> list[str | None]:
    return [each.problem for each in judge(Gate.model_validate({"thresholds": [threshold]}), measures, slices)]


@pytest.mark.parametrize(
    ("bounds", "problem"),
    [
        ({"min": 0.9}, None),
        ({"min": 0.91}, "0.9 is less than 0.91"),
        ({"max": 0.9}, None),
        ({"max": 0.89}, "0.9 is more than 0.89"),
        ({"max_drop": 0.02}, None),
        ({"max_drop": 0.01}, "-0.02 against the baseline is a drop of more than 0.01"),
        ({"max_rise": 0.0}, None),
        ({"min": 0.86, "judged": "interval"}, "0.9 may be 0.85 by its 95 % interval, which is less than 0.86"),
        (
            {"max_rise": 0.02, "judged": "interval"},
            "-0.02 against the baseline may be 0.03 by its 95 % interval, which is a rise of more than 0.02",
        ),
        ({"min": 0.95, "max_drop": 0.0}, "0.9 is less than 0.95; -0.02 against the baseline is a drop of more than 0"),
    ],
)
def test_measure_is_held_to_each_bound(bounds: dict[str, object], problem: str | None) -> None:
    (found,) = problems({"metric": "accuracy", **bounds}, measure())
    assert (found is None) == (problem is None)
    assert problem is None or (found or "").startswith(problem)


def test_threshold_without_slice_is_for_all_records_alone() -> None:
    assert problems({"metric": "accuracy", "min": 0.8}, measure(0.9), measure(0.1, of=NIGHT)) == [None]


def test_threshold_of_slices_is_for_each_of_them() -> None:
    others = [measure(0.1, of=Slice("source", "night")), measure(0.1)]
    threshold = {"metric": "accuracy", "min": 0.8, "slice": {"by": "header.time"}}
    day = measure(0.9, of=Slice("header.time", "day"))
    found = judge(Gate.model_validate({"thresholds": [threshold]}), [day, measure(0.7, of=NIGHT), *others])
    assert [(each.name, each.problem) for each in found] == [
        ("image/accuracy of header.time=day", None),
        ("image/accuracy of header.time=night", "0.7 is less than 0.8"),
    ]


@pytest.mark.parametrize(
    ("threshold", "problem"),
    [
        ({"metric": "acuracy"}, "; there are accuracy, calibration_error"),
        ({"route": "text"}, " of this route; there is of image"),
        ({"min_records": 101}, " of 101 records or more: there is one of 100 at most"),
        ({"slice": {"by": "source"}}, " of a slice by source with 20 records or more"),
        (
            {"slice": {"by": "header.time", "value": "nihgt"}},
            " of a slice by header.time with 20 records or more; there is of night",
        ),
        ({"metric": "calibration_error", "slice": {"by": "source"}}, " of slices"),
    ],
)
def test_threshold_for_nothing_does_not_hold_and_says_why(threshold: dict[str, object], problem: str) -> None:
    measures = measure(), measure(of=NIGHT), measure(name="calibration_error")
    assert problems({"metric": "accuracy", "min": 0.1, **threshold}, *measures) == [
        f"there is no such measure{problem}"
    ]


def test_difference_is_judged_by_the_records_that_both_sides_have() -> None:
    few, none = measure(paired=1), measure(difference=None)
    drop: dict[str, object] = {"metric": "accuracy", "max_drop": 1}
    assert problems({**drop, "min_records": 2}, few) == [
        "there is no such measure of 2 records or more: both sides have it of 1 at most"
    ]
    assert problems({"metric": "accuracy", "min": 0.5, "min_records": 2}, few) == [None]
    assert problems({**drop, "min_records": 2}, none) == ["there is no baseline to compare it with"]
    sliced = {**drop, "slice": {"by": "header.time"}}
    assert problems(sliced, measure(of=NIGHT), measure(of=Slice("header.time", "day"), paired=19)) == [None]


def test_nothing_may_be_missing_unless_the_gate_says_how_much() -> None:
    missing = measure(0.1, name="missing", route="*")
    assert problems({"metric": "accuracy", "min": 0.5}, measure(), missing) == [None, "0.1 is more than 0"]
    assert problems({"metric": "accuracy", "min": 0.5}, measure(), replace(missing, candidate=ZERO)) == [None, None]
    assert problems({"metric": "missing", "max": 0.2}, measure(), missing) == [None]


@pytest.mark.parametrize(
    ("size", "threshold", "told"),
    [
        (SliceSize(NIGHT, 100, 19, 100), {}, "answers too little of night (19 of 100)"),
        (SliceSize(NIGHT, 100, 20, 100), {}, None),
        (SliceSize(NIGHT, 100, 50, 90), {"min_records": 80}, "answers too little of night (50 of 90)"),
        (SliceSize(NIGHT, 100, 19, 19), {}, None),
        (SliceSize(NIGHT, 100, 100, 100, is_measured=False), {}, "min_records above 100"),
        (SliceSize(NIGHT, 100, 100, 100, is_measured=False), {"min_records": 101}, None),
        (SliceSize(Slice("header.time", "twilight"), 100, 0, 100), {}, None),  # it is judged: by what is of events
        (SliceSize(Slice("source", "night"), 100, 0, 100), {}, None),
        (SliceSize(Slice("header.time", "noon"), 100, 0, 100), {}, None),
    ],
)
def test_slices_that_cannot_be_judged_hold_no_threshold(
    size: SliceSize, threshold: dict[str, object], told: str | None
) -> None:
    asked = {"metric": "accuracy", "min": 0.1, "slice": {"by": "header.time", "value": "*i*"}, **threshold}
    found = problems(asked, measure(of=Slice("header.time", "twilight"), records=200), slices=[size])
    assert found[0] is None
    assert len(found) == (1 if told is None else 2)
    assert told is None or told in (found[1] or "")


def test_drop_without_a_baseline_does_not_hold() -> None:
    assert problems({"metric": "accuracy", "max_drop": 1}, measure(difference=None)) == [
        "there is no baseline to compare it with"
    ]


@pytest.mark.parametrize("bound", ["min", "max"])
def test_what_is_not_a_number_holds_nothing(bound: str) -> None:
    assert problems({"metric": "accuracy", bound: 0.5}, measure(math.nan)) == ["it is not a number"]
    few = measure(0.5, width=math.nan)
    assert problems({"metric": "accuracy", bound: 0.5}, few) == [None]
    assert problems({"metric": "accuracy", bound: 0.5, "judged": "interval"}, few) == [
        "0.5 has no interval: too few records"
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("thresholds: []", "thresholds"),
        ("thresholds: [{metric: accuracy}]", "give at least one of min, max, max_drop and max_rise"),
        ("thresholds: [{metric: accuracy, min: .nan}]", "a bound is not a number"),
        ("thresholds: [{metric: accuracy, min: 0.5, maximum: 1}]", "maximum"),
        ("thresholds: [{metric: accuracy, max_drop: -1}]", "max_drop"),
        (
            "thresholds: [{metric: accuracy, min: 0, slice: {by: soruce}}]",
            "slices by modality, source, .* not by soruce",
        ),
        ("thresholds: [{metric: accuracy, min: 0, slice: {by: header.}}]", "header.NAME"),
        ("- metric: accuracy", "must be a mapping"),
    ],
)
def test_wrong_gate_says_what_is_wrong(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        load_gate(tmp_path / "gate.yaml")
