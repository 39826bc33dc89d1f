"""All that a comparison comes to: what a report shows, and what its metrics file holds."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.pipeline.evaluate.gate import Check
from headrace.pipeline.evaluate.measures import Measure, SliceSize


@dataclass(frozen=True, slots=True)
class Position:
    """Where an event lies, originally."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Side:
    """Whose answers.

    Attributes:
        title: ``run 20261127-…``, ``live``, ``shadow``.
        models: that answered, as ``route: model:version``, in order.
        results: events answered, all their parts.
        dead_letters: events refused.
        missing: events of the range that are neither.
        duplicates: outcomes of events beyond the first. Not 0 only if exactly-once is broken.
    """

    title: str
    models: tuple[str, ...]
    results: int
    dead_letters: int
    missing: int
    duplicates: int = 0


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often a number lies where.

    Attributes:
        name: of what, as a measure is named (``score``, ``cosine.EMBEDDING``, ``inference_ms``, …).
        route: whose answers.
        edges: of the bins, float [n + 1], rising. The first bin holds all below its upper edge, the last all above.
        candidate, baseline: counts, int [n]; baseline None where the number is of both together.
        drift: Kolmogorov and Smirnov's statistic of the two, 0 to 1; None if either has none.
    """

    name: str
    route: str
    edges: tuple[float, ...]
    candidate: tuple[int, ...]
    baseline: tuple[int, ...] | None = None
    drift: float | None = None


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Answers of about one score: their mean score, how many of them were right, how many there are."""

    score: float
    accuracy: float
    records: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far the scores of a side's best labels can be believed.

    ``error`` is the expected calibration error (Naeini et al. 2015): the mean gap between score and accuracy, weighted
    by the bins' records.
    """

    route: str
    side: str
    bins: tuple[CalibrationBin, ...]
    error: float


@dataclass(frozen=True, slots=True)
class Confusion:
    """Best labels against others, counted.

    Attributes:
        route: whose answers.
        against: ``truth`` (with what should have been answered), or ``baseline``: what flipped to what.
        labels: of rows and columns, the most frequent first; the last may be ``(other)``.
        counts: int [rows: truth or baseline][columns: candidate].
    """

    route: str
    against: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class FailureCount:
    """Dead letters of one reason."""

    stage: str
    code: str
    candidate: int
    baseline: int | None


@dataclass(frozen=True, slots=True)
class Example:
    """What an event's part held, made small enough to be looked at.

    Attributes:
        media_type: ``image/jpeg``, ``audio/wav``, ``text/plain``, …; empty if it is shown in words only.
        data: its bytes; text is UTF-8.
        caption: what it is, in words: ``image 640 × 480``, ``tensor FP32 [2, 3]``.
    """

    media_type: str
    data: bytes
    caption: str


@dataclass(frozen=True, slots=True)
class Case:
    """One of the answers that differ most to the worse.

    Attributes:
        at, part, route: whose.
        metric: by which it is bad (``accuracy``, ``agreement``, ``cosine.EMBEDDING``, …).
        value: of that, for this one answer.
        source, event_type: of its event.
        truth: what should have been answered; None if it is not known.
        candidate, baseline: what was answered, in words: ``tabby 0.71``, a text, ``0.0–1.2 s speech``.
        example: the input; None if it could not be read again.
    """

    at: Position
    part: str
    route: str
    metric: str
    value: float
    source: str
    event_type: str
    truth: str | None
    candidate: str
    baseline: str | None
    example: Example | None = None


@dataclass(frozen=True, slots=True)
class Analysis:
    """What is found in the tables of a comparison. Same tables, same analysis.

    Attributes:
        slices: how large they are.
        labels_left_out: of events of several parts, of which they do not say which they are of.
    """

    events: int
    measures: tuple[Measure, ...]
    histograms: tuple[Histogram, ...]
    calibrations: tuple[Calibration, ...]
    confusions: tuple[Confusion, ...]
    failures: tuple[FailureCount, ...]
    worst: tuple[Case, ...]
    candidate: Side
    baseline: Side | None
    slices: tuple[SliceSize, ...] = ()
    labels_left_out: int = 0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An analysis, what was analysed, and whether it is good enough.

    Attributes:
        topic: whose events.
        ranges: which of them, in words: ``0:100–2,100, 1:80–1,960``.
        filters: as ``--filter`` says them.
        labels: where it stands what should have been answered; None if it was not told.
        gate: where the thresholds stand; None without a gate.
        checks: of the gate; empty without one.
        settings_sha256, git_revision: of the candidate's run, if it is one.
        created_ms: when, epoch milliseconds.
        seconds: that gathering and analysing took.
    """

    analysis: Analysis
    topic: str
    ranges: str
    filters: tuple[str, ...]
    labels: str | None
    gate: str | None
    checks: tuple[Check, ...]
    settings_sha256: str | None
    git_revision: str | None
    created_ms: int
    seconds: float

    @property
    def passed(self) -> bool | None:
        """Whether the gate is; None without one."""
        return None if self.gate is None else all(check.problem is None for check in self.checks)
