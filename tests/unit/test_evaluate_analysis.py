"""What became of each event, and all else that is found in the tables of a comparison."""

from __future__ import annotations

import itertools
import math

import pytest

from headrace.pipeline.evaluate.analysis import MAX_CASES
from headrace.pipeline.evaluate.calibration import calibrations
from headrace.pipeline.evaluate.confusion import confusions
from headrace.pipeline.evaluate.evaluation import Confusion, FailureCount, Position
from headrace.pipeline.evaluate.histograms import histograms
from headrace.pipeline.evaluate.measures import Slice
from headrace.pipeline.evaluate.store import ANSWERS, TableWriter, write_result
from headrace.pipeline.evaluate.worst import worst_cases
from headrace.pipeline.records import InferenceResult, Label, PartOutput, Segment, Timings
from tests.unit.evaluate_tables import EVENTS_COUNT, Answer, Tables, at, by_name, labelled, output, tables, tensor, true

__all__ = ["tables"]


def test_sides_count_what_became_of_each_event(tables: Tables) -> None:
    """Three of the candidate's are refused and one is missing; of the baseline's refused ones one was redriven."""
    candidate = tables.answers("c", labelled(true), range(4, EVENTS_COUNT))
    baseline = tables.answers("b", labelled(true), range(2, EVENTS_COUNT))
    letters = tables.failures("cf", [(0, "TOO_LATE"), (1, "TOO_LATE"), (3, "TOO_LATE")])
    live = tables.failures("bf", [(0, "OTHER"), (0, "BROKEN"), (2, "REDRIVEN")])
    found = tables.analyse(candidate, baseline, failures=(letters, live))
    assert found.events == EVENTS_COUNT
    mine, theirs = found.candidate, found.baseline
    assert (mine.title, mine.models) == ("candidate", ("image: m:1",))
    assert (mine.results, mine.dead_letters, mine.missing, mine.duplicates) == (EVENTS_COUNT - 4, 3, 1, 0)
    assert theirs is not None
    assert (theirs.results, theirs.dead_letters, theirs.missing, theirs.duplicates) == (EVENTS_COUNT - 2, 1, 1, 0)
    assert found.failures == (FailureCount("infer", "TOO_LATE", 3, 0), FailureCount("infer", "BROKEN", 0, 1))
    failed = by_name(found)["failed", None]
    assert (failed.route, failed.records) == ("*", EVENTS_COUNT - 1)
    assert failed.candidate.value == pytest.approx(3 / (EVENTS_COUNT - 1))
    assert failed.difference is not None
    assert failed.difference.value == pytest.approx(1 / (EVENTS_COUNT - 2))
    assert by_name(found)["failed", Slice("source", "/cam/day")].records == EVENTS_COUNT - 21


def test_answers_beyond_the_first_are_counted_and_not_compared(tables: Tables) -> None:
    """Second answers of two events are wrong, and one has a third; beside the answer of another is a dead letter."""
    with TableWriter(tables.folder / "c", ANSWERS) as table:
        for place, number in enumerate((*range(EVENTS_COUNT), 5, 6, 6)):
            label = true(number) if place < EVENTS_COUNT else "again"
            outputs = (output(number, labels=(Label(label, 0.5),)),)
            write_result(table, InferenceResult("", "OK", outputs, at(number), Timings(0, 0, 0), 1, "w", 0))
    found = tables.analyse(
        tables.folder / "c",
        tables.answers("b", labelled(true), itertools.chain(range(EVENTS_COUNT), range(3))),
        tables.truths(true),
        failures=(tables.failures("cf", [(9, "X")]), tables.failures("bf", [(9, "X")])),
    )
    accuracy = by_name(found)["accuracy", None]
    assert (accuracy.records, accuracy.candidate.value) == (EVENTS_COUNT, 1.0)
    assert found.candidate.duplicates == 4
    assert found.baseline is not None
    assert found.baseline.duplicates == 3
    assert found.baseline.results == EVENTS_COUNT


def test_confusion_counts_labels_and_puts_the_rare_together(tables: Tables) -> None:
    candidate = tables.answers("c", labelled(lambda number: f"rare-{number}" if number < 30 else true(number)))
    with tables.compared(candidate, tables.answers("b", labelled(lambda _: "c1")), tables.truths(true)) as comparison:
        truth, baseline = confusions(comparison)
    assert (truth.route, truth.against, baseline.against) == ("image", "truth", "baseline")
    assert truth.labels[:3] == ("c0", "c1", "c2")
    assert (len(truth.labels), truth.labels[-1]) == (21, "(other)")
    assert [sum(row) for row in truth.counts[:3]] == [67, 67, 66]
    assert truth.counts[0][0] == 57
    assert sum(truth.counts[0][3:]) == 10
    assert sum(map(sum, truth.counts)) == sum(map(sum, baseline.counts)) == EVENTS_COUNT
    assert sum(baseline.counts[baseline.labels.index("c1")]) == EVENTS_COUNT


