"""Comparators of the user's own: what they see, what becomes of what they say, and of what they cannot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.pipeline.errors import ConfigError
from headrace.pipeline.evaluate import comparators
from headrace.pipeline.evaluate.analysis import AnalysisRequest
from headrace.pipeline.evaluate.answer import Answer
from headrace.pipeline.evaluate.evaluation import Analysis
from headrace.pipeline.evaluate.measures import Slice
from headrace.pipeline.records import Label, PartOutput, Segment
from tests.unit.evaluate_tables import EVENTS_COUNT, Tables, by_name, labelled, output, tables, tensor, true

__all__ = ["tables"]

OWN = __name__


def same_class(candidate: Answer, baseline: Answer | None, truth: str | None) -> float | None:
    """Only of those that have both."""
    if baseline is None or truth is None:
        return None
    return float(candidate.labels[0].name[0] == baseline.labels[0].name[0] == truth[0])


def two_numbers(candidate: Answer, baseline: Answer | None, truth: str | None) -> Mapping[str, Any]:
    return {"labels": len(candidate.labels), "length": np.float32(candidate.tensors["E"].sum())}


def enormous(candidate: Answer, baseline: Answer | None, truth: str | None) -> float:
    return 1e308


def labels(candidate: Answer, baseline: Answer | None, truth: str | None) -> int:
    return 1


def sees_all(candidate: Answer, baseline: Answer | None, truth: str | None) -> bool:
    assert baseline is not None
    assert (candidate.model, candidate.version, candidate.text, truth) == ("m", "1", "said", None)
    assert candidate.segments == (Segment(0.0, 1.0, "speech"),)
    assert candidate.labels == (Label("a", 0.5),)
    assert candidate.tensors["E"].dtype == np.float32
    assert candidate.tensors["E"].tolist() == [1.0, 2.0]
    assert (candidate.waiting_ms, candidate.inference_ms) == (1.0, 5.0)
    return baseline == baseline and baseline.labels == () and dict(baseline.tensors) == {}


def fails(candidate: Answer, baseline: Answer | None, truth: str | None) -> float:
    return 1 / 0


def says_text(candidate: Answer, baseline: Answer | None, truth: str | None) -> Any:
    return "much"


def agreement(candidate: Answer, baseline: Answer | None, truth: str | None) -> float:
    return 1.0


def names_events(candidate: Answer, baseline: Answer | None, truth: str | None) -> Mapping[str, float]:
    return {f"of {candidate.tensors['E'][1]}": 1.0}


def analysed(tables: Tables, *names: str) -> Analysis:
    def answer(number: int) -> PartOutput:
        return output(number, labels=(Label(true(number), 0.5),), tensors=(tensor([1.0, float(number)]),))

    candidate, baseline = tables.answers("c", answer), tables.answers("b", labelled(lambda _: "c0"), range(100))
    paths = tuple(f"{OWN}:{name}" for name in names)
    request = AnalysisRequest("c", "b", comparators=paths)
    return tables.analyse(candidate, baseline, tables.truths(true), request=request)


def test_numbers_become_measures_and_slices(tables: Tables) -> None:
    found = by_name(analysed(tables, "same_class", "two_numbers"))
    assert (found["same_class", None].records, found["same_class", None].candidate.value) == (100, 1.0)
    assert found["labels", None].records == EVENTS_COUNT
    assert found["length", None].candidate.value == pytest.approx(1 + (EVENTS_COUNT - 1) / 2)
    assert found["length", Slice("source", "/cam/night")].records == 20
    assert found["length", None].baseline is None


def test_answers_are_seen_whole(tables: Tables) -> None:
    def answer(number: int) -> PartOutput:
        return output(
            number,
            labels=(Label("a", 0.5),),
            text="said",
            segments=(Segment(0.0, 1.0, "speech"),),
            tensors=(tensor([1, 2]),),
        )

    request = AnalysisRequest("c", "b", comparators=(f"{OWN}:sees_all",))
    found = by_name(tables.analyse(tables.answers("c", answer), tables.answers("b", output), request=request))
    assert found["sees_all", None].candidate.value == 1.0


def test_numbers_next_to_the_largest_are_told_as_they_are(tables: Tables) -> None:
    """Their sum would be no number any more."""
    found = by_name(analysed(tables, "enormous"))["enormous", None].candidate
    assert (found.low, found.value, found.high) == (1e308, 1e308, 1e308)


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["fails"], r":fails: in:\d:\d+, part p: it failed: ZeroDivisionError: division by zero \(.*, line \d+\)"),
        (["says_text"], r":says_text: in:\d:\d+, part p: it returned 'much', not a number, numbers by name, or None"),
        (["agreement"], r"'agreement' is another measure's name: choose one of your own"),
        (["two_numbers", "labels"], r":labels: 'labels' is a number of .*:two_numbers, too: choose another name"),
        (["names_events"], "more than 100 names of numbers"),
    ],
)
def test_wrong_comparator_is_told(tables: Tables, names: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        analysed(tables, *names)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("no_colon", "write package.module:function"),
        (":name", "write package.module:function"),
        ("no.such:function", "no.such cannot be imported: ModuleNotFoundError"),
        (f"{OWN}:nothing", "has no function nothing"),
        (f"{OWN}:OWN", "has no function OWN"),
    ],
)
def test_path_that_names_no_function_is_refused(path: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        comparators.load_comparator(path)


def test_module_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_comparator.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"broken_comparator cannot be imported: SystemExit: 3 \(.*, line 2\)"):
        comparators.load_comparator("broken_comparator:function")
