"""What a report says of an evaluation, and how it writes numbers and texts."""

from __future__ import annotations

import dataclasses
import math

import pytest

from headrace.pipeline.evaluate.evaluation import Confusion
from headrace.pipeline.evaluate.gate import Threshold
from headrace.pipeline.evaluate.measures import Interval
from headrace.pipeline.evaluate.report import summary, wording
from headrace.pipeline.evaluate.report.summary import Flip, Trend, Verdict
from tests.unit.report_bench import bare, full, interval, measure


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1.00"),
        (0.91234, "0.912"),
        (0.99812, "0.9981"),
        (-0.0312, "−0.031"),
        (0.00012, "0.00012"),
        (-0.000012, "−1.2e−05"),
        (12.34, "12.3"),
        (1234.5, "1,234"),
        (math.nan, "–"),
        (-math.inf, "−∞"),
    ],
)
def test_number_is_written_short(value: float, written: str) -> None:
    assert wording.number(value) == written


def test_differences_and_intervals_are_written() -> None:
    assert wording.signed(0.01) == "+0.010"
    assert wording.signed(-0.01) == "−0.010"
    assert wording.signed(0.0) == "0"
    assert wording.signed_count(-1200) == "−1,200"
    assert wording.interval(interval(0.5, 0.1)) == "0.400 to 0.600"
    assert wording.interval(Interval(0.5, math.nan, math.nan)) == "–"
    assert wording.signed_interval(interval(0.0, 0.1)) == "−0.100 to +0.100"
    assert [wording.p_value(each) for each in (0.0004, 0.0123, 1.0, None)] == ["< 0.001", "0.012", "1.000", "–"]


def test_text_is_cut_and_shows_what_cannot_be_seen() -> None:
    assert wording.visible("a" * 10, 5) == "aaaa…"
    assert wording.visible("line\nnext\tcell") == "line\nnext\tcell"
    assert wording.visible("a\x00b\u202ec\u2066d\ud800") == "a�b�c�d�"
    assert wording.visible("日本語 👩\u200d🔬") == "日本語 👩\u200d🔬"


@pytest.mark.parametrize(
    ("name", "drop", "trend"),
    [
        ("accuracy", 0.1, Trend.WORSE),
        ("accuracy", -0.1, Trend.BETTER),
        ("accuracy", 0.005, Trend.UNCLEAR),
        ("failed", -0.1, Trend.WORSE),
        ("inference_ms.p99", 0.1, Trend.BETTER),
        ("score", 0.1, Trend.CHANGED),
        ("mentions.brand", -0.1, Trend.CHANGED),
        ("accuracy", None, None),
    ],
)
def test_trend_is_clear_only_beyond_the_interval(name: str, drop: float | None, trend: Trend | None) -> None:
    assert summary.trend(measure(name, "image", 0.5, drop)) is trend


def test_trend_of_too_few_records_is_not_clear() -> None:
    assert summary.trend(measure("accuracy", "image", 0.5, 0.4, width=math.nan)) is Trend.UNCLEAR


def test_verdict_names_why() -> None:
    failed = full()
    assert summary.verdict(failed) is Verdict.FAIL
    assert summary.reason(failed) == "2 of 18 checks do not hold"
    passed = dataclasses.replace(failed, checks=summary.passed_checks(failed.checks))
    assert (summary.verdict(passed), summary.reason(passed)) == (Verdict.PASS, "All 16 checks hold.")
    single = dataclasses.replace(failed, checks=summary.failed_checks(failed.checks)[:1])
    assert summary.reason(single) == "1 of 1 check does not hold"
    assert summary.verdict(bare()) is Verdict.NONE


def test_worst_slice_is_first() -> None:
    measures = [
        measure("inference_ms", "image", 90.0, -80.0, by="source", of="slow"),
        measure("accuracy", "image", 0.8),
        measure("accuracy", "image", 0.9, -0.1, by="source", of="better"),
        measure("accuracy", "image", 0.6, 0.3, by="source", of="chance", width=0.5),
        measure("accuracy", "image", 0.5, 0.4, by="time", of="2026-11-27T09:00:00Z"),
        measure("accuracy", "image", 0.7, 0.1, by="source", of="worse"),
        measure("accuracy", "image", 0.6, 0.2, by="source", of="worst"),
    ]
    found = [each.slice.value for each in summary.worst_slices(measures) if each.slice]
    assert found == ["worst", "worse", "chance", "better", "slow"]


def test_slice_without_a_baseline_is_held_against_its_route() -> None:
    measures = [
        measure("agreement", "image", 0.9),
        measure("agreement", "image", 0.95, by="source", of="good"),
        measure("agreement", "image", 0.5, by="source", of="bad"),
    ]
    assert [each.slice.value for each in summary.worst_slices(measures) if each.slice] == ["bad", "good"]


def test_telling_measure_is_the_best_of_each_route() -> None:
    found = [(each.route, each.name) for each in summary.telling(full().analysis.measures)]
    assert found == [
        ("audio", "segments_overlap"),
        ("image", "accuracy"),
        ("speech", "text_agreement"),
        ("text", "cosine.EMBEDDING"),
    ]


def test_flips_are_what_is_off_the_diagonal() -> None:
    confusion = Confusion("image", "baseline", ("a", "b", "(other)"), ((9, 1, 0), (3, 9, 1), (0, 0, 9)))
    assert summary.flips(confusion) == [Flip("b", "a", 3), Flip("a", "b", 1), Flip("b", "(other)", 1)]


def test_bounds_of_a_threshold_are_written() -> None:
    threshold = Threshold.model_validate({"metric": "accuracy", "min": 0.9, "max_drop": 0.02, "judged": "interval"})
    assert summary.bounds(threshold) == "≥ 0.9, drop ≤ 0.02, whole interval"