def test_confusion_of_few_labels_is_whole(tables: Tables) -> None:
    candidate, truths = tables.answers("c", labelled(lambda _: "a")), tables.truths(lambda _: "b")
    with tables.compared(candidate, None, truths) as comparison:
        (found,) = confusions(comparison)
    assert found == Confusion("image", "truth", ("a", "b"), ((0, 0), (EVENTS_COUNT, 0)))


def test_calibration_is_of_scores_and_what_was_right(tables: Tables) -> None:
    """The candidate says 0.95 and is right in half; the baseline says 0.55, and 0.45 of the others."""

    def half_right(number: int) -> str:
        return true(number) if number % 2 else "wrong"

    candidate = tables.answers("c", labelled(half_right, 0.95))
    baseline = tables.answers("b", labelled(half_right, lambda number: 0.55 if number % 4 < 2 else 0.45))
    found = tables.analyse(candidate, baseline, tables.truths(true))
    mine, theirs = found.calibrations
    assert (mine.route, mine.side, theirs.side) == ("image", "candidate", "baseline")
    assert [(each.score, each.accuracy, each.records) for each in mine.bins] == [(0.95, 0.5, EVENTS_COUNT)]
    assert mine.error == pytest.approx(0.45)
    assert [each.records for each in theirs.bins] == [100, 100]
    assert theirs.error == pytest.approx(0.05)
    error = by_name(found)["calibration_error", None]
    assert (error.candidate.value, error.records) == (mine.error, EVENTS_COUNT)
    assert error.candidate.low < error.candidate.value < error.candidate.high
    assert error.difference is not None
    assert error.difference.value == pytest.approx(0.4)


def test_calibration_is_compared_where_both_sides_tell_it(tables: Tables) -> None:
    """The baseline answers a part of the events, and has a label in a part of those."""

    def of_baseline(number: int) -> PartOutput:
        return output(number) if number >= 100 else output(number, labels=(Label("wrong", 0.9),))

    candidate = labelled(lambda number: "wrong" if number < 100 else true(number), 1 + 5e-7)  # as 16 bits round it
    baseline = tables.answers("b", of_baseline, range(50, 150))
    with tables.compared(tables.answers("c", candidate), baseline, tables.truths(true)) as comparison:
        _, (error,) = calibrations(comparison)
    assert error.name == "calibration_error"
    assert (error.records, error.paired) == (EVENTS_COUNT, 50)
    assert error.candidate.value == pytest.approx(0.5)
    assert error.baseline is not None
    assert error.baseline.value == pytest.approx(0.9)
    assert error.difference is not None
    assert error.difference.value == pytest.approx(0.1)


def test_scores_that_are_no_probabilities_have_no_calibration(tables: Tables) -> None:
    candidate = tables.answers("c", labelled(true, lambda number: number / 50))
    with tables.compared(candidate, None, tables.truths(true)) as comparison:
        assert calibrations(comparison) == ([], [])
        (score,) = (each for each in histograms(comparison) if each.name == "score")
    assert (score.edges[0], sum(score.candidate)) == (0.0, EVENTS_COUNT)
    assert score.edges[-1] > 3.9


def test_histograms_have_all_numbers_and_tell_drift(tables: Tables) -> None:
    def timed(factor: float) -> Timings:
        return Timings(0, 1.0, factor)

    candidate = tables.answers("c", labelled(true, lambda n: n / 400), timings=lambda n: timed(1.05**n))
    baseline = tables.answers("b", labelled(true, lambda n: 0.5 + n / 400), timings=lambda n: timed(2.0))
    with tables.compared(candidate, baseline) as comparison:
        found = {each.name: each for each in histograms(comparison)}
    score = found["score"]
    assert (score.edges[0], score.edges[-1], len(score.edges)) == (0.0, 1.0, len(score.candidate) + 1)
    assert sum(score.candidate[:20]) == sum(score.baseline or ()) == EVENTS_COUNT
    assert score.drift == 1.0
    times = found["inference_ms"]
    assert times.edges[1] / times.edges[0] == pytest.approx(times.edges[-1] / times.edges[-2])
    assert sum(times.candidate) == sum(times.baseline or ()) == EVENTS_COUNT
    same = found["waiting_ms"]
    assert same.drift == 0.0
    assert all(low < high for each in found.values() for low, high in itertools.pairwise(each.edges))


