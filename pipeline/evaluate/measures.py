"""What a comparison comes to: numbers with their intervals, of all records and of slices."""

from __future__ import annotations

from dataclasses import dataclass

SLICE_KINDS = ("modality", "source", "type", "key", "time")
"""What there are slices by in any case; beside them by headers."""
HEADER = "header."
"""What the name of a header is behind, as in ``header.tenant``."""
LEAST_RECORDS = 20
"""Of a slice: of fewer nothing can be said."""


@dataclass(frozen=True, slots=True)
class Slice:
    """The records that have one value of something: ``source`` is ``/cameras/7``, say."""

    by: str
    value: str


@dataclass(frozen=True, slots=True)
class SliceSize:
    """How large a slice is, whatever became of its events.

    Attributes:
        slice: which.
        parts: of its events, that the candidate was to answer.
        answered: how many of them it has answered.
        answerable: how many of them the baseline has answered; all without a baseline.
        is_measured: False of the largest of those that a gate asks for beyond the most that are measured.
    """

    slice: Slice
    parts: int
    answered: int
    answerable: int
    is_measured: bool = True


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
        paired: records that both sides have the number of, and the difference is of; 0 without a baseline.
    """

    name: str
    route: str
    slice: Slice | None
    records: int
    candidate: Interval
    baseline: Interval | None = None
    difference: Interval | None = None
    p_value: float | None = None
    paired: int = 0
