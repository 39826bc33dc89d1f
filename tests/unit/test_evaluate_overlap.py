"""Intersection over union of spans of time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.evaluate.overlap import Spans, overlaps

Row = Sequence[tuple[float, float, int]]
"""Start, end and label of each span."""


def spans(rows: Sequence[Row]) -> Spans:
    flat = [(number, *span) for number, row in enumerate(rows) for span in row]
    row, start, end, label = zip(*flat, strict=True) if flat else ((), (), (), ())
    return Spans(
        np.array(row, np.int64), np.array(label, np.int64), np.array(start, np.float64), np.array(end, np.float64)
    )


@pytest.mark.parametrize(
    ("mine", "theirs", "value"),
    [
        ([], [], 1.0),
        ([(0, 1, 0)], [], 0.0),
        ([(0, 2, 0)], [(1, 3, 0)], 1 / 3),
        ([(0, 2, 0)], [(0, 2, 1)], 0.0),
        ([(0, 1, 0), (0.5, 2, 0)], [(0, 2, 0)], 1.0),
        ([(0, 1, 0), (2, 3, 0)], [(0, 3, 0)], 2 / 3),
        ([(1, 0, 0)], [(0, 1, 0)], 0.0),
        ([(1, 1, 0)], [], 0.0),
    ],
)
def test_overlap_is_intersection_over_union(mine: Row, theirs: Row, value: float) -> None:
    assert overlaps(spans([mine]), spans([theirs]), 1) == pytest.approx([value])
    assert overlaps(spans([theirs]), spans([mine]), 1) == pytest.approx([value])


def by_seconds(mine: Row, theirs: Row) -> float:
    """The same, second by second."""
    one, other = (
        {(label, at) for start, end, label in row for at in range(int(start), int(end))} for row in (mine, theirs)
    )
    return len(one & other) / len(one | other) if one | other else float(not mine and not theirs)


ROWS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 2)), max_size=5)


@given(st.lists(st.tuples(ROWS, ROWS), min_size=1, max_size=6))
def test_each_row_is_for_itself(pairs: list[tuple[Row, Row]]) -> None:
    mine, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    assert overlaps(spans(mine), spans(theirs), len(pairs)) == pytest.approx(
        [by_seconds(one, other) for one, other in pairs]
    )
