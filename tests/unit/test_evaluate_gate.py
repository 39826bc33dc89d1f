"""Thresholds: what holds, what does not, and what is said about it."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from headrace.pipeline.errors import ConfigError
from headrace.pipeline.evaluate.gate import Gate, judge, load_gate
from headrace.pipeline.evaluate.junit import junit_xml
from headrace.pipeline.evaluate.measures import Interval, Measure, Slice

NIGHT = Slice("header.time", "night")


def measure(
    value: float = 0.9,
    *,
    name: str = "accuracy",
    route: str = "image",
    of: Slice | None = None,
    difference: float | None = -0.02,
    records: int = 100,
    width: float = 0.05,
) -> Measure:
    def around(middle: float) -> Interval:
        return Interval(middle, middle - width, middle + width)

    baseline = None if difference is None else around(value - difference)
    return Measure(
        name, route, of, records, around(value), baseline, None if difference is None else around(difference), 0.5
    )


def problems(threshold: dict[str, object], *measures: Measure) -> list[str | None]:
    return [each.problem for each in judge(Gate.model_validate({"thresholds": [threshold]}), measures)]


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
        ({"min": 0.86, "judged": "interval"}, "0.9 (0.85 to 0.95) is less than 0.86"),
        ({"max_rise": 0.02, "judged": "interval"}, "-0.02 (-0.07 to 0.03) against the baseline is a rise of more than"),
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
    "threshold",
    [
        {"metric": "acuracy", "min": 0.1},
        {"metric": "accuracy", "route": "text", "min": 0.1},
        {"metric": "accuracy", "min": 0.1, "min_records": 101},
        {"metric": "accuracy", "min": 0.1, "slice": {"by": "source"}},
    ],
)
def test_threshold_for_nothing_does_not_hold(threshold: dict[str, object]) -> None:
    (problem,) = problems(threshold, measure(), measure(of=NIGHT))
    assert "there is no such measure" in (problem or "")


def test_drop_without_a_baseline_does_not_hold() -> None:
    assert problems({"metric": "accuracy", "max_drop": 1}, measure(difference=None)) == [
        "there is no baseline to compare it with"
    ]


@pytest.mark.parametrize("bound", ["min", "max"])
def test_what_is_not_a_number_holds_nothing(bound: str) -> None:
    assert problems({"metric": "accuracy", bound: 0.5}, measure(math.nan)) != [None]
    few = measure(0.5, width=math.nan)
    assert problems({"metric": "accuracy", bound: 0.5}, few) == [None]
    assert problems({"metric": "accuracy", bound: 0.5, "judged": "interval"}, few) != [None]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("thresholds: []", "thresholds"),
        ("thresholds: [{metric: accuracy}]", "give at least one of min, max, max_drop and max_rise"),
        ("thresholds: [{metric: accuracy, min: .nan}]", "a bound is not a number"),
        ("thresholds: [{metric: accuracy, min: 0.5, maximum: 1}]", "maximum"),
        ("thresholds: [{metric: accuracy, max_drop: -1}]", "max_drop"),
        ("- metric: accuracy", "must be a mapping"),
    ],
)
def test_wrong_gate_says_what_is_wrong(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        load_gate(tmp_path / "gate.yaml")


def test_junit_has_a_case_a_check_and_the_reason_of_each_failure() -> None:
    thresholds = [{"metric": "accuracy", "min": 0.8}, {"metric": "accuracy", "min": 0.8, "slice": {"by": "source"}}]
    strange = measure(0.5, of=Slice("source", "a<&\x00b\ud800"))
    xml = junit_xml(judge(Gate.model_validate({"thresholds": thresholds}), [measure(), strange]), "image v2")
    root = Xml.fromstring(xml)
    assert root.attrib == {"tests": "2", "failures": "1", "errors": "0", "skipped": "0"}
    assert [case.attrib["name"] for case in root.iter("testcase")] == [
        "image/accuracy",
        "image/accuracy of source=a<&\ufffdb\ufffd",
    ]
    assert [each.text for each in root.iter("failure")] == ["0.5 is less than 0.8"]
