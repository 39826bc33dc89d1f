"""How much lists of spans of time have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Spans:
    """Those of many rows, one after the other.

    Attributes:
        row: whose, int64 [spans], from 0.
        label: of each, as a number, int64 [spans].
        start, end: in seconds, float64 [spans].
    """

    row: Integers
    label: Integers
    start: Floats
    end: Floats


def overlaps(mine: Spans, theirs: Spans, rows: int) -> Floats:
    """Intersection over union of the time that both say something of, label by label.

    Where no span lasts any time: 1.0 if neither side has one, else 0.0. Spans of one row and label that overlap count
    once; one that ends before it starts lasts no time.

    Args:
        mine: of one side.
        theirs: of the other; the same label has the same number in both.
        rows: how many there are.

    Returns:
        Of each row, float64 [rows].
    """
    row, label, time = (np.concatenate(both) for both in zip(_ends(mine), _ends(theirs), strict=True))
    opened = np.concatenate([_opened(mine), _opened(theirs)])
    is_mine = np.arange(len(row)) < 2 * len(mine.row)
    order = np.lexsort((time, label, row))
    row, time = row[order], time[order]
    # Each row and label opens as many spans as it closes, so both counts are 0 where the next row or label begins.
    in_mine, in_theirs = (np.cumsum(np.where(side, opened, 0)[order])[:-1] > 0 for side in (is_mine, ~is_mine))
    lasts = np.diff(time)
    common = np.bincount(row[:-1], np.where(in_mine & in_theirs, lasts, 0.0), rows)
    total = np.bincount(row[:-1], np.where(in_mine | in_theirs, lasts, 0.0), rows)
    found: Floats = (np.bincount(row, minlength=rows) == 0).astype(np.float64)
    np.divide(common, total, out=found, where=total > 0)
    return found


def _ends(spans: Spans) -> tuple[Integers, Integers, Floats]:
    """Row, label and time of both ends of each span: all starts, then all ends."""
    return (
        np.tile(spans.row, 2),
        np.tile(spans.label, 2),
        np.concatenate([spans.start, np.maximum(spans.start, spans.end)]),
    )


def _opened(spans: Spans) -> Integers:
    """How many more spans there are from each end on: 1 at starts, -1 at ends."""
    return np.repeat(np.array([1, -1], np.int64), len(spans.row))
