"""The metrics file: all there is, and the same for the same answers outside its timings."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.evaluate.evaluation import Evaluation, Histogram
from headrace.pipeline.evaluate.gate import Gate, judge
from headrace.pipeline.evaluate.measures import Interval, Measure
from headrace.pipeline.evaluate.report import metrics_json
from headrace.pipeline.evaluate.report.summary import is_timing
from tests.unit.report_bench import THRESHOLDS, bare, full, measure, with_text


def read(evaluation: Evaluation) -> dict[str, Any]:
    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not JSON")

    found = json.loads(metrics_json(evaluation), parse_constant=refuse)
    assert isinstance(found, dict)
    return found


def made_again(evaluation: Evaluation) -> Evaluation:
    """The same range answered by the same model: later, slower, and under another run's name."""
    analysis = evaluation.analysis
    assert analysis.baseline is not None

    def slower(found: Measure | Histogram) -> Any:
        if not is_timing(found.name):
            return found
        if isinstance(found, Measure):
            value = found.candidate.value * 9
            return dataclasses.replace(found, candidate=Interval(value, value, value), p_value=0.5)
        return dataclasses.replace(found, candidate=found.candidate[::-1])

    measures = tuple(slower(each) for each in analysis.measures)
    return dataclasses.replace(
        evaluation,
        analysis=dataclasses.replace(
            analysis,
            measures=measures,
            histograms=tuple(slower(each) for each in analysis.histograms),
            candidate=dataclasses.replace(analysis.candidate, title="run 20270101-000000-image-jpeg-v2"),
            baseline=dataclasses.replace(analysis.baseline, title="run 20270102-000000"),
        ),
        checks=judge(Gate.model_validate({"thresholds": [*THRESHOLDS, LATENCY]}), measures),
        created_ms=evaluation.created_ms + 86_400_000,
        seconds=99.0,
    )


LATENCY = {"metric": "inference_ms", "route": "image", "max": 60}


def test_same_answers_give_the_same_bytes_outside_the_timings() -> None:
    first = full()
    gate = Gate.model_validate({"thresholds": [*THRESHOLDS, LATENCY]})
    first = dataclasses.replace(first, checks=judge(gate, first.analysis.measures))
    one, other = read(first), read(made_again(first))
    timings = one.pop("timings"), other.pop("timings")
    assert json.dumps(one) == json.dumps(other)
    assert timings[0] != timings[1]
    assert {problem for each in timings for check in each["checks"] if (problem := check["problem"])} == {
        "192.6 is more than 60"
    }


def test_same_evaluation_gives_the_same_file() -> None:
    assert metrics_json(full()) == metrics_json(full())


def test_file_has_all_of_the_analysis_but_bytes() -> None:
    whole = full()
    found = read(whole)
    analysis, timings = whole.analysis, found["timings"]
    assert found["format"] == 1
    assert len(found["measures"]) + len(timings["measures"]) == len(analysis.measures)
    assert len(found["histograms"]) + len(timings["histograms"]) == len(analysis.histograms)
    assert {each["name"].split(".")[0] for each in timings["measures"]} == {"inference_ms", "waiting_ms", "cost_ms"}
    assert found["measures"][0] == {
        "name": "accuracy",
        "route": "image",
        "slice": None,
        "records": 680,
        "candidate": {"value": 0.871, "low": 0.859, "high": 0.883},
        "baseline": {"value": 0.902, "low": 0.89, "high": 0.914},
        "difference": {"value": -0.031, "low": -0.043, "high": -0.019},
        "p_value": analysis.measures[0].p_value,
        "paired": 680,
    }
    assert found["worst"][0]["example"] == {"media_type": "image/jpeg", "caption": "image 320 × 240"}
    assert found["worst"][0]["at"] == {"topic": "inference.requests", "partition": 6, "offset": 118}
    assert found["candidate"] == {
        "models": list(analysis.candidate.models),
        "results": 1969,
        "dead_letters": 31,
        "missing": 0,
        "duplicates": 0,
    }


def test_gate_is_told_by_check() -> None:
    found = read(full())
    gate, timings = found["gate"], found["timings"]
    assert (gate["file"], gate["passed"], timings["passed"]) == ("gate.yaml", False, False)
    assert len(gate["checks"]) + len(timings["checks"]) == len(full().checks)
    assert gate["checks"][0]["name"] == "image/accuracy"
    assert gate["checks"][0]["threshold"] == {
        "metric": "accuracy",
        "route": "image",
        "max_drop": 0.02,
        "judged": "interval",
        "min_records": 1,
    }


def test_what_is_not_a_number_is_null() -> None:
    few = measure("accuracy", "image", 0.5, 0.1, width=math.nan)
    whole = dataclasses.replace(bare(), analysis=dataclasses.replace(bare().analysis, measures=(few,)))
    (told,) = read(whole)["measures"]
    assert told["candidate"] == {"value": 0.5, "low": None, "high": None}
    assert told["p_value"] is None


def test_file_of_nothing_has_every_name() -> None:
    nothing = read(bare())
    assert nothing.keys() == read(full()).keys()
    assert nothing["timings"].keys() == read(full())["timings"].keys()
    assert (nothing["gate"], nothing["baseline"], nothing["timings"]["passed"]) == (None, None, None)


@given(st.text(max_size=60))
def test_file_keeps_what_events_say(text: str) -> None:
    found = read(with_text(text))
    assert found["failures"] == [{"stage": text, "code": text, "candidate": 1, "baseline": 0}]
