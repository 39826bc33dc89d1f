"""Medians over repetitions, with an interval by bootstrap."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

RESAMPLES = 2_000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """The ``median`` of some values; ``low`` and ``high``: between them lie 95 % of the medians of resampled ones."""

    median: float
    low: float
    high: float
    values: int


def estimate(values: Sequence[float]) -> Estimate:
    """Of one or more values, one a repetition."""
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(RESAMPLES))
    left_out = round(RESAMPLES * (1 - CONFIDENCE) / 2)
    return Estimate(statistics.median(values), medians[left_out], medians[-1 - left_out], len(values))


def ratio(pairs: Sequence[tuple[float, float]]) -> Estimate:
    """How many times the second the first is.

    Args:
        pairs: each measured one soon after the other; no second is zero.
    """
    return estimate([first / second for first, second in pairs])
