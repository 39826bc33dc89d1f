"""The report: one HTML file that asks nothing of anybody, the verdict first.

The template escapes all that it is given, but for the figures, which are escaped where they are made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from headrace.pipeline.evaluate.evaluation import Confusion, Evaluation
from headrace.pipeline.evaluate.measures import Interval, Measure
from headrace.pipeline.evaluate.report import media, summary, wording
from headrace.pipeline.evaluate.report.plots import plot_groups

MAX_BYTES = 5_000_000
BYTES_AROUND = 1_000
"""Of the element that an input is shown in, its description included."""
MAX_TILES = 6
MAX_CHECKS = 100
MAX_MEASURES = 120
MAX_SLICES = 200
MAX_CONFUSIONS = 6
MAX_FLIPS = 8
MAX_FAILURES = 50
MAX_CASES = 24
MAX_FILTERS = 16
"""Of each: what is beyond is in the metrics file."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A difference with its interval, drawn: from 0 to 100, 50 is none; both ends None if the interval is not known."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """A measure in a table."""

    measure: Measure
    trend: summary.Trend | None
    bar: Bar | None


@dataclass(frozen=True, slots=True)
class Cell:
    """A number of a confusion table; ``share`` of its row, 0 to 1."""

    records: int
    share: float
    right: bool


@dataclass(frozen=True, slots=True)
class ConfusionTable:
    """A confusion, with how each cell is to be shaded and what is most often taken for something else."""

    confusion: Confusion
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    flips: tuple[summary.Flip, ...]


def render_html(evaluation: Evaluation) -> str:
    """The whole file, below 5 MB. The same evaluation gives the same file.

    Everything has a bound but the inputs of the worst cases: they have the room that the rest leaves.
    """
    template = _template()
    context = _context(evaluation)
    cases = evaluation.analysis.worst[:MAX_CASES]
    without = template.render(context, cases=list(media.shown_cases(cases, 0)))
    room_bytes = MAX_BYTES - len(without.encode()) - len(cases) * BYTES_AROUND
    return template.render(context, cases=list(media.shown_cases(cases, room_bytes))) + "\n"


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("headrace.pipeline.evaluate.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": wording.number,
        "signed": wording.signed,
        "signed_count": wording.signed_count,
        "interval": wording.interval,
        "signed_interval": wording.signed_interval,
        "p_value": wording.p_value,
        "count": wording.count,
        "route": wording.route_name,
        "moment": wording.moment,
        "visible": wording.visible,
        "with_minus": wording.with_minus,
        "pairs": wording.pairs,
        "picture_words": media.picture_words,
        "bounds": summary.bounds,
    }
    environment.globals |= {
        "counted": wording.counted,
        "max_answer": media.MAX_ANSWER,
        "max_named": summary.FAILURES_NAMED,
    }
    return environment.get_template("report.html")


def _context(evaluation: Evaluation) -> dict[str, Any]:
    analysis = evaluation.analysis
    measures = analysis.measures
    failed = summary.failed_checks(evaluation.checks)
    passed = summary.passed_checks(evaluation.checks)
    slices = summary.worst_slices(measures)
    return {
        "evaluation": evaluation,
        "analysis": analysis,
        "title": summary.title(analysis),
        "verdict": summary.verdict(evaluation),
        "reason": summary.reason(evaluation),
        "failed": failed[:MAX_CHECKS],
        "failed_more": max(0, len(failed) - MAX_CHECKS),
        "passed": passed[:MAX_CHECKS],
        "passed_more": max(0, len(passed) - MAX_CHECKS),
        "warnings": summary.warnings(evaluation),
        "changes": summary.changes(measures, timing=False),
        "timing_changes": summary.changes(measures, timing=True),
        "worse": summary.clearly_worse(measures),
        "max_worse": summary.MEASURES_NAMED,
        "tiles": _rows(summary.telling(measures)[:MAX_TILES]),
        "quality": _rows(summary.headline(measures, timing=False)[:MAX_MEASURES]),
        "speed": _rows(summary.headline(measures, timing=True)[:MAX_MEASURES]),
        "plots": plot_groups(analysis),
        "slices": _rows(slices[:MAX_SLICES]),
        "slices_more": max(0, len(slices) - MAX_SLICES),
        "slice_kinds": _most_frequent(each.slice.by for each in slices[:MAX_SLICES] if each.slice),
        "slice_names": _most_frequent(each.name for each in slices[:MAX_SLICES]),
        "confusions": [_confusion_table(each) for each in analysis.confusions[:MAX_CONFUSIONS]],
        "failures": analysis.failures[:MAX_FAILURES],
        "failures_more": max(0, len(analysis.failures) - MAX_FAILURES),
    }


def _most_frequent(names: Iterable[str]) -> list[str]:
    """What a reader can choose by, in the order of the alphabet."""
    found: dict[str, int] = {}
    for name in names:
        found[name] = found.get(name, 0) + 1
    return sorted(sorted(found, key=lambda name: (-found[name], name))[:MAX_FILTERS])


def _rows(measures: Iterable[Measure]) -> list[Row]:
    """Measures for a table, in their order; its differences are drawn on one scale for each of a route's measures."""
    shown = list(measures)
    reach: dict[tuple[str, str], float] = {}
    for each in shown:
        place = each.route, each.name
        reach[place] = max(reach.get(place, 0.0), _reach(each.difference))
    return [Row(each, summary.trend(each), _bar(each.difference, reach[each.route, each.name])) for each in shown]


def _reach(found: Interval | None) -> float:
    ends = () if found is None else (found.value, found.low, found.high)
    return max((abs(end) for end in ends if math.isfinite(end)), default=0.0)


def _bar(found: Interval | None, reach: float) -> Bar | None:
    if found is None or not reach or not math.isfinite(found.value):
        return None
    value, low, high = (50 + 48 * end / reach for end in (found.value, found.low, found.high))
    return Bar(value, low, high) if math.isfinite(low) and math.isfinite(high) else Bar(value, None, None)


def _confusion_table(confusion: Confusion) -> ConfusionTable:
    rows = [
        (label, _cells(place, counts))
        for place, (label, counts) in enumerate(zip(confusion.labels, confusion.counts, strict=True))
    ]
    return ConfusionTable(confusion, tuple(rows), tuple(summary.flips(confusion)[:MAX_FLIPS]))


def _cells(row: int, counts: Sequence[int]) -> tuple[Cell, ...]:
    total = max(sum(counts), 1)
    return tuple(Cell(records, records / total, column == row) for column, records in enumerate(counts))
