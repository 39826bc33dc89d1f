"""How far the scores of best labels can be believed: their calibration, by route and side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from headrace.pipeline.evaluate.compare import Comparison
from headrace.pipeline.evaluate.evaluation import Calibration, CalibrationBin
from headrace.pipeline.evaluate.measures import Measure
from headrace.pipeline.evaluate.sql import whole_multiple
from headrace.pipeline.evaluate.statistics import BLOCKS, Floats, block_grid, resampled_interval, tidy, weights

BINS = 10
NAME = "calibration_error"
_SCORES_SCALE = 2.0**52
_ROUNDING = 1e-6
"""By so much a score may be beyond 0 or 1, as that of a softmax in 16 or 32 bits."""
_IS_TOLD = "{0}_right IS NOT NULL AND {0}_score IS NOT NULL"
"""Of a side's answers, in SQL: those with a label of which it is known whether it is right."""


@dataclass(frozen=True, slots=True)
class _Sums:
    """Of one route and side, by block and bin: records, their scores, how many were right; float64 [blocks, bins]."""

    records: Floats
    scores: Floats
    right: Floats

    @property
    def count(self) -> int:
        """Of all records."""
        return int(self.records.sum())

    def error(self) -> float:
        """The expected calibration error (Naeini et al. 2015)."""
        gaps = np.abs(self.scores.sum(axis=0) - self.right.sum(axis=0))
        return float(gaps.sum() / self.records.sum())

    def errors(self) -> Floats:
        """That of each resample of the blocks, float64 [resamples]."""
        drawn = weights(BLOCKS)
        gaps = np.abs(drawn @ (self.scores - self.right)).sum(axis=1)
        records = (drawn @ self.records).sum(axis=1)
        return np.where(records > 0, gaps / np.maximum(records, 1.0), self.error())

    def bins(self) -> Iterator[CalibrationBin]:
        """Those that have records."""
        for records, scores, right in zip(
            *(each.sum(axis=0).tolist() for each in (self.records, self.scores, self.right)), strict=True
        ):
            if records:
                yield CalibrationBin(tidy(scores / records), tidy(right / records), int(records))


@dataclass(frozen=True, slots=True)
class _Sides:
    """Sums of each side's answers, and of each side's where both have what is needed; None of none."""

    candidate: _Sums | None
    baseline: _Sums | None
    candidate_paired: _Sums | None
    baseline_paired: _Sums | None


def calibrations(comparison: Comparison) -> tuple[list[Calibration], list[Measure]]:
    """Of each route and side with labels whose scores are all from 0 to 1, where it is known what is right.

    The error is measured of all records alone: of the few of a slice it is large whatever the scores are.
    """
    told, measures = [], []
    for number, route in enumerate(comparison.pairs.routes):
        sides = _sides(comparison, number)
        told += [
            Calibration(route, side, tuple(found.bins()), tidy(found.error()))
            for side, found in (("candidate", sides.candidate), ("baseline", sides.baseline))
            if found
        ]
        if sides.candidate:
            measures.append(_measure(route, sides.candidate, sides.candidate_paired, sides.baseline_paired))
    return told, measures


def _sides(comparison: Comparison, route: int) -> _Sides:
    told = {side: _are_probabilities(comparison, route, side) for side in "cb"}
    both = f"{_IS_TOLD.format('c')} AND {_IS_TOLD.format('b')}"
    alone = {side: _sums(comparison, route, side, _IS_TOLD.format(side)) if told[side] else None for side in "cb"}
    paired = {side: _sums(comparison, route, side, both) if all(told.values()) else None for side in "cb"}
    return _Sides(alone["c"], alone["b"], paired["c"], paired["b"])


def _sums(comparison: Comparison, route: int, side: str, where: str) -> _Sums | None:
    rows = comparison.database.execute(f"""
        SELECT block, least(floor(score * {BINS}), {BINS - 1})::INTEGER AS bin, count(*) AS records,
            sum({whole_multiple("score", _SCORES_SCALE)}) AS scores, count(*) FILTER (is_right) AS right
        FROM (
            SELECT block, greatest(0, least(1, {side}_score)) AS score, {side}_right AS is_right FROM pairs
            WHERE r = {route} AND {where}
        )
        GROUP BY block, bin
    """).fetchnumpy()
    if not len(rows["block"]):
        return None
    records, scores, right = (
        block_grid(rows["block"], rows["bin"], np.asarray(rows[name], np.float64), BINS)
        for name in ("records", "scores", "right")
    )
    return _Sums(records, scores / _SCORES_SCALE, right)


def _are_probabilities(comparison: Comparison, route: int, side: str) -> bool:
    found = comparison.database.execute(f"""
        SELECT bool_and({side}_score BETWEEN {-_ROUNDING} AND {1 + _ROUNDING}) FROM pairs
        WHERE r = {route} AND {side}_score IS NOT NULL
    """).fetchall()
    return bool(found[0][0])


def _measure(route: str, candidate: _Sums, candidate_paired: _Sums | None, baseline: _Sums | None) -> Measure:
    told = resampled_interval(candidate.error(), candidate.errors())
    if candidate_paired is None or baseline is None:
        return Measure(NAME, route, None, candidate.count, told)
    mine, theirs = candidate_paired.errors(), baseline.errors()
    return Measure(
        NAME,
        route,
        None,
        candidate.count,
        told,
        resampled_interval(baseline.error(), theirs),
        resampled_interval(candidate_paired.error() - baseline.error(), mine - theirs),
        paired=baseline.count,
    )
