"""What a comparison comes to: numbers with their intervals, of all records and of slices."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slice:
    """The records that have one value of something: ``source`` is ``/cameras/7``, say."""

    by: str
    value: str


@dataclass(frozen=True, slots=True)
class Interval:
    """A number and where it may lie: the 95 % confidence interval, both ends NaN if there are too few records."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Measure:
    """One number of one route's answers.

    Attributes:
        name: what is measured: ``agreement``, ``accuracy``, ``cosine.EMBEDDING``, …
        route: whose answers; ``*`` of what is of whole events, whatever their routes (``failed``).
        slice: of which records; None for all.
        records: how many it is of.
        candidate: of the answers that are judged.
        baseline: of those that they are compared with; None for what is of both together (``agreement``).
        difference: candidate less baseline, record by record; None where there is no baseline.
        p_value: of the difference, by a paired test; None where there is none.
    """

    name: str
    route: str
    slice: Slice | None
    records: int
    candidate: Interval
    baseline: Interval | None = None
    difference: Interval | None = None
    p_value: float | None = None
