"""A model that says nothing, or says it of nothing, must not look better for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headrace.pipeline.evaluate.analysis import MAX_CASES, AnalysisRequest
from headrace.pipeline.evaluate.evaluation import Analysis
from headrace.pipeline.evaluate.gate import Gate, SliceThreshold, judge
from headrace.pipeline.evaluate.labels import Truth
from headrace.pipeline.evaluate.measures import LEAST_RECORDS, Measure, Slice
from headrace.pipeline.evaluate.slices import MAX_JUDGED_SLICES, MAX_SLICES
from headrace.pipeline.evaluate.store import TRUTHS, TableWriter, write_truth
from headrace.pipeline.evaluate.worst import worst_cases
from headrace.pipeline.records import Label, PartOutput, Segment
from tests.unit.evaluate_tables import (
    EVENTS_COUNT,
    Answer,
    Measured,
    Tables,
    at,
    by_name,
    labelled,
    output,
    tables,
    tensor,
    true,
)

__all__ = ["tables"]

NIGHT = Slice("source", "/cam/night")


def is_night(number: int) -> bool:
    return number % 10 == 0


def silent_at_night(answer: Answer) -> Answer:
    return lambda number: output(number) if is_night(number) else answer(number)


def problems(analysis: Analysis | Measured, *thresholds: dict[str, object]) -> list[str | None]:
    gate = Gate.model_validate({"thresholds": thresholds})
    return [check.problem for check in judge(gate, analysis.measures, analysis.slices)]


def value(measure: Measure) -> tuple[float, int]:
    return measure.candidate.value, measure.records


# --- answers that say nothing


def test_no_label_is_wrong_and_no_agreement(tables: Tables) -> None:
    candidate, baseline = tables.answers("c", silent_at_night(labelled(true))), tables.answers("b", labelled(true))
    analysis = tables.analyse(candidate, baseline, tables.truths(true))
    found = by_name(analysis)
    for name in ("accuracy", "agreement"):
        assert value(found[name, None]) == (0.9, EVENTS_COUNT)
        assert value(found[name, NIGHT]) == (0.0, EVENTS_COUNT // 10)
    assert {(case.metric, case.source) for case in analysis.worst} == {("accuracy", "/cam/night")}
    assert len(analysis.worst) == EVENTS_COUNT // 10
    confusion, flips = analysis.confusions
    assert sum(row[confusion.labels.index("(none)")] for row in confusion.counts) == EVENTS_COUNT // 10
    assert sum(row[flips.labels.index("(none)")] for row in flips.counts) == EVENTS_COUNT // 10


def test_route_that_falls_silent_is_all_wrong(tables: Tables) -> None:
    """Its numbers do not vanish behind those of another route; nor is that a reason to draw its scores."""

    def both(number: int) -> Sequence[PartOutput]:
        return output(number, labels=(Label(true(number), 0.9),)), PartOutput(
            "p", "quality", "m", "1", labels=(Label("good", 0.9),)
        )

    def silent(number: int) -> Sequence[PartOutput]:
        return both(number)[0], PartOutput("p", "quality", "m", "1")

    with TableWriter(tables.folder / "truths", TRUTHS) as table:
        for number in range(EVENTS_COUNT):
            place = at(number)
            position = place.topic, place.partition, place.offset
            write_truth(table, Truth(true(number), None, position, route="image"))
            write_truth(table, Truth("good", None, position, route="quality"))
    candidate, baseline = tables.answers("c", silent), tables.answers("b", both)
    analysis = tables.analyse(candidate, baseline, tables.folder / "truths")
    whole = {(each.route, each.name): each.candidate.value for each in analysis.measures if each.slice is None}
    assert (whole["image", "accuracy"], whole["quality", "accuracy"], whole["quality", "agreement"]) == (1.0, 0.0, 0.0)
    assert problems(analysis, {"metric": "accuracy", "max_drop": 0.01}) == [
        None,
        "-1 against the baseline is a drop of more than 0.01",
        None,
    ]
    (score,) = (each for each in analysis.histograms if (each.route, each.name) == ("quality", "score"))
    assert (sum(score.candidate), score.drift) == (0, None)


def test_no_text_and_no_segments_are_as_far_as_can_be(tables: Tables) -> None:
    """But two sides that say nothing say the same."""

    def spoken(number: int) -> PartOutput:
        return output(number, text="hello", segments=(Segment(0.0, 0.0 if number % 4 else 1.0),))

    quiet = silent_at_night(spoken)
    names, truths = ("text_*", "segments_overlap"), tables.truths(lambda _: "hello")
    found = by_name(tables.measure(names, tables.answers("c", quiet), tables.answers("b", spoken), truths))
    assert value(found["text_accuracy", None]) == (0.9, EVENTS_COUNT)
    assert value(found["text_agreement", NIGHT]) == (0.0, EVENTS_COUNT // 10)
    assert value(found["text_distance", NIGHT]) == (1.0, EVENTS_COUNT // 10)
    assert value(found["segments_overlap", NIGHT]) == (0.0, EVENTS_COUNT // 10)
    both = by_name(tables.measure(names, tables.answers("c", quiet), tables.answers("b", quiet)))
    assert value(both["text_agreement", NIGHT]) == (1.0, EVENTS_COUNT // 10)
    assert value(both["segments_overlap", NIGHT]) == (1.0, EVENTS_COUNT // 10)


def test_vector_that_is_missing_or_shorter_has_nothing_in_common(tables: Tables) -> None:
    def vectors(number: int) -> PartOutput:
        return output(number, tensors=(tensor([1.0, 2.0]),))

    def cut(number: int) -> PartOutput:
        return output(number, tensors=(tensor([1.0] if number % 2 else [1.0, 2.0]),))

    candidate, baseline = tables.answers("c", silent_at_night(cut)), tables.answers("b", vectors)
    found = tables.measure(("*.E", "missing"), candidate, baseline)
    assert value(by_name(found)["cosine.E", None]) == (0.4, EVENTS_COUNT)
    assert problems(found, {"metric": "cosine.*", "min": 0.5}, {"metric": "max_abs.*", "max": 1e9}) == [
        "0.4 is less than 0.5",
        "it is not a number",
        None,
    ]
    with tables.compared(candidate, baseline) as comparison:
        assert {each.metric for each in worst_cases(comparison, MAX_CASES)} == {"cosine.E"}


def test_texts_are_compared_by_their_beginning(tables: Tables) -> None:
    """Whole, a pair of long ones would take 16 ms."""

    def long(end: str) -> Answer:
        return lambda number: output(number, text="a" * 100 + "b" * 100 + end * 1_800)

    found = by_name(tables.measure(("text_*",), tables.answers("c", long("x")), tables.answers("b", long("y"))))
    assert (found["text_agreement", None].candidate.value, found["text_distance", None].candidate.value) == (0.0, 0.0)


# --- events that are not answered


def test_missing_events_are_measured_and_fail_any_gate_that_does_not_name_them(tables: Tables) -> None:
    day = [number for number in range(EVENTS_COUNT) if not is_night(number)]
    candidate, baseline = tables.answers("c", labelled(true), day), tables.answers("b", labelled(true))
    measured = tables.measure(("accuracy", "missing"), candidate, baseline, tables.truths(true))
    found = by_name(measured)
    assert (found["missing", None].route, *value(found["missing", None])) == ("*", 0.1, EVENTS_COUNT)
    rise = found["missing", None].difference
    assert rise is not None
    assert rise.value == 0.1
    assert value(found["missing", NIGHT]) == (1.0, EVENTS_COUNT // 10)
    alone = by_name(tables.measure(("missing",), candidate))["missing", None]
    assert (alone.candidate.value, alone.baseline, alone.paired) == (0.1, None, 0)
    accuracy: dict[str, object] = {"metric": "accuracy", "max_drop": 0.01}
    assert problems(measured, accuracy) == [None, "0.1 is more than 0"]
    assert problems(measured, accuracy, {"metric": "missing", "max": 0.2}) == [None, None]


def test_event_is_answered_if_all_its_parts_are(tmp_path: Path) -> None:
    """A shadow may leave out a part. What of a result's time is a part's is not known, if there are several."""
    tables = Tables(tmp_path, parts=("p", "q"))

    def answered(number: int) -> Sequence[PartOutput]:
        both = PartOutput("p", "image", "m", "1"), PartOutput("q", "image", "m", "1")
        return both[: 1 if number < 50 else 2]

    letters = tables.failures("cf", [(0, "TOO_LATE")])
    analysis = tables.analyse(tables.answers("c", answered), failures=(letters, None))
    side = analysis.candidate
    assert (side.results, side.dead_letters, side.missing) == (EVENTS_COUNT - 50, 1, 49)
    whole = {each.name: each.records for each in analysis.measures if each.slice is None}
    assert (whole["inference_ms"], whole["cost_ms"], whole["waiting_ms"], whole["inference_ms.p50"]) == (50,) * 4


# --- what the baseline does not answer


def test_difference_is_of_the_pairs_that_there_are(tables: Tables) -> None:
    """They are told, count for the gate, and are too few for a difference in a slice."""
    night = [number for number in range(EVENTS_COUNT) if is_night(number)]
    candidate = tables.answers("c", labelled(lambda number: true(number) if is_night(number) else "wrong"))
    baseline = tables.answers("b", labelled(true), [*night, 1, 2, 3])
    analysis = tables.analyse(candidate, baseline, tables.truths(true))
    found = by_name(analysis)
    assert (found["accuracy", None].records, found["accuracy", None].paired) == (EVENTS_COUNT, 23)
    assert (found["inference_ms.p50", None].records, found["inference_ms.p50", None].paired) == (EVENTS_COUNT, 23)
    for name in ("accuracy", "inference_ms.p50"):
        assert found[name, NIGHT].difference is not None
        day = found[name, Slice("source", "/cam/day")]
        assert (day.records, day.paired, day.baseline, day.difference) == (180, 3, None, None)
    threshold: dict[str, object] = {"metric": "accuracy", "max_drop": 0.5, "min_records": 100}
    assert problems(analysis, threshold)[0] == (
        "there is no such measure of 100 records or more: both sides have it of 23 at most"
    )


# --- slices


def numbered(number: int) -> str:
    return f"/{number % (MAX_SLICES + 10):03}"


def test_slices_that_a_gate_asks_for_are_measured(tmp_path: Path) -> None:
    """Sixty cameras of one size; those beyond the largest fifty are always wrong."""
    count = (MAX_SLICES + 10) * LEAST_RECORDS
    tables = Tables(tmp_path, count, numbered)
    candidate = tables.answers(
        "c", labelled(lambda number: true(number) if numbered(number) < "/050" else "x"), range(count)
    )
    truths = tables.truths(true, range(count))
    every: dict[str, object] = {"metric": "accuracy", "slice": {"by": "source"}, "min": 0.8}
    for asked, failed in (("*", 10), ("/059", 1)):
        request = AnalysisRequest("c", judged=(SliceThreshold(by="source", value=asked),))
        found = tables.measure(("accuracy", "missing"), candidate, None, truths, request=request)
        assert problems(found, every).count("0 is less than 0.8") == failed


def test_more_slices_than_can_be_measured_hold_no_threshold(tmp_path: Path) -> None:
    count = (MAX_JUDGED_SLICES + 2) * LEAST_RECORDS
    tables = Tables(tmp_path, count, lambda number: f"/{number // LEAST_RECORDS:03}")
    request = AnalysisRequest("c", judged=(SliceThreshold(by="source"),))
    found = tables.measure(("inference_ms", "missing"), tables.answers("c", output, range(count)), request=request)
    threshold: dict[str, object] = {"metric": "inference_ms", "slice": {"by": "source"}, "max": 9}
    assert problems(found, threshold)[:-1] == [None] * MAX_JUDGED_SLICES + [
        "there are more slices than are measured, among them /500: choose fewer by slice.value, or only those with "
        "min_records above 20"
    ]


def test_slice_that_is_hardly_answered_holds_no_threshold(tables: Tables) -> None:
    """Of 20 events at night all but one are refused; that is fine only if the baseline refused them as well."""
    some = [number for number in range(EVENTS_COUNT) if not is_night(number) or number == 0]
    refused = [(number, "MODEL_REJECTED") for number in range(EVENTS_COUNT) if number not in some]
    truths, letters = tables.truths(true), tables.failures("cf", refused)
    candidate = tables.answers("c", labelled(true), some)
    threshold: dict[str, object] = {"metric": "accuracy", "slice": {"by": "source"}, "min": 0.8}
    baseline = tables.answers("b", labelled(true))
    names = ("accuracy", "missing")
    found = tables.measure(names, candidate, baseline, truths, failures=(letters, None))
    assert problems(found, threshold) == [
        None,
        "the candidate answers too little of /cam/night (1 of 20) to be judged",
        None,
    ]
    as_bad_baseline = tables.answers("b", labelled(true), some)
    as_bad = tables.measure(names, candidate, as_bad_baseline, truths, failures=(letters, letters))
    assert problems(as_bad, threshold) == [None, None]


# --- labels of events of several parts


def test_label_without_part_is_of_an_event_with_one(tmp_path: Path) -> None:
    tables = Tables(tmp_path, parts=("p", "q"))

    def answered(number: int) -> Sequence[PartOutput]:
        label = Label(true(number), 0.9)
        return PartOutput("p", "image", "m", "1", labels=(label,)), PartOutput("q", "image", "m", "1", labels=(label,))

    candidate = tables.answers("c", answered)
    with TableWriter(tables.folder / "truths", TRUTHS) as table:
        for number in range(EVENTS_COUNT):
            place = at(number)
            position = place.topic, place.partition, place.offset
            write_truth(table, Truth("another", None, position))
            write_truth(table, Truth(true(number), None, position, "p"))
    found = tables.analyse(candidate, truths=tables.folder / "truths")
    assert found.labels_left_out == EVENTS_COUNT
    assert value(by_name(found)["accuracy", None]) == (1.0, EVENTS_COUNT)
