"""How far the scores of best labels can be believed: their calibration, by route and side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from headrace.pipeline.evaluate.compare import Comparison
from headrace.pipeline.evaluate.evaluation import Calibration, CalibrationBin
from headrace.pipeline.evaluate.measures import Interval, Measure
from headrace.pipeline.evaluate.statistics import BLOCKS, Floats, resampled_interval, tidy, weights

BINS = 10
NAME = "calibration_error"
_SCORE_UNIT = 2**-52
"""Scores are summed up as whole multiples of this, which have the same sum in every order."""


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


def calibrations(comparison: Comparison) -> tuple[list[Calibration], list[Measure]]:
    """Of each route and side with labels whose scores are all from 0 to 1, where it is known what is right.

    The error is measured of all records alone: of the few of a slice it is large whatever the scores are.
    """
    told, measures = [], []
    for number, route in enumerate(comparison.pairs.routes):
        sums = {side: _sums(comparison, number, side) for side in ("candidate", "baseline")}
        told += [
            Calibration(route, side, tuple(found.bins()), tidy(found.error())) for side, found in sums.items() if found
        ]
        if sums["candidate"]:
            measures.append(_measure(route, sums["candidate"], sums["baseline"]))
    return told, measures


def _sums(comparison: Comparison, route: int, side: str) -> _Sums | None:
    score, label = (f"{side[0]}_{name}" for name in ("score", "label"))
    rows = comparison.database.execute(f"""
        SELECT block, least(floor(score * {BINS}), {BINS - 1})::INTEGER AS bin, count(*) AS records,
            sum(round(score / {_SCORE_UNIT!r})::BIGINT) AS scores, count(*) FILTER (is_right) AS right
        FROM (
            SELECT block, {score} AS score, {label} = truth AS is_right FROM pairs
            WHERE r = {route} AND {label} IS NOT NULL AND truth IS NOT NULL
        )
        WHERE score BETWEEN 0 AND 1 GROUP BY block, bin
    """).fetchnumpy()
    if not len(rows["block"]) or not _are_probabilities(comparison, route, score):
        return None
    grids = {name: np.zeros((BLOCKS, BINS)) for name in ("records", "scores", "right")}
    for name, grid in grids.items():
        grid[rows["block"], rows["bin"]] = np.asarray(rows[name], np.float64)
    return _Sums(grids["records"], grids["scores"] * _SCORE_UNIT, grids["right"])


def _are_probabilities(comparison: Comparison, route: int, score: str) -> bool:
    found = comparison.database.execute(f"""
        SELECT bool_and({score} BETWEEN 0 AND 1) FROM pairs WHERE r = {route} AND {score} IS NOT NULL
    """).fetchall()
    return bool(found[0][0])


def _measure(route: str, candidate: _Sums, baseline: _Sums | None) -> Measure:
    mine = candidate.errors()
    told = resampled_interval(candidate.error(), mine)
    if baseline is None:
        return Measure(NAME, route, None, candidate.count, told)
    theirs = baseline.errors()
    difference: Interval = resampled_interval(candidate.error() - baseline.error(), mine - theirs)
    return Measure(NAME, route, None, candidate.count, told, resampled_interval(baseline.error(), theirs), difference)
