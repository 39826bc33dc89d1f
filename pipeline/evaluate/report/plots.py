"""The figures of a report: how numbers are distributed, how far scores are believed, how answers drift, how fast."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

from headrace.pipeline.evaluate.evaluation import Analysis, Calibration, Histogram
from headrace.pipeline.evaluate.measures import Interval, Measure
from headrace.pipeline.evaluate.report.summary import is_timing, stem
from headrace.pipeline.evaluate.report.svg import BASELINE, CANDIDATE, INK, axes, element
from headrace.pipeline.evaluate.report.wording import number, route_name, visible

MAX_PLOTS = 9
"""Of one kind."""
WIDE = 20
"""Times that the largest number is of the smallest, from which on an axis is logarithmic."""

_NO_DRIFT_OF = {"waiting_ms", "cost_ms", "max_abs", "mean_abs"}
"""What is drawn without them says the same."""
_OUTLYING = 0.002
"""Share of answers at either end of a histogram that its axis need not reach."""
_YEARS = "1900", "2200"
"""Of events whose times can be drawn; other clocks are wrong."""
_DASHES = (0, (4, 2))


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure: what it is of, what its numbers are, itself as SVG."""

    title: str
    caption: str
    svg: str


@dataclass(frozen=True, slots=True)
class PlotGroup:
    """Figures of one kind. ``left_out``: how many more there would be."""

    name: str
    explanation: str
    plots: tuple[Plot, ...]
    left_out: int


def plot_groups(analysis: Analysis) -> list[PlotGroup]:
    """All figures, by kind; kinds of which there is nothing to draw are left out."""
    filled = [each for each in analysis.histograms if any(each.candidate)]
    groups = [
        _group(
            "Distributions",
            "The share of answers by their number; of what is between the two sides (cosine, …) there is one curve. "
            "KS is how far the two sides’ shares of answers below some number are apart at most, 0 to 1.",
            [each for each in filled if not is_timing(each.name)],
            _distribution,
        ),
        _group(
            "Calibration",
            "Of answers with about one score, the share that is right. On the diagonal the scores can be believed.",
            _by_route(analysis.calibrations),
            _calibration,
        ),
        _group(
            "Over time",
            "The mean by the time of the events (UTC), with its 95 % interval.",
            _series(analysis.measures),
            _over_time,
        ),
        _group(
            "Latency",
            "The share of answers that took no longer.",
            [each for each in filled if is_timing(each.name)],
            _latency,
        ),
    ]
    return [group for group in groups if group.plots]


def _group(name: str, explanation: str, data: Sequence[Any], draw: Callable[[Any, str], Plot]) -> PlotGroup:
    prefix = name.split()[0].lower()
    plots = tuple(draw(each, f"{prefix}-{place}") for place, each in enumerate(data[:MAX_PLOTS]))
    return PlotGroup(name, explanation, plots, max(0, len(data) - MAX_PLOTS))


def _titled(route: str, name: str) -> str:
    return f"{visible(route_name(route), 60)} · {visible(name, 60)}"


# --- distributions and latency, from histograms


def _distribution(histogram: Histogram, name: str) -> Plot:
    edges = np.asarray(histogram.edges)
    with axes() as drawn:
        drawn.stairs(_shares(histogram.candidate), edges, fill=True, color=CANDIDATE, alpha=0.22)
        drawn.stairs(_shares(histogram.candidate), edges, color=CANDIDATE, linewidth=1.4)
        if histogram.baseline is not None:
            drawn.stairs(_shares(histogram.baseline), edges, color=BASELINE, linewidth=1.4, linestyle=_DASHES)
        drawn.yaxis.set_major_locator(MaxNLocator(5))
        drawn.yaxis.set_major_formatter(PercentFormatter(1.0))
        drawn.set_ylabel("answers")
        drawn.set_ylim(bottom=0)
        return _told_histogram(drawn, name, histogram, "Distribution")


def _latency(histogram: Histogram, name: str) -> Plot:
    ends = np.asarray(histogram.edges[1:])
    with axes() as drawn:
        drawn.plot(ends, np.cumsum(_shares(histogram.candidate)), color=CANDIDATE)
        if histogram.baseline is not None:
            drawn.plot(ends, np.cumsum(_shares(histogram.baseline)), color=BASELINE, linestyle=_DASHES)
        drawn.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        drawn.set_xlabel("ms")
        drawn.set_ylim(0, 1.02)
        return _told_histogram(drawn, name, histogram, "Cumulative distribution")


def _set_across(drawn: Any, histogram: Histogram) -> None:
    """Show the bins that hold almost all, on a logarithmic axis if they are wide apart."""
    counts = np.asarray(histogram.candidate) + np.asarray(histogram.baseline or 0)
    reached = np.cumsum(counts) / counts.sum()
    first, last = np.searchsorted(reached, [_OUTLYING, 1 - _OUTLYING])
    low, high = histogram.edges[first], histogram.edges[last + 1]
    if low > 0 and high / low > WIDE:
        drawn.set_xscale("log")
        drawn.xaxis.set_minor_formatter(NullFormatter())
        drawn.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        drawn.xaxis.set_major_locator(MaxNLocator(4))
    if low < high:
        drawn.set_xlim(low, high)


