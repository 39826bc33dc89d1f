"""Whether a comparison is good enough: thresholds on measures, from a file. Pure."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from headrace.pipeline.config_base import Section
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.evaluate.measures import Interval, Measure
from headrace.pipeline.patterns import Patterns
from headrace.pipeline.yaml_file import read_yaml


class Judged(enum.StrEnum):
    """What of an interval has to be within the threshold."""

    VALUE = "value"
    INTERVAL = "interval"


class SliceThreshold(Section):
    """Slices that a threshold is for; each must hold it."""

    by: str = Field(min_length=1, description="What the slices are by: `modality`, `source`, `key`, `header.NAME` …")
    value: str = Field(default="*", min_length=1, description="Which of them; `*` and `?` are wildcards.")


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
        default=1, ge=1, description="A measure of fewer records than this is not judged, but counts as none."
    )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        bounds = (self.min, self.max, self.max_drop, self.max_rise)
        if all(bound is None for bound in bounds):
            raise ValueError("give at least one of min, max, max_drop and max_rise")
        if any(bound is not None and math.isnan(bound) for bound in bounds):
            raise ValueError("a bound is not a number")
        return self


class Gate(Section):
    """The whole of ``gate.yaml``."""

    thresholds: tuple[Threshold, ...] = Field(min_length=1, description="All must hold.")


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


def judge(gate: Gate, measures: Sequence[Measure]) -> tuple[Check, ...]:
    """Every threshold against every measure that it is for.

    A threshold that is for none does not hold: a misspelt name must not let everything pass.
    """
    return tuple(check for threshold in gate.thresholds for check in _checks(threshold, measures))


def _checks(threshold: Threshold, measures: Sequence[Measure]) -> Iterator[Check]:
    name, route = Patterns([threshold.metric]), Patterns([threshold.route])
    values = Patterns([threshold.slice.value]) if threshold.slice else None
    found = [
        measure
        for measure in measures
        if name.match(measure.name)
        and route.match(measure.route)
        and measure.records >= threshold.min_records
        and (
            measure.slice is None
            if values is None
            else measure.slice is not None
            and threshold.slice is not None
            and measure.slice.by == threshold.slice.by
            and values.match(measure.slice.value)
        )
    ]
    if not found:
        yield Check(threshold, None, f"there is no such measure of {threshold.min_records} records or more")
    for measure in found:
        yield Check(threshold, measure, _problem(threshold, measure))


def _problem(threshold: Threshold, measure: Measure) -> str | None:
    whole = threshold.judged is Judged.INTERVAL
    problems = []
    if threshold.min is not None and not _low(measure.candidate, whole) >= threshold.min:
        problems.append(f"{_told(measure.candidate, whole)} is less than {threshold.min:g}")
    if threshold.max is not None and not _high(measure.candidate, whole) <= threshold.max:
        problems.append(f"{_told(measure.candidate, whole)} is more than {threshold.max:g}")
    if threshold.max_drop is not None or threshold.max_rise is not None:
        problems += _against_baseline(threshold, measure.difference, whole)
    return "; ".join(problems) or None


def _against_baseline(threshold: Threshold, difference: Interval | None, whole: bool) -> Iterator[str]:
    if difference is None:
        yield "there is no baseline to compare it with"
        return
    if threshold.max_drop is not None and not _low(difference, whole) >= -threshold.max_drop:
        yield f"{_told(difference, whole)} against the baseline is a drop of more than {threshold.max_drop:g}"
    if threshold.max_rise is not None and not _high(difference, whole) <= threshold.max_rise:
        yield f"{_told(difference, whole)} against the baseline is a rise of more than {threshold.max_rise:g}"


def _low(interval: Interval, whole: bool) -> float:
    """NaN, which is within nothing, if it is not known."""
    return interval.low if whole else interval.value


def _high(interval: Interval, whole: bool) -> float:
    return interval.high if whole else interval.value


def _told(interval: Interval, whole: bool) -> str:
    told = f"{interval.value:.4g}"
    return f"{told} ({interval.low:.4g} to {interval.high:.4g})" if whole else told
