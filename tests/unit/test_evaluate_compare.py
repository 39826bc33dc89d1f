"""Pairs that are joined exactly, and the numbers that come of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from headrace.pipeline.errors import ConfigError
from headrace.pipeline.evaluate.compare import Comparison, Files
from headrace.pipeline.evaluate.labels import Truth
from headrace.pipeline.evaluate.measures import Measure, Slice
from headrace.pipeline.evaluate.overlap import overlap
from headrace.pipeline.evaluate.store import (
    ANSWERS,
    EVENTS,
    TRUTHS,
    TableWriter,
    connect,
    numbers,
    write_event,
    write_result,
    write_truth,
)
from headrace.pipeline.records import (
    InferenceRequest,
    InferenceResult,
    Label,
    Modality,
    NamedTensor,
    Part,
    PartOutput,
    Provenance,
    Segment,
    SourceRecord,
    Tensor,
    Timings,
)

EVENTS_COUNT = 200
Answer = Callable[[int], PartOutput]


def at(number: int) -> Provenance:
    return Provenance("in", number % 4, number // 4, 1_700_000_000_000 + number)


def output(number: int, **fields: object) -> PartOutput:
    return PartOutput("p", "image", "m", "1", **fields)  # type: ignore[arg-type]


def labelled(name: Callable[[int], str], score: float = 0.8) -> Answer:
    return lambda number: output(number, labels=(Label(name(number), score), Label("other", 0.1)))


class Tables:
    """Writes what is compared."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with TableWriter(folder / "events", EVENTS) as table:
            for number in range(EVENTS_COUNT):
                request = InferenceRequest(
                    str(uuid.UUID(int=number)),
                    "t",
                    "/cam/night" if number % 10 == 0 else "/cam/day",
                    1_700_000_000_000,
                    (Part("p", Modality.IMAGE, "image/jpeg", b""),),
                )
                headers = (("tenant", b"acme" if number % 2 else b"duck"),)
                write_event(table, SourceRecord(at(number), b"k", b"", headers), request)

    def answers(self, name: str, answer: Answer, among: Sequence[int] = range(EVENTS_COUNT)) -> Path:
        with TableWriter(self.folder / name, ANSWERS) as table:
            for number in among:
                write_result(
                    table,
                    InferenceResult("", "OK", (answer(number),), at(number), Timings(0, 1.0, 5.0), 1, "w", 0),
                )
        return self.folder / name

    def truths(self, label: Callable[[int], str]) -> Path:
        with TableWriter(self.folder / "truths", TRUTHS) as table:
            for number in range(EVENTS_COUNT):
                event = str(uuid.UUID(int=number)) if number % 2 else None
                place = at(number)
                position = None if event else (place.topic, place.partition, place.offset)
                write_truth(table, Truth(label(number), event, position, "p" if number % 3 else ""))
        return self.folder / "truths"

    def compare(
        self, candidate: Path, baseline: Path | None = None, truths: Path | None = None, slices: Sequence[str] = ()
    ) -> dict[tuple[str, Slice | None], Measure]:
        files = Files(self.folder / "events", candidate, baseline, truths)
        with connect(self.folder / "spill") as database:
            comparison = Comparison(database, files, self.folder, slices)
            return {(each.name, each.slice): each for each in comparison.measures()}


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)


def true(number: int) -> str:
    return f"c{number % 3}"


def night_wrong(number: int) -> str:
    return "wrong" if number % 10 == 0 and number % 20 else true(number)


def test_candidate_that_is_worse_on_one_slice_is_seen_there(tables: Tables) -> None:
    found = tables.compare(
        tables.answers("c", labelled(night_wrong)), tables.answers("b", labelled(true)), tables.truths(true)
    )
    whole = found["accuracy", None]
    assert whole.records == EVENTS_COUNT
    assert whole.candidate.value == pytest.approx(0.95)
    assert whole.baseline is not None
    assert whole.baseline.value == 1.0
    assert whole.difference is not None
    assert whole.difference.value == pytest.approx(-0.05)
    assert whole.difference.high < 0
    assert whole.p_value == pytest.approx(2 * 0.5**10)
    assert found["accuracy", Slice("source", "/cam/night")].candidate.value == pytest.approx(0.5)
    day = found["accuracy", Slice("source", "/cam/day")]
    assert day.candidate.value == 1.0
    assert day.p_value == 1.0
    assert found["agreement", None].candidate.value == pytest.approx(0.95)
    assert found["agreement", None].baseline is None


