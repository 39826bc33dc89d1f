"""Pairs that are joined exactly, and the numbers that come of them."""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence

import numpy as np
import pyarrow.parquet as pq
import pytest

from headrace.pipeline.errors import ConfigError
from headrace.pipeline.evaluate.analysis import AnalysisRequest
from headrace.pipeline.evaluate.labels import Truth
from headrace.pipeline.evaluate.measures import Slice
from headrace.pipeline.evaluate.percentiles import measure_percentiles
from headrace.pipeline.evaluate.slices import PERIODS_MS, period_ms
from headrace.pipeline.evaluate.store import GROUP_BYTES, TRUTHS, TableWriter, numbers, write_truth
from headrace.pipeline.records import PartOutput, Segment, Tensor, Timings
from tests.unit.evaluate_tables import (
    EVENTS_COUNT,
    Answer,
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


def night_wrong(number: int) -> str:
    return "wrong" if number % 20 == 10 else true(number)


def test_candidate_that_is_worse_on_one_slice_is_seen_there(tables: Tables) -> None:
    candidate, baseline = tables.answers("c", labelled(night_wrong)), tables.answers("b", labelled(true))
    found = by_name(tables.measure(("accuracy", "agreement"), candidate, baseline, tables.truths(true)))
    whole = found["accuracy", None]
    assert whole.records == EVENTS_COUNT
    assert whole.candidate.value == 0.95
    assert whole.baseline is not None
    assert whole.baseline.value == 1.0
    assert whole.difference is not None
    assert whole.difference.value == -0.05
    assert whole.difference.high < 0
    assert whole.p_value == pytest.approx(2 * 0.5**10)
    assert found["accuracy", Slice("source", "/cam/night")].candidate.value == 0.5
    day = found["accuracy", Slice("source", "/cam/day")]
    assert day.candidate.value == 1.0
    assert day.p_value == 1.0
    assert found["agreement", None].candidate.value == 0.95
    assert found["agreement", None].baseline is None


def test_numbers_are_told_as_they_are(tables: Tables) -> None:
    """A mean of equal scores is that score, and so is its interval: thresholds are held to it."""
    score = by_name(tables.measure(("score",), tables.answers("c", labelled(true, 0.8))))["score", None]
    assert (score.candidate.low, score.candidate.value, score.candidate.high) == (0.8, 0.8, 0.8)


def test_label_of_a_part_goes_before_that_of_its_event(tables: Tables) -> None:
    with TableWriter(tables.folder / "truths", TRUTHS) as table:
        for number in range(EVENTS_COUNT):
            place = at(number)
            position = place.topic, place.partition, place.offset
            write_truth(table, Truth("wrong", None, position))
            write_truth(table, Truth(true(number), None, position, "p"))
    candidate = tables.answers("c", labelled(true))
    found = by_name(tables.measure(("accuracy",), candidate, truths=tables.folder / "truths"))
    assert (found["accuracy", None].candidate.value, found["accuracy", None].records) == (1.0, EVENTS_COUNT)


def test_labels_that_contradict_each_other_are_refused(tables: Tables) -> None:
    with TableWriter(tables.folder / "truths", TRUTHS) as table:
        write_truth(table, Truth("cat", None, ("in", 0, 0)))
        write_truth(table, Truth("cat", None, ("in", 0, 0)))
        write_truth(table, Truth("dog", str(uuid.UUID(int=0)), None))
    with pytest.raises(ConfigError, match="labels: in:0:0 is to be both 'cat' and 'dog'"):
        tables.analyse(tables.answers("c", labelled(true)), truths=tables.folder / "truths")


def test_answers_meet_at_their_position_alone(tables: Tables) -> None:
    """Of the baseline every other is missing, and those that are there differ at one place."""
    even = range(0, EVENTS_COUNT, 2)
    baseline = tables.answers("b", labelled(lambda number: "x" if number == 8 else true(number)), even)
    names = ("accuracy", "agreement", "score")
    found = by_name(tables.measure(names, tables.answers("c", labelled(true)), baseline))
    agreement = found["agreement", None]
    assert agreement.records == len(even)
    assert agreement.candidate.value == pytest.approx(1 - 1 / len(even))
    score = found["score", None]
    assert score.records == EVENTS_COUNT
    assert score.baseline is not None
    assert "accuracy" not in {name for name, _ in found}


def test_headers_and_sources_make_slices(tables: Tables) -> None:
    candidate = tables.answers("c", labelled(true))
    request = AnalysisRequest("c", slices=("header.tenant", "header.Tenant"))
    found = by_name(tables.measure(("score",), candidate, request=request))
    slices = {each for name, each in found if name == "score" and each is not None}
    assert Slice("header.Tenant", "one") in slices
    assert {each for each in slices if each.by == "header.tenant"} == {
        Slice("header.tenant", "acme"),
        Slice("header.tenant", "duck"),
    }
    assert Slice("modality", "IMAGE") in slices


def test_time_is_sliced_by_periods_that_fit(tables: Tables) -> None:
    found = by_name(tables.measure(("score",), tables.answers("c", labelled(true))))
    seconds = [each.value for name, each in found if name == "score" and each is not None and each.by == "time"]
    assert seconds == [f"2023-11-14T22:13:{second}Z" for second in range(20, 24)]


@pytest.mark.parametrize(
    ("seconds", "period_seconds"),
    [(0, 1), (47, 1), (48, 10), (1_000, 60), (3600, 300), (86_400, 3600), (9 * 86_400, 6 * 3600), (1e9, 7 * 86_400)],
)
def test_period_is_the_shortest_of_which_few_cover_the_time(seconds: float, period_seconds: int) -> None:
    assert period_ms(0, int(seconds * 1000)) == period_seconds * 1000
    assert period_seconds * 1000 in PERIODS_MS


def test_small_slices_are_left_out(tables: Tables) -> None:
    found = by_name(tables.measure(("score",), tables.answers("c", labelled(true), range(40))))
    answered = {each.value for name, each in found if name == "score" and each is not None and each.by == "source"}
    assert answered == {"/cam/day"}


def said(text: str, end: float, vector: Sequence[float]) -> Answer:
    return lambda number: output(number, text=text, segments=(Segment(0.0, end),), tensors=(tensor(vector),))


def test_texts_spans_and_tensors_are_measured(tables: Tables) -> None:
    names = ("text_*", "segments_overlap", "*.E", "inference_ms")
    candidate, baseline = said("kitten", 2.0, [1, 0]), said("sitting", 1.0, [1, 1])
    found = by_name(tables.measure(names, tables.answers("c", candidate), tables.answers("b", baseline)))
    values = {name: each.candidate.value for (name, of), each in found.items() if of is None}
    assert values["text_agreement"] == 0.0
    assert values["text_distance"] == pytest.approx(3 / 7)
    assert values["segments_overlap"] == pytest.approx(0.5)
    assert values["cosine.E"] == pytest.approx(1 / np.sqrt(2))
    assert values["max_abs.E"] == pytest.approx(1.0)
    assert values["mean_abs.E"] == pytest.approx(0.5)
    assert values["inference_ms"] == 5.0
    assert found["cosine.E", Slice("source", "/cam/night")].records == EVENTS_COUNT // 10


def test_tensors_meet_by_name_and_length(tables: Tables) -> None:
    """Of different lengths in different events; one is longer on one side; of two each is there on one side alone.

    What the baseline never gives there is nothing to compare with. Whatever else does not meet has nothing in common.
    """

    def answer(sign: int) -> Answer:
        def made(number: int) -> PartOutput:
            vector = [1.0] * (1 + number % 7)
            more = tensor([1.0] * (3 + sign), "LONGER"), tensor([1.0], "MINE" if sign == 1 else "THEIRS")
            return output(number, tensors=(tensor([sign * each for each in vector]), *more))

        return made

    names = ("cosine.*", "max_abs.*")
    found = by_name(tables.measure(names, tables.answers("c", answer(1)), tables.answers("b", answer(-1))))
    assert found["cosine.E", None].records == EVENTS_COUNT
    assert found["cosine.E", None].candidate.value == -1.0
    for name in ("LONGER", "THEIRS"):
        assert (found[f"cosine.{name}", None].candidate.value, found[f"cosine.{name}", None].records) == (0.0, 200)
        assert not math.isfinite(found[f"max_abs.{name}", None].candidate.value)
    assert "cosine.MINE" not in {name for name, _ in found}


def test_vectors_that_are_no_numbers_are_told_as_such(tables: Tables) -> None:
    """They must hold no threshold. A vector of zeros has no direction: it is like another one, and no other."""

    def answer(odd: float) -> Answer:
        return lambda number: output(number, tensors=(tensor([odd if number == 7 else 1.0, 2.0], "E"),))

    names = ("cosine.E", "max_abs.E")
    found = by_name(tables.measure(names, tables.answers("c", answer(math.nan)), tables.answers("b", answer(1.0))))
    assert math.isnan(found["cosine.E", None].candidate.value)
    assert math.isnan(found["max_abs.E", None].candidate.low)

    def zero(every: int) -> Answer:
        return lambda number: output(number, tensors=(tensor([float(number % every == 0), 0.0], "E"),))

    silent = by_name(tables.measure(names, tables.answers("c", zero(4)), tables.answers("b", zero(2))))
    assert silent["cosine.E", None].candidate.value == 0.75
    assert silent["max_abs.E", None].candidate.value == 0.25


def test_cost_is_the_share_of_a_batch(tables: Tables) -> None:
    candidate = tables.answers("c", lambda number: output(number, batch_size=4))
    cost = by_name(tables.measure(("cost_ms",), candidate, tables.answers("b", output)))["cost_ms", None]
    assert cost.candidate.value == 1.25
    assert cost.difference is not None
    assert cost.difference.value == -3.75


def test_percentiles_are_of_the_values_themselves(tables: Tables) -> None:
    def slower(number: int) -> Timings:
        return Timings(0, 0.0, float(number + 11))

    candidate = tables.answers("c", output, timings=slower)
    baseline = tables.answers("b", output, timings=lambda number: Timings(0, 0.0, float(number + 1)))
    with tables.compared(candidate, baseline) as comparison:
        found = {(each.name, each.slice): each for each in measure_percentiles(comparison)}
    middle = found["inference_ms.p50", None]
    assert middle.candidate.value == 110.0
    assert middle.candidate.low < 110.0 < middle.candidate.high
    assert middle.baseline is not None
    assert middle.baseline.value == 100.0
    assert middle.difference is not None
    assert middle.difference.value == 10.0
    assert middle.p_value is None
    assert found["inference_ms.p95", None].candidate.value == 200.0
    assert math.isnan(found["inference_ms.p99", None].candidate.high)
    night = found["inference_ms.p95", Slice("source", "/cam/night")]
    assert (night.records, night.candidate.value) == (20, 191.0)


def test_groups_of_rows_are_bounded_in_bytes_too(tables: Tables) -> None:
    large = tensor(np.zeros(GROUP_BYTES // 8).tolist())
    path = tables.answers("c", lambda number: output(number, tensors=(large,)), range(4))
    groups = pq.ParquetFile(path).metadata
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)] == [2, 2]


def test_tensors_are_read_as_numbers_if_they_are_some() -> None:
    assert numbers(Tensor("INT16", (2,), np.array([1, -2], "<i2").tobytes())).tolist() == [1.0, -2.0]
    assert numbers(Tensor("BF16", (1,), b"\x80\x3f")).tolist() == [1.0]
    assert numbers(Tensor("BYTES", (1,), b"\x01\0\0\0x")) is None
