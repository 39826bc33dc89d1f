"""What a reviewer has to know, drawn from an evaluation; as HTML and as Markdown it reads the same. Pure."""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headrace.pipeline.evaluate.evaluation import Analysis, Confusion, Evaluation, Side
from headrace.pipeline.evaluate.gate import Check, Judged, Threshold
from headrace.pipeline.evaluate.measures import Measure
from headrace.pipeline.evaluate.report.wording import counted, is_any_route, is_known, with_minus

FAILURES_NAMED = 3
"""Failed checks that the verdict itself names."""
MEASURES_NAMED = 3
"""Measures, clearly worse, that are named beside it."""
SIGNIFICANT = 0.05
"""p-values below this."""

_MORE_IS_BETTER = {"accuracy", "agreement", "text_accuracy", "text_agreement", "segments_overlap", "cosine"}
_LESS_IS_BETTER = {"failed", "missing", "text_distance", "max_abs", "mean_abs", "calibration_error"}
_TELLING = ("accuracy", "text_accuracy", "agreement", "text_agreement", "segments_overlap", "cosine")
"""Of a route's measures the first of these says most."""


class _Said(enum.Enum):
    """How something is said in words, and the sign beside them."""

    def __init__(self, words: str, sign: str) -> None:
        self.words = words
        self.sign = sign


class Verdict(_Said):
    """What comes of the gate."""

    PASS = "Gate passed", "✓"
    FAIL = "Gate failed", "✗"
    NONE = "No gate", "–"


class Trend(_Said):
    """What a difference says. It is clear if its 95 % interval leaves zero out and its test, if any, agrees."""

    WORSE = "worse", "▼"
    BETTER = "better", "▲"
    CHANGED = "changed", "◆"
    """Clearly, but whether to the better is not known: the measure is a user's, or a score."""
    UNCLEAR = "no clear change", "·"


@dataclass(frozen=True, slots=True)
class Flip:
    """Answers that were one label and are another."""

    before: str
    after: str
    records: int


def verdict(evaluation: Evaluation) -> Verdict:
    """The gate's."""
    return {True: Verdict.PASS, False: Verdict.FAIL, None: Verdict.NONE}[evaluation.passed]


def reason(evaluation: Evaluation) -> str:
    """The verdict's reason in one sentence, and how many events have no answer; not which checks failed."""
    unanswered = _unanswered(evaluation.analysis)
    if not unanswered:
        return f"{_judged(evaluation)}."
    return f"{_judged(evaluation)}{', but' if evaluation.passed else ';'} {unanswered}."


def _judged(evaluation: Evaluation) -> str:
    checks = evaluation.checks
    failed = len(failed_checks(checks))
    if evaluation.gate is None:
        return "No thresholds were given, so nothing is judged"
    if failed:
        return f"{failed:,} of {counted(len(checks), 'check')} {'does' if failed == 1 else 'do'} not hold"
    return f"All {len(checks):,} checks hold" if len(checks) != 1 else "The one check holds"


def _unanswered(analysis: Analysis) -> str:
    """Of which events the candidate has no answer; empty if it has one of all."""
    mine, theirs = analysis.candidate, analysis.baseline
    told = []
    if mine.dead_letters:
        beside = f" (the baseline {theirs.dead_letters:,})" if theirs else ""
        told.append(f"{counted(mine.dead_letters, 'dead letter')}{beside}")
    if mine.missing:
        beside = f" (the baseline {theirs.missing:,})" if theirs else ""
        told.append(f"{mine.missing:,} missing{beside}")
    return f"of {counted(analysis.events, 'event')} the candidate has {' and '.join(told)}" if told else ""