def test_label_of_a_part_goes_before_that_of_its_event(tables: Tables) -> None:
    with TableWriter(tables.folder / "truths", TRUTHS) as table:
        for number in range(EVENTS_COUNT):
            place = at(number)
            position = place.topic, place.partition, place.offset
            write_truth(table, Truth("wrong", None, position))
            write_truth(table, Truth(true(number), None, position, "p"))
    found = tables.compare(tables.answers("c", labelled(true)), truths=tables.folder / "truths")
    assert (found["accuracy", None].candidate.value, found["accuracy", None].records) == (1.0, EVENTS_COUNT)


def test_labels_that_contradict_each_other_are_refused(tables: Tables) -> None:
    with TableWriter(tables.folder / "truths", TRUTHS) as table:
        write_truth(table, Truth("cat", None, ("in", 0, 0)))
        write_truth(table, Truth("cat", None, ("in", 0, 0)))
        write_truth(table, Truth("dog", str(uuid.UUID(int=0)), None))
    with pytest.raises(ConfigError, match="labels: in:0:0 is to be both 'cat' and 'dog'"):
        tables.compare(tables.answers("c", labelled(true)), truths=tables.folder / "truths")


def test_answers_meet_at_their_position_alone(tables: Tables) -> None:
    """Of the baseline every other is missing, and those that are there differ at one place."""
    even = [number for number in range(EVENTS_COUNT) if number % 2 == 0]
    baseline = tables.answers("b", labelled(lambda number: "x" if number == 8 else true(number)), even)
    found = tables.compare(tables.answers("c", labelled(true)), baseline)
    agreement = found["agreement", None]
    assert agreement.records == len(even)
    assert agreement.candidate.value == pytest.approx(1 - 1 / len(even))
    score = found["score", None]
    assert score.records == EVENTS_COUNT
    assert score.baseline is not None
    assert "accuracy" not in {name for name, _ in found}


def test_headers_and_times_make_slices(tables: Tables) -> None:
    found = tables.compare(tables.answers("c", labelled(true)), slices=["header.tenant"])
    slices = {each for name, each in found if name == "score" and each is not None}
    assert {each for each in slices if each.by == "header.tenant"} == {
        Slice("header.tenant", "acme"),
        Slice("header.tenant", "duck"),
    }
    assert Slice("hour", "2023-11-14T22:00Z") in slices
    assert Slice("modality", "IMAGE") in slices


def test_small_slices_are_left_out(tables: Tables) -> None:
    found = tables.compare(tables.answers("c", labelled(true), range(40)))
    assert {each.value for name, each in found if each is not None and each.by == "source"} == {"/cam/day"}


def test_texts_spans_and_tensors_are_measured(tables: Tables) -> None:
    def answer(text: str, end: float, vector: Sequence[float]) -> Answer:
        tensor = Tensor("FP32", (len(vector),), np.asarray(vector, "<f4").tobytes())
        return lambda number: output(
            number, text=text, segments=(Segment(0.0, end),), tensors=(NamedTensor("E", tensor),)
        )

    found = tables.compare(
        tables.answers("c", answer("kitten", 2.0, [1, 0])), tables.answers("b", answer("sitting", 1.0, [1, 1]))
    )
    values = {name: each.candidate.value for (name, of), each in found.items() if of is None}
    assert values["text_agreement"] == 0.0
    assert values["text_distance"] == pytest.approx(3 / 7)
    assert values["segments_overlap"] == pytest.approx(0.5)
    assert values["cosine.E"] == pytest.approx(1 / np.sqrt(2))
    assert values["max_abs.E"] == pytest.approx(1.0)
    assert values["mean_abs.E"] == pytest.approx(0.5)
    assert values["inference_ms"] == 5.0


@pytest.mark.parametrize(
    ("mine", "theirs", "value"),
    [
        ([], [], 1.0),
        ([(0, 1, None)], [], 0.0),
        ([(0, 2, None)], [(1, 3, None)], 1 / 3),
        ([(0, 2, "a")], [(0, 2, "b")], 0.0),
        ([(0, 1, "a"), (0.5, 2, "a")], [(0, 2, "a")], 1.0),
        ([(0, 1, "a"), (2, 3, "a")], [(0, 3, "a")], 2 / 3),
    ],
)
def test_overlap_is_intersection_over_union(
    mine: list[tuple[float, float, str | None]], theirs: list[tuple[float, float, str | None]], value: float
) -> None:
    one, other = ([{"start": a, "end": b, "label": label} for a, b, label in each] for each in (mine, theirs))
    assert overlap(one, other) == pytest.approx(value)
    assert overlap(other, one) == pytest.approx(value)


def test_tensors_are_read_as_numbers_if_they_are_some() -> None:
    assert numbers(Tensor("INT16", (2,), np.array([1, -2], "<i2").tobytes())).tolist() == [1.0, -2.0]
    assert numbers(Tensor("BF16", (1,), b"\x80\x3f")).tolist() == [1.0]
    assert numbers(Tensor("BYTES", (1,), b"\x01\0\0\0x")) is None
