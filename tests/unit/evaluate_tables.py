"""Tables of a comparison, written as the product writes them, and what is found in them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest

from headrace.pipeline.evaluate.analysis import AnalysisRequest, analyse
from headrace.pipeline.evaluate.compare import Comparison, Files, compare
from headrace.pipeline.evaluate.evaluation import Analysis
from headrace.pipeline.evaluate.labels import Truth
from headrace.pipeline.evaluate.measures import Measure, Slice, SliceSize
from headrace.pipeline.evaluate.measuring import METRICS, measure, tensor_metrics
from headrace.pipeline.evaluate.store import (
    ANSWERS,
    EVENTS,
    FAILURES,
    TRUTHS,
    TableWriter,
    connect,
    write_event,
    write_failure,
    write_result,
    write_truth,
)
from headrace.pipeline.records import (
    DeadLetter,
    InferenceRequest,
    InferenceResult,
    Label,
    Modality,
    NamedTensor,
    Part,
    PartOutput,
    Provenance,
    SourceRecord,
    Tensor,
    Timings,
)

EVENTS_COUNT = 200
FIRST_MS = 1_700_000_000_000
Answer = Callable[[int], PartOutput | Sequence[PartOutput]]


def at(number: int) -> Provenance:
    return Provenance("in", number % 4, number // 4, FIRST_MS + number)


def output(number: int, **fields: object) -> PartOutput:
    return PartOutput("p", "image", "m", "1", **fields)  # type: ignore[arg-type]


def labelled(name: Callable[[int], str], score: Callable[[int], float] | float = 0.8) -> Answer:
    def answer(number: int) -> PartOutput:
        found = score(number) if callable(score) else score
        return output(number, labels=(Label(name(number), found), Label("other", 0.1)))

    return answer


def tensor(values: Sequence[float], name: str = "E") -> NamedTensor:
    return NamedTensor(name, Tensor("FP32", (len(values),), np.asarray(values, "<f4").tobytes()))


def true(number: int) -> str:
    return f"c{number % 3}"


def camera(number: int) -> str:
    return "/cam/night" if number % 10 == 0 else "/cam/day"


@dataclass(frozen=True, slots=True)
class Measured:
    """What a gate asks for, of an analysis."""

    measures: tuple[Measure, ...]
    slices: tuple[SliceSize, ...]


class Tables:
    """Of events with a part ``p`` each, 50 a second; every tenth comes from ``/cam/night``."""

    def __init__(
        self,
        folder: Path,
        count: int = EVENTS_COUNT,
        source: Callable[[int], str] = camera,
        parts: Sequence[str] = ("p",),
    ) -> None:
        self.folder = folder
        with TableWriter(folder / "events", EVENTS) as table:
            for number in range(count):
                request = InferenceRequest(
                    str(uuid.UUID(int=number)),
                    "t",
                    source(number),
                    FIRST_MS + 20 * number,
                    tuple(Part(name, Modality.IMAGE, "image/jpeg", b"") for name in parts),
                )
                headers = (("tenant", b"acme" if number % 2 else b"duck"), ("Tenant", b"one"))
                write_event(table, SourceRecord(at(number), b"k", b"", headers), request)

    def answers(
        self,
        name: str,
        answer: Answer,
        among: Iterable[int] = range(EVENTS_COUNT),
        timings: Callable[[int], Timings] = lambda _: Timings(0, 1.0, 5.0),
    ) -> Path:
        with TableWriter(self.folder / name, ANSWERS) as table:
            for number in among:
                answered = answer(number)
                outputs = (answered,) if isinstance(answered, PartOutput) else tuple(answered)
                write_result(table, InferenceResult("", "OK", outputs, at(number), timings(number), 1, "w", 0))
        return self.folder / name

    def failures(self, name: str, letters: Iterable[tuple[int, str]]) -> Path:
        with TableWriter(self.folder / name, FAILURES) as table:
            for number, code in letters:
                write_failure(table, DeadLetter(None, None, (), at(number), "infer", code, "", 1, 0, 0, "w"))
        return self.folder / name

    def truths(self, label: Callable[[int], str], among: Iterable[int] = range(EVENTS_COUNT)) -> Path:
        """By id or by position, of the part or of its event."""
        with TableWriter(self.folder / "truths", TRUTHS) as table:
            for number in among:
                event = str(uuid.UUID(int=number)) if number % 2 else None
                place = at(number)
                position = None if event else (place.topic, place.partition, place.offset)
                write_truth(table, Truth(label(number), event, position, "p" if number % 3 else ""))
        return self.folder / "truths"

    def analyse(
        self,
        candidate: Path,
        baseline: Path | None = None,
        truths: Path | None = None,
        *,
        failures: tuple[Path | None, Path | None] = (None, None),
        request: AnalysisRequest | None = None,
    ) -> Analysis:
        files = Files(self.folder / "events", candidate, baseline, truths, *failures)
        with connect(self.folder / "spill") as database:
            return analyse(database, files, self.folder, request or AnalysisRequest("candidate", "baseline"))

    @contextmanager
    def compared(
        self,
        candidate: Path,
        baseline: Path | None = None,
        truths: Path | None = None,
        *,
        failures: tuple[Path | None, Path | None] = (None, None),
        request: AnalysisRequest | None = None,
    ) -> Iterator[Comparison]:
        """Joined, for one step of the analysis alone: all of them take their time."""
        asked = request or AnalysisRequest("candidate", "baseline")
        with connect(self.folder / "spill") as database:
            files = Files(self.folder / "events", candidate, baseline, truths, *failures)
            yield compare(database, files, self.folder, asked.slices, asked.judged)

    def measure(
        self,
        names: Sequence[str],
        candidate: Path,
        baseline: Path | None = None,
        truths: Path | None = None,
        *,
        failures: tuple[Path | None, Path | None] = (None, None),
        request: AnalysisRequest | None = None,
    ) -> Measured:
        """The measures of these names, which may be patterns, as an analysis has them among others."""
        with self.compared(candidate, baseline, truths, failures=failures, request=request) as comparison:
            metrics = [*METRICS, *tensor_metrics(comparison.tensors)]
            asked = [each for each in metrics if any(fnmatchcase(each.name, name) for name in names)]
            return Measured(tuple(measure(comparison, asked)), comparison.sizes)


def by_name(analysis: Analysis | Measured) -> dict[tuple[str, Slice | None], Measure]:
    """The measures of the one route there is, or of all."""
    return {(each.name, each.slice): each for each in analysis.measures}


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)