def _shares(counts: Iterable[int]) -> Any:
    found = np.asarray(counts, np.float64)
    return found / max(found.sum(), 1.0)


def _told_histogram(drawn: Any, name: str, histogram: Histogram, kind: str) -> Plot:
    _set_across(drawn, histogram)
    title = _titled(histogram.route, histogram.name)
    caption = f"median {number(_median(histogram.edges, histogram.candidate))}"
    if histogram.baseline is not None and any(histogram.baseline):
        caption += f", baseline {number(_median(histogram.edges, histogram.baseline))}"
    if histogram.drift is not None:
        caption += f" · KS {number(histogram.drift)}"
    return Plot(title, caption, element(drawn, name, f"{kind} of {title}: {caption}"))


def _median(edges: Sequence[float], counts: Sequence[int]) -> float:
    """As far into its bin as the records of the bin that are below it."""
    total = np.concatenate([[0], np.cumsum(counts)])
    return float(np.interp(total[-1] / 2, total, edges))


# --- calibration


def _by_route(calibrations: Iterable[Calibration]) -> list[list[Calibration]]:
    found: dict[str, list[Calibration]] = {}
    for each in calibrations:
        found.setdefault(each.route, []).append(each)
    return list(found.values())


def _calibration(sides: Sequence[Calibration], name: str) -> Plot:
    with axes() as drawn:
        drawn.plot([0, 1], [0, 1], color=INK, linewidth=0.7)
        for side in sides:
            bins = [each for each in side.bins if each.records]
            dashed = side.side == "baseline"
            drawn.plot(
                [each.score for each in bins],
                [each.accuracy for each in bins],
                color=BASELINE if dashed else CANDIDATE,
                linestyle=_DASHES if dashed else "-",
                marker="s" if dashed else "o",
                markersize=3,
            )
        drawn.set_xlabel("score")
        drawn.set_ylabel("accuracy")
        drawn.set_xlim(-0.02, 1.02)
        drawn.set_ylim(-0.02, 1.02)
        title = visible(route_name(sides[0].route), 60)
        caption = "calibration error " + ", ".join(f"{each.side} {number(each.error)}" for each in sides)
        return Plot(title, caption, element(drawn, name, f"Calibration of {title}: {caption}"))


# --- over time


def _series(measures: Iterable[Measure]) -> list[list[Measure]]:
    """Measures of slices of time, by route and name, how good before how fast; what is always the same is left out."""
    found: dict[tuple[bool, str, str], list[Measure]] = {}
    for each in measures:
        if each.slice is None or each.slice.by != "time" or stem(each.name) in _NO_DRIFT_OF:
            continue
        if _YEARS[0] <= each.slice.value < _YEARS[1]:
            found.setdefault((is_timing(each.name), each.route, each.name), []).append(each)
    return [found[key] for key in sorted(found) if len(found[key]) > 1 and _varies(found[key])]


def _varies(series: Iterable[Measure]) -> bool:
    """Whether a curve is not level, or has another beside it."""
    return len({side.value for each in series for side in (each.candidate, each.baseline) if side}) > 1


def _over_time(series: Sequence[Measure], name: str) -> Plot:
    points = sorted(series, key=_time)
    times = [_time(each) for each in points]
    with axes() as drawn:
        _curve(drawn, times, [each.candidate for each in points], CANDIDATE, "-")
        paired = [(time, each.baseline) for time, each in zip(times, points, strict=True) if each.baseline]
        _curve(drawn, [time for time, _ in paired], [found for _, found in paired], BASELINE, _DASHES)
        # with more ticks at least, there are ranges, of four hours for one, that no interval gives at most six of
        locator = AutoDateLocator(minticks=2, maxticks=6)  # type: ignore[no-untyped-call]  # of matplotlib's
        drawn.xaxis.set_major_locator(locator)
        drawn.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))  # type: ignore[no-untyped-call]
        title = _titled(points[0].route, points[0].name)
        values = [each.candidate.value for each in points]
        caption = (
            f"{number(min(values))} to {number(max(values))} in {len(points)} periods from {times[0]:%Y-%m-%d %H:%M}"
        )
        return Plot(title, caption, element(drawn, name, f"{title} over time: {caption}"))


def _curve(drawn: Any, times: Sequence[Any], found: Sequence[Interval], colour: str, line: Any) -> None:
    low, high = [each.low for each in found], [each.high for each in found]
    drawn.fill_between(times, low, high, color=colour, alpha=0.14, linewidth=0)
    drawn.plot(times, [each.value for each in found], color=colour, linestyle=line)


def _time(measure: Measure) -> datetime.datetime:
    return datetime.datetime.fromisoformat(measure.slice.value if measure.slice else "")