def test_histogram_of_both_together_has_no_baseline(tables: Tables) -> None:
    def near(number: int) -> PartOutput:
        return output(number, tensors=(tensor([1.0, 0.001 * number]),))

    candidate, baseline = tables.answers("c", near), tables.answers("b", lambda n: output(n, tensors=(tensor([1, 0]),)))
    with tables.compared(candidate, baseline) as comparison:
        cosine = next(each for each in histograms(comparison) if each.name == "cosine.E")
    assert cosine.baseline is None
    assert cosine.drift is None
    assert cosine.edges[0] == pytest.approx(0.9)
    assert (cosine.edges[-1], sum(cosine.candidate)) == (1.0, EVENTS_COUNT)


def test_worst_cases_are_regressions_first_then_what_differs(tables: Tables) -> None:
    """Of the wrong ones the surest first; where both are wrong nothing got worse, but it differs."""

    def candidate(number: int) -> str:
        return "wrong" if number in (3, 4, 5, 6) else true(number)

    def baseline(number: int) -> str:
        return "other" if number in (6, 7) else true(number)

    answers = tables.answers("c", labelled(candidate, lambda number: 0.5 + number / 1000))
    with tables.compared(answers, tables.answers("b", labelled(baseline, 0.7)), tables.truths(true)) as comparison:
        found = worst_cases(comparison, MAX_CASES)
    assert [(each.metric, each.at) for each in found] == [
        ("accuracy", Position("in", 1, 1)),
        ("accuracy", Position("in", 0, 1)),
        ("accuracy", Position("in", 3, 0)),
        ("agreement", Position("in", 2, 1)),
    ]
    first = found[0]
    assert (first.part, first.route, first.value, first.source, first.event_type) == (
        "p",
        "image",
        0.0,
        "/cam/day",
        "t",
    )
    assert (first.truth, first.candidate, first.baseline) == ("c2", "wrong 0.51, other 0.10", "c2 0.70, other 0.10")


def several_routes(number: int, shift: float) -> PartOutput:
    """Vectors, texts and segments, a third of the events each."""
    match number % 3:
        case 0:
            return PartOutput("p", "vector", "m", "1", tensors=(tensor([1.0, shift * number]),))
        case 1:
            return PartOutput("p", "text", "m", "1", text="a" * 10 + "b" * int(shift * number / 2))
        case _:
            return PartOutput("p", "voice", "m", "1", segments=(Segment(0.0, 1.0 + shift * number, "speech"),))


def test_worst_cases_are_of_all_routes(tables: Tables) -> None:
    def answers(shift: float) -> Answer:
        return lambda number: several_routes(number, shift)

    candidate, baseline = tables.answers("c", answers(1.0)), tables.answers("b", answers(0.0))
    with tables.compared(candidate, baseline) as comparison:
        found = worst_cases(comparison, 8)
    assert [each.route for each in found] == ["text"] * 3 + ["vector"] * 3 + ["voice"] * 2
    assert [each.metric for each in found[::3]] == ["text_distance", "cosine.E", "segments_overlap"]
    assert found[0].at == Position("in", 199 % 4, 199 // 4)
    assert found[-1].baseline == "0.00-1.00 s speech"
    assert found[3].candidate.startswith("E FP32[2] 1 ")


def test_worst_without_a_baseline_is_what_is_wrong(tables: Tables) -> None:
    candidate = tables.answers("c", labelled(lambda number: "wrong" if number == 8 else true(number)))
    with tables.compared(candidate, None, tables.truths(true)) as comparison:
        (found,) = worst_cases(comparison, MAX_CASES)
    assert (found.at, found.baseline) == (Position("in", 0, 2), None)


def test_analysis_of_the_same_tables_is_the_same(tables: Tables) -> None:
    """Whatever the order in which threads add."""
    candidate = tables.answers("c", labelled(true, lambda number: math.sqrt(number) / 15))
    baseline = tables.answers("b", labelled(lambda _: "c0", lambda number: number / 300))
    truths = tables.truths(true)
    one, other = (repr(tables.analyse(candidate, baseline, truths)) for _ in range(2))
    assert one == other


def test_nothing_answered_is_nothing_measured(tables: Tables) -> None:
    found = tables.analyse(tables.answers("c", output, ()), tables.answers("b", output, ()))
    assert {each.name for each in found.measures} == {"missing"}
    assert by_name(found)["missing", None].candidate.value == 1.0
    assert (found.histograms, found.worst) == ((), ())
    assert (found.events, found.candidate.missing) == (EVENTS_COUNT, EVENTS_COUNT)
