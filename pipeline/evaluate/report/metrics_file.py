"""An evaluation as JSON, for programs: the same range and the same model give the same file, outside its timings."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from headrace.pipeline.evaluate.evaluation import Case, Evaluation, Side
from headrace.pipeline.evaluate.gate import Check
from headrace.pipeline.evaluate.report.summary import is_timing

FORMAT = 1
"""Changes when a reader of the former could misread it."""


def metrics_json(evaluation: Evaluation) -> str:
    """All of the analysis but what the examples hold, with sorted names; what is not a number is null.

    What differs from one evaluation to the next of the same answers is under ``timings``: titles, when it was made,
    measures of time and what depends on them. So ``gate.passed`` is of the checks beside it; ``timings.passed`` is of
    all, and null without a gate.
    """
    analysis = evaluation.analysis
    written = {
        "format": FORMAT,
        "topic": evaluation.topic,
        "ranges": evaluation.ranges,
        "filters": evaluation.filters,
        "labels": evaluation.labels,
        "settings_sha256": evaluation.settings_sha256,
        "git_revision": evaluation.git_revision,
        "events": analysis.events,
        "labels_left_out": analysis.labels_left_out,
        "candidate": _side(analysis.candidate),
        "baseline": analysis.baseline and _side(analysis.baseline),
        "measures": _where(analysis.measures, _measured, timing=False),
        "slices": analysis.slices,
        "histograms": _where(analysis.histograms, _measured, timing=False),
        "calibrations": analysis.calibrations,
        "confusions": analysis.confusions,
        "failures": analysis.failures,
        "worst": [_case(each) for each in _where(analysis.worst, _case_metric, timing=False)],
        "gate": _gate(evaluation),
        "timings": {
            "candidate": analysis.candidate.title,
            "baseline": analysis.baseline and analysis.baseline.title,
            "created_ms": evaluation.created_ms,
            "seconds": evaluation.seconds,
            "measures": _where(analysis.measures, _measured, timing=True),
            "histograms": _where(analysis.histograms, _measured, timing=True),
            "worst": [_case(each) for each in _where(analysis.worst, _case_metric, timing=True)],
            "checks": [_check(each) for each in _where(evaluation.checks, _check_metric, timing=True)],
            "passed": evaluation.passed,
        },
    }
    return json.dumps(_plain(written), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _where(items: Iterable[Any], metric: Callable[[Any], str], *, timing: bool) -> list[Any]:
    return [each for each in items if is_timing(metric(each)) == timing]


def _measured(each: Any) -> str:
    return str(each.name)


def _case_metric(case: Case) -> str:
    return case.metric


def _check_metric(check: Check) -> str:
    return check.threshold.metric if check.measure is None else check.measure.name


def _side(side: Side) -> dict[str, Any]:
    return {field.name: getattr(side, field.name) for field in fields(side) if field.name != "title"}


def _case(case: Case) -> dict[str, Any]:
    told = {field.name: getattr(case, field.name) for field in fields(case) if field.name != "example"}
    shown = case.example
    return {**told, "example": shown and {"media_type": shown.media_type, "caption": shown.caption}}


def _gate(evaluation: Evaluation) -> dict[str, Any] | None:
    if evaluation.gate is None:
        return None
    checks = _where(evaluation.checks, _check_metric, timing=False)
    return {
        "file": evaluation.gate,
        "checks": [_check(each) for each in checks],
        "passed": all(check.problem is None for check in checks),
    }


def _check(check: Check) -> dict[str, Any]:
    threshold = check.threshold.model_dump(mode="json", exclude_none=True)
    return {"name": check.name, "threshold": threshold, "measure": check.measure, "problem": check.problem}


def _plain(value: Any) -> Any:
    """In JSON's own types."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
