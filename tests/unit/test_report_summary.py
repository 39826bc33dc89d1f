"""What a report says of an evaluation, and how it writes numbers and texts."""

from __future__ import annotations

import dataclasses
import math

import pytest

from headrace.pipeline.evaluate.evaluation import Confusion, Evaluation
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
        (9.1e-16, "0"),
        (-9.1e-16, "0"),
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
    assert wording.signed(0.0) == wording.signed(9.1e-16) == "0"
    assert wording.signed_count(-1200) == "−1,200"
    assert wording.interval(interval(0.5, 0.1)) == "0.400 to 0.600"
    assert wording.interval(Interval(0.5, math.nan, math.nan)) == "–"
    assert wording.signed_interval(interval(0.0, 0.1)) == "−0.100 to +0.100"
    assert [wording.p_value(each) for each in (0.0004, 0.0123, 1.0, None)] == ["< 0.001", "0.012", "1.000", "–"]


@pytest.mark.parametrize(
    ("told", "written"),
    [
        ("-0.19 (-.2 to -inf) is less than -1", "−0.19 (−.2 to −inf) is less than −1"),
        ("1.5e-05 is less than 2e-5", "1.5e−05 is less than 2e−5"),
        ("2e-5; -3, 1e+06 or 7", "2e−5; −3, 1e+06 or 7"),
        ("/cam/-5 (3 of 40), since 2026-11-27, of cam-7, --7 and -x", None),
        ("3b241101-962e-4255-8e-04-4136c566a962", None),
    ],
)
def test_numbers_in_sentences_have_a_minus_sign(told: str, written: str | None) -> None:
    assert wording.with_minus(told) == (told if written is None else written)


def test_text_is_cut_and_shows_what_cannot_be_seen() -> None:
    assert wording.visible("a" * 10, 5) == "aaaa…"
    assert wording.visible("line\nnext\tcell") == "line\nnext\tcell"
    assert wording.visible("a\x00b\u202ec\u2066d\ud800") == "a�b�c�d�"
    assert wording.visible("日本語 👩\u200d🔬") == "日本語 👩\u200d🔬"


def answered(evaluation: Evaluation, dead_letters: int, missing: int) -> Evaluation:
    """All but so many events, by the candidate."""
    side = dataclasses.replace(evaluation.analysis.candidate, dead_letters=dead_letters, missing=missing)
    return dataclasses.replace(evaluation, analysis=dataclasses.replace(evaluation.analysis, candidate=side))


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


def test_trend_is_clear_only_if_the_test_agrees() -> None:
    clear = measure("accuracy", "image", 0.5, 0.1)
    assert summary.trend(dataclasses.replace(clear, p_value=0.05)) is Trend.UNCLEAR
    assert summary.trend(dataclasses.replace(clear, p_value=math.nan)) is Trend.UNCLEAR
    assert summary.trend(dataclasses.replace(clear, p_value=0.049)) is Trend.WORSE
    assert summary.trend(dataclasses.replace(clear, p_value=None)) is Trend.WORSE


def test_trend_of_too_few_records_is_not_clear() -> None:
    assert summary.trend(measure("accuracy", "image", 0.5, 0.4, width=math.nan)) is Trend.UNCLEAR


def test_verdict_names_why() -> None:
    failed = full()
    assert summary.verdict(failed) is Verdict.FAIL
    assert summary.reason(answered(failed, 0, 0)) == "2 of 18 checks do not hold."
    passed = dataclasses.replace(answered(failed, 0, 0), checks=summary.passed_checks(failed.checks))
    assert (summary.verdict(passed), summary.reason(passed)) == (Verdict.PASS, "All 16 checks hold.")
    single = dataclasses.replace(passed, checks=summary.failed_checks(failed.checks)[:1])
    assert summary.reason(single) == "1 of 1 check does not hold."
    assert (summary.verdict(bare()), summary.reason(bare())) == (
        Verdict.NONE,
        "No thresholds were given, so nothing is judged.",
    )


