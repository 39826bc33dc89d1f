"""Pictures of what was measured, for docs/benchmarks.md: SVG, the same bytes from the same figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

OURS, OTHERS, WHISKERS = "#1f6feb", "#8c959f", "#24292f"
INCHES, INCHES_A_BAR, INCHES_AROUND = 8.0, 0.32, 1.0


@dataclass(frozen=True, slots=True)
class Bar:
    """A median, and the lowest and the highest of what it is of."""

    title: str
    median: float
    low: float
    high: float
    ours: bool


def bars(path: Path, title: str, unit: str, found: Sequence[Bar]) -> None:
    """Lying bars, one below the other, each with its range and its median in figures.

    Args:
        path: of the picture.
        title: above it.
        unit: of all figures; the axis is logarithmic if they are far apart.
        found: from the top.
    """
    with mpl.rc_context({"svg.hashsalt": "headrace", "svg.fonttype": "path", "font.size": 9}):
        figure = Figure(figsize=(INCHES, INCHES_AROUND + INCHES_A_BAR * len(found)), layout="constrained")
        axes = figure.add_subplot()
        places = range(len(found), 0, -1)
        medians = [each.median for each in found]
        axes.barh(places, medians, color=[OURS if each.ours else OTHERS for each in found], height=0.7)
        around = [[each.median - each.low for each in found], [each.high - each.median for each in found]]
        axes.errorbar(medians, places, xerr=around, fmt="none", ecolor=WHISKERS, elinewidth=1, capsize=2)
        for place, each in zip(places, found, strict=True):
            digits = max(0, 2 - math.floor(math.log10(each.median))) if each.median > 0 else 0
            axes.annotate(
                f"{each.median:,.{digits}f}", (each.high, place), (4, 0), textcoords="offset points", va="center"
            )
        axes.set_yticks(places, [each.title for each in found])
        if max(medians) > 50 * min(medians) > 0:
            axes.set_xscale("log")
        axes.margins(x=0.12)
        axes.set_xlabel(unit)
        axes.set_title(title, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})