def failed_checks(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Those with a problem, in their order."""
    return tuple(check for check in checks if check.problem is not None)


def passed_checks(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Those without one, in theirs."""
    return tuple(check for check in checks if check.problem is None)


def bounds(threshold: Threshold) -> str:
    """What a threshold asks for: ``≥ 0.9, drop ≤ 0.02, whole interval``."""
    told = (("≥", threshold.min), ("≤", threshold.max), ("drop ≤", threshold.max_drop), ("rise ≤", threshold.max_rise))
    asked = [with_minus(f"{word} {bound:g}") for word, bound in told if bound is not None]
    return ", ".join([*asked, "whole interval"] if threshold.judged is Judged.INTERVAL else asked)


def warnings(evaluation: Evaluation) -> list[str]:
    """What makes the numbers say less than they seem to."""
    analysis = evaluation.analysis
    found = [] if analysis.events else ["There is no event in the range, so there is nothing to compare."]
    for name, side in (("candidate", analysis.candidate), ("baseline", analysis.baseline)):
        found += [] if side is None else _warnings_of(name, side)
    if any(each.name == "failed" and trend(each) is Trend.WORSE for each in headline(analysis.measures, timing=False)):
        found.append("Dead letters clearly rose, and the numbers of answers leave them out.")
    if analysis.labels_left_out:
        left_out = counted(analysis.labels_left_out, "label")
        found.append(f"{left_out} of events of several parts left out: it takes the part’s name to know whose it is.")
    return found


def _warnings_of(name: str, side: Side) -> list[str]:
    found = []
    if side.duplicates:
        found.append(f"{counted(side.duplicates, 'outcome')} of the {name} beyond the first: exactly-once is broken.")
    if side.missing:
        lacking = f"The {name} has neither all answers nor a dead letter of {counted(side.missing, 'event')}"
        found.append(f"{lacking}: the numbers leave out what is missing.")
    return found


# --- measures


def stem(name: str) -> str:
    """Of ``cosine.EMBEDDING`` and ``inference_ms.p99``: what is measured."""
    return name.split(".", 1)[0]


def is_timing(name: str) -> bool:
    """Whether a measure depends on how fast it went: its name ends in ``_ms``, but for the part behind a dot."""
    return stem(name).endswith("_ms")


def direction(name: str) -> int:
    """1 if more of it is better, -1 if less is, 0 if that is not known."""
    if stem(name) in _MORE_IS_BETTER:
        return 1
    return -1 if is_timing(name) or stem(name) in _LESS_IS_BETTER else 0


def trend(measure: Measure) -> Trend | None:
    """What its difference from the baseline says; None if it has none."""
    difference = measure.difference
    if difference is None:
        return None
    leaves_zero_out = is_known(difference) and not difference.low <= 0 <= difference.high
    if not leaves_zero_out or not (measure.p_value is None or measure.p_value < SIGNIFICANT):
        return Trend.UNCLEAR
    sign = direction(measure.name) * (1 if difference.low > 0 else -1)
    return {1: Trend.BETTER, -1: Trend.WORSE, 0: Trend.CHANGED}[sign]


def headline(measures: Iterable[Measure], *, timing: bool) -> list[Measure]:
    """Those of all records, by route; either how good, or how fast."""
    chosen = [each for each in measures if each.slice is None and is_timing(each.name) == timing]
    return sorted(chosen, key=lambda each: (is_any_route(each.route), each.route))


def telling(measures: Iterable[Measure]) -> list[Measure]:
    """One of each route, the one that says most of how good its answers are; the worst route first.

    What is clearly worse goes first, then what is furthest below the baseline, or below 1 where it has none.
    """
    found: dict[str, Measure] = {}
    ranked = (each for each in measures if each.slice is None and stem(each.name) in _TELLING)
    for measure in sorted(ranked, key=lambda each: (each.route, _TELLING.index(stem(each.name)), each.name)):
        found.setdefault(measure.route, measure)
    return sorted(found.values(), key=lambda each: (trend(each) is not Trend.WORSE, -_shortfall(each)))


def _shortfall(measure: Measure) -> float:
    return 1 - measure.candidate.value if measure.difference is None else -measure.difference.value


def changes(measures: Iterable[Measure], *, timing: bool) -> str:
    """How many of the measures of all records went which way; empty if none has a difference.

    Either of those that say how good, or of those that say how fast: ``2 measures clearly worse, 1 clearly better``.
    """
    ways = Counter(trend(each) for each in headline(measures, timing=timing))
    told: list[str] = []
    for way in Trend:
        if ways[way]:
            count = f"{ways[way]:,}" if told else counted(ways[way], "measure")
            told.append(f"{count} {'without clear change' if way is Trend.UNCLEAR else f'clearly {way.words}'}")
    return ", ".join(told)


def clearly_worse(measures: Iterable[Measure]) -> list[Measure]:
    """Those of all records, timings left out, that are: the most telling first, then the worst."""
    found = [each for each in headline(measures, timing=False) if trend(each) is Trend.WORSE]
    return sorted(found, key=lambda each: (stem(each.name) not in _TELLING, _badness(each, None)))


def worst_slices(measures: Sequence[Measure]) -> list[Measure]:
    """Measures of slices, the worst first; slices of time are left out, for drift is drawn.

    How good goes before how fast, what is clearly worse before what may be chance, then the larger part of the
    baseline's number before the smaller. Where there is no baseline, a slice is held against its whole route.
    """
    whole = {(each.route, each.name): each for each in measures if each.slice is None}
    sliced = [each for each in measures if each.slice is not None and each.slice.by != "time"]
    return sorted(sliced, key=lambda each: _badness(each, whole.get((each.route, each.name))))


def _badness(measure: Measure, whole: Measure | None) -> tuple[bool, bool, bool, float]:
    way = direction(measure.name)
    if measure.difference is not None:
        reference = measure.candidate.value - measure.difference.value
    else:
        reference = whole.candidate.value if whole is not None else math.nan
        reference = reference if math.isfinite(reference) else measure.candidate.value
    worsening = (reference - measure.candidate.value) * way / max(abs(reference), 0.01)
    is_unknown = math.isnan(worsening)  # an answer that is not a number is as bad as can be
    return is_timing(measure.name), way == 0, trend(measure) is not Trend.WORSE, -math.inf if is_unknown else -worsening


def flips(confusion: Confusion) -> list[Flip]:
    """Which labels became which others, the most frequent first."""
    found = [
        Flip(before, after, records)
        for before, row in zip(confusion.labels, confusion.counts, strict=True)
        for after, records in zip(confusion.labels, row, strict=True)
        if records and before != after
    ]
    return sorted(found, key=lambda flip: (-flip.records, flip.before, flip.after))


def title(analysis: Analysis) -> str:
    """What is held against what."""
    against = f" against {analysis.baseline.title}" if analysis.baseline else ""
    return f"{analysis.candidate.title}{against}"