@pytest.mark.parametrize(
    ("dead_letters", "missing", "told"),
    [
        (200, 1800, "200 dead letters (the baseline 33) and 1,800 missing (the baseline 0)"),
        (1, 0, "1 dead letter (the baseline 33)"),
        (0, 1, "1 missing (the baseline 0)"),
    ],
)
def test_verdict_names_what_has_no_answer(dead_letters: int, missing: int, told: str) -> None:
    found = answered(full(), dead_letters, missing)
    unanswered = f"of 2,000 events the candidate has {told}."
    assert summary.reason(found) == f"2 of 18 checks do not hold; {unanswered}"
    passed = dataclasses.replace(found, checks=summary.passed_checks(found.checks))
    assert summary.reason(passed) == f"All 16 checks hold, but {unanswered}"
    alone = dataclasses.replace(found, analysis=dataclasses.replace(found.analysis, baseline=None), gate=None)
    assert "the baseline" not in summary.reason(alone)
    assert summary.reason(alone).startswith("No thresholds were given, so nothing is judged; of 2,000 events the ")


def test_warnings_are_of_what_makes_numbers_say_less() -> None:
    assert summary.warnings(full()) == []
    found = answered(full(), 31, 3)
    rose = measure("failed", "*", 0.1, -0.1, records=2000)
    side = dataclasses.replace(found.analysis.candidate, duplicates=1)
    analysis = dataclasses.replace(found.analysis, measures=(rose,), candidate=side, labels_left_out=2)
    assert summary.warnings(dataclasses.replace(found, analysis=analysis)) == [
        "1 outcome of the candidate beyond the first: exactly-once is broken.",
        "The candidate has neither all answers nor a dead letter of 3 events: the numbers leave out what is missing.",
        "Dead letters clearly rose, and the numbers of answers leave them out.",
        "2 labels of events of several parts left out: it takes the part’s name to know whose it is.",
    ]


def test_changes_of_answers_are_told_apart_from_those_of_speed() -> None:
    measures = full().analysis.measures
    assert (
        summary.changes(measures, timing=False) == "2 measures clearly worse, 1 clearly changed, 2 without clear change"
    )
    assert summary.changes(measures, timing=True) == "8 measures clearly better, 8 without clear change"
    assert summary.changes((measure("agreement", "image", 0.9),), timing=False) == ""
    assert [each.name for each in summary.clearly_worse(measures)] == ["accuracy", "calibration_error"]


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


def test_slice_whose_number_is_none_is_the_worst() -> None:
    measures = [measure("max_abs.OUT", "text", each, by="source", of=str(each)) for each in (0.1, math.nan, 0.2)]
    measures.append(measure("max_abs.OUT", "text", math.nan))
    assert next(each.slice.value for each in summary.worst_slices(measures) if each.slice) == "nan"


def test_slice_without_a_baseline_is_held_against_its_route() -> None:
    measures = [
        measure("agreement", "image", 0.9),
        measure("agreement", "image", 0.95, by="source", of="good"),
        measure("agreement", "image", 0.5, by="source", of="bad"),
    ]
    assert [each.slice.value for each in summary.worst_slices(measures) if each.slice] == ["bad", "good"]


def test_telling_measure_is_the_best_of_each_route_and_the_worst_goes_first() -> None:
    found = [(each.route, each.name) for each in summary.telling(full().analysis.measures)]
    assert found == [
        ("image", "accuracy"),
        ("speech", "text_agreement"),
        ("audio", "segments_overlap"),
        ("text", "cosine.EMBEDDING"),
    ]


def test_flips_are_what_is_off_the_diagonal() -> None:
    confusion = Confusion("image", "baseline", ("a", "b", "(other)"), ((9, 1, 0), (3, 9, 1), (0, 0, 9)))
    assert summary.flips(confusion) == [Flip("b", "a", 3), Flip("a", "b", 1), Flip("b", "(other)", 1)]


def test_bounds_of_a_threshold_are_written() -> None:
    threshold = Threshold.model_validate({"metric": "accuracy", "min": 0.9, "max_drop": 0.02, "judged": "interval"})
    assert summary.bounds(threshold) == "≥ 0.9, drop ≤ 0.02, whole interval"
    assert summary.bounds(Threshold.model_validate({"metric": "cosine.*", "min": -0.5})) == "≥ −0.5"
