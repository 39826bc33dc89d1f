"""Whether a comparison is good enough: thresholds on measures, from a file. Pure."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from headrace.pipeline.config_base import Section
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.evaluate.measures import (
    HEADER,
    LEAST_RECORDS,
    SLICE_KINDS,
    Interval,
    Measure,
    Slice,
    SliceSize,
)
from headrace.pipeline.patterns import Patterns
from headrace.pipeline.yaml_file import read_yaml

NAMED = 10
"""Names, at most, that a message has of what there is."""


@lru_cache
def _patterns(pattern: str) -> Patterns:
    return Patterns([pattern])


def _matches(pattern: str, text: str) -> bool:
    return _patterns(pattern).match(text)


class Judged(enum.StrEnum):
    """What of an interval has to be within the threshold."""

    VALUE = "value"
    INTERVAL = "interval"


class SliceThreshold(Section):
    """Slices that a threshold is for; each must hold it."""

    by: str = Field(min_length=1, description="What the slices are by: `modality`, `source`, `key`, `header.NAME` …")
    value: str = Field(default="*", min_length=1, description="Which of them; `*` and `?` are wildcards.")

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.by not in SLICE_KINDS and (not self.by.startswith(HEADER) or self.by == HEADER):
            raise ValueError(f"there are slices by {', '.join(SLICE_KINDS)} and {HEADER}NAME, not by {self.by}")
        return self

    def takes(self, one: Slice) -> bool:
        """Whether it is for this slice."""
        return self.by == one.by and _matches(self.value, one.value)


class Threshold(Section):
    """One condition. At least one of the four bounds is given; all that are must hold."""

    metric: str = Field(min_length=1, description="Name of the measure; `*` and `?` are wildcards.")
    route: str = Field(default="*", min_length=1, description="Whose answers; `*` and `?` are wildcards.")
    slice: SliceThreshold | None = Field(default=None, description="Of which slices; of all records if it is left out.")
    min: float | None = Field(default=None, description="The candidate's least.")
    max: float | None = Field(default=None, description="The candidate's most.")
    max_drop: float | None = Field(default=None, ge=0, description="How much less than the baseline it may be.")
    max_rise: float | None = Field(default=None, ge=0, description="How much more than the baseline it may be.")
    judged: Judged = Field(
        default=Judged.VALUE,
        description="`value`: the number itself; `interval`: its whole confidence interval, so that no chance passes.",
    )
    min_records: int = Field(
        default=1,
        ge=1,
        description="A measure of fewer records than this is not judged, but counts as none; "
        "for `max_drop` and `max_rise` those count that both sides have.",
    )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        bounds = (self.min, self.max, self.max_drop, self.max_rise)
        if all(bound is None for bound in bounds):
            raise ValueError("give at least one of min, max, max_drop and max_rise")
        if any(bound is not None and math.isnan(bound) for bound in bounds):
            raise ValueError("a bound is not a number")
        return self

    @property
    def is_of_difference(self) -> bool:
        """Whether it bounds the difference from the baseline."""
        return self.max_drop is not None or self.max_rise is not None

    @property
    def least(self) -> int:
        """Records that a measure must be of to be judged; of slices with fewer than some nothing is known anyway."""
        return self.min_records if self.slice is None else max(self.min_records, LEAST_RECORDS)

    def takes(self, measure: Measure) -> bool:
        """Whether it is for this measure, however few records that is of."""
        if not _matches(self.metric, measure.name) or not _matches(self.route, measure.route):
            return False
        if self.slice is None or measure.slice is None:
            return self.slice is None and measure.slice is None
        return self.slice.takes(measure.slice)

    def judges(self, measure: Measure) -> bool:
        """Whether a measure that it is for has records enough.

        One of all records without any baseline is judged, and does not hold: there its difference is asked for in vain.
        """
        has_no_pair = self.is_of_difference and measure.slice is None and not measure.paired
        return has_no_pair or self.size(measure) >= self.least

    def size(self, measure: Measure) -> int:
        """Records that a measure is of, as far as they count here."""
        return measure.paired if self.is_of_difference else measure.records


class Gate(Section):
    """The whole of ``gate.yaml``."""

    thresholds: tuple[Threshold, ...] = Field(min_length=1, description="All must hold.")

    @property
    def slices(self) -> tuple[SliceThreshold, ...]:
        """Those that it asks for."""
        return tuple(threshold.slice for threshold in self.thresholds if threshold.slice)


NOTHING_MISSING = Threshold(metric="missing", max=0)
"""Holds unless a gate has a threshold of its own for this: a model that does not answer has no wrong answers either."""


@dataclass(frozen=True, slots=True)
class Check:
    """One threshold held against one measure, or found without any.

    ``problem`` is None if it holds.
    """

    threshold: Threshold
    measure: Measure | None
    problem: str | None

    @property
    def name(self) -> str:
        """What was held to what, for people and reports."""
        wanted = self.threshold
        measure = self.measure
        if measure is None:
            named = f"{wanted.route}/{wanted.metric}"
            return f"{named} of {wanted.slice.by}={wanted.slice.value}" if wanted.slice else named
        named = f"{measure.route}/{measure.name}"
        return f"{named} of {measure.slice.by}={measure.slice.value}" if measure.slice else named


def load_gate(path: Path) -> Gate:
    """A gate from its file.

    Raises:
        ConfigError: with one line for each problem.
    """
    try:
        return Gate.model_validate(read_yaml(path))
    except ValidationError as error:
        raise ConfigError("\n".join(_told_wrong(path, each) for each in error.errors())) from error


def _told_wrong(path: Path, problem: ErrorDetails) -> str:
    where = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in problem["loc"]).lstrip(".")
    return f"{path}: {where}: {problem['msg'].removeprefix('Value error, ')}"


def judge(gate: Gate, measures: Sequence[Measure], slices: Sequence[SliceSize] = ()) -> tuple[Check, ...]:
    """Every threshold against every measure that it is for.

    A threshold that is for none does not hold: a misspelt name must not let everything pass. Nor does one of slices if
    one of these could not be judged because the candidate answers too little of it, or because there are too many.

    Args:
        gate: the thresholds.
        measures: all there are.
        slices: how large they are.
    """
    missing = [measure for measure in measures if NOTHING_MISSING.takes(measure)]
    is_named = any(_matches(threshold.metric, NOTHING_MISSING.metric) for threshold in gate.thresholds)
    thresholds = gate.thresholds if is_named or not missing else (*gate.thresholds, NOTHING_MISSING)
    return tuple(check for threshold in thresholds for check in _checks(threshold, measures, slices))


def _checks(threshold: Threshold, measures: Sequence[Measure], slices: Sequence[SliceSize]) -> Iterator[Check]:
    found = [measure for measure in measures if threshold.takes(measure) and threshold.judges(measure)]
    for measure in found:
        yield Check(threshold, measure, _problem(threshold, measure))
    judged = {measure.slice for measure in found}
    unjudged = list(_unjudged(threshold, [each for each in slices if each.slice not in judged]))
    if not found and not unjudged:
        unjudged.append(_no_measure(threshold, measures))
    if unjudged:
        yield Check(threshold, None, "; ".join(unjudged))


def _unjudged(threshold: Threshold, slices: Sequence[SliceSize]) -> Iterator[str]:
    """Of slices that a threshold is for, and that are large enough, those that it could not be held to."""
    wanted = [each for each in slices if threshold.slice is not None and threshold.slice.takes(each.slice)]
    fallen = [each for each in wanted if each.is_measured and each.answered < threshold.least <= each.answerable]
    if fallen:
        told = [f"{each.slice.value} ({each.answered:,} of {each.answerable:,})" for each in fallen]
        yield f"the candidate answers too little of {_some(told)} to be judged"
    for each in wanted:
        if not each.is_measured and each.parts >= threshold.least:
            yield (
                f"there are more slices than are measured, among them {each.slice.value}: choose fewer by slice.value, "
                f"or only those with min_records above {each.parts:,}"
            )


def _no_measure(threshold: Threshold, measures: Sequence[Measure]) -> str:
    """Why a threshold is for none."""
    wanted = threshold.slice
    named = [measure for measure in measures if _matches(threshold.metric, measure.name)]
    if not named:
        return f"there is no such measure; there are {_some(measure.name for measure in measures)}"
    routed = [measure for measure in named if _matches(threshold.route, measure.route)]
    if not routed:
        return f"there is no such measure of this route; there is of {_some(measure.route for measure in named)}"
    taken = [measure for measure in routed if threshold.takes(measure)]
    if taken:
        most = max(map(threshold.size, taken))
        told = "both sides have it of" if threshold.is_of_difference else "there is one of"
        return f"there is no such measure of {threshold.least:,} records or more: {told} {most:,} at most"
    sliced = [measure.slice for measure in routed if measure.slice is not None]
    if wanted is None or not sliced:
        return "there is no such measure of slices"
    values = [each.value for each in sliced if each.by == wanted.by]
    told = f"; there is of {_some(values)}" if values else ""
    return f"there is no such measure of a slice by {wanted.by} with {LEAST_RECORDS} records or more{told}"


def _some(names: Iterable[str]) -> str:
    """The first few, each once."""
    told = list(dict.fromkeys(names))
    more = [f"{len(told) - NAMED:,} more"] if len(told) > NAMED else []
    return ", ".join([*told[:NAMED], *more]) or "none"


def _problem(threshold: Threshold, measure: Measure) -> str | None:
    problems = list(_against_bounds(threshold, measure.candidate))
    if threshold.is_of_difference:
        if measure.difference is None:
            problems.append("there is no baseline to compare it with")
        else:
            problems += _against_baseline(threshold, measure.difference)
    return "; ".join(dict.fromkeys(problems)) or None


def _against_bounds(threshold: Threshold, candidate: Interval) -> Iterator[str]:
    low, high = _ends(threshold, candidate)
    if threshold.min is not None and not low >= threshold.min:
        yield _told(candidate, low, f"less than {threshold.min:g}")
    if threshold.max is not None and not high <= threshold.max:
        yield _told(candidate, high, f"more than {threshold.max:g}")


def _against_baseline(threshold: Threshold, difference: Interval) -> Iterator[str]:
    low, high = _ends(threshold, difference)
    if threshold.max_drop is not None and not low >= -threshold.max_drop:
        yield _told(difference, low, f"a drop of more than {threshold.max_drop:g}", " against the baseline")
    if threshold.max_rise is not None and not high <= threshold.max_rise:
        yield _told(difference, high, f"a rise of more than {threshold.max_rise:g}", " against the baseline")


def _ends(threshold: Threshold, found: Interval) -> tuple[float, float]:
    """What is held to the bounds; NaN, which is within nothing, if it is not known."""
    return (found.low, found.high) if threshold.judged is Judged.INTERVAL else (found.value, found.value)


def _told(found: Interval, judged: float, problem: str, beside: str = "") -> str:
    """What is wrong with one of the ends that were judged."""
    value = f"{found.value:.4g}{beside}"
    if math.isnan(found.value):
        return f"it is not a number{beside}"
    if math.isnan(judged):
        return f"{value} has no interval: too few records"
    if judged == found.value:
        return f"{value} is {problem}"
    return f"{value} may be {judged:.4g} by its 95 % interval, which is {problem}"
