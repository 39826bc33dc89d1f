"""Sample-rate conversion by a polyphase low-pass filter (Kaiser-windowed sinc)."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Zero crossings each side and Kaiser's beta: some 80 dB against aliases, a transition band of 8 % of the rate.
_HALF_WIDTH = 16
_BETA = 8.0
# 11,025 and 44,100 Hz to 16,000 are exact within it; an odd rate is met to a millionth.
_MOST_PHASES = 640


def resample(samples: NDArray[np.float32], rate_hz: int, target_hz: int) -> NDArray[np.float32]:
    """``samples`` at ``target_hz``: as many as last the same time, rounded up."""
    if rate_hz == target_hz or len(samples) == 0:
        return samples
    step = Fraction(rate_hz, target_hz).limit_denominator(_MOST_PHASES)
    filters = _filters(step)
    phases, taps = filters.shape
    count = -(-len(samples) * step.denominator // step.numerator)
    padded = np.concatenate([np.zeros(taps // 2 - 1, np.float32), samples, np.zeros(taps + step.numerator, np.float32)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps)
    result = np.empty(count, np.float32)
    for phase in range(min(phases, count)):
        first = phase * step.numerator // step.denominator
        places = len(range(phase, count, phases))
        result[phase::phases] = windows[first :: step.numerator][:places] @ filters[phase]
    return result


@lru_cache(maxsize=8)
def _filters(step: Fraction) -> NDArray[np.float32]:
    """For each phase, the weights of the input samples around one output sample. ``step`` is input per output."""
    cutoff = min(1.0, 1 / float(step))
    reach = int(np.ceil(_HALF_WIDTH / cutoff))
    phase = np.arange(step.denominator) * step.numerator % step.denominator / step.denominator
    distance = np.arange(1 - reach, reach + 1) - phase[:, None]
    window = np.i0(_BETA * np.sqrt(np.clip(1 - (distance / reach) ** 2, 0, 1))) / np.i0(_BETA)
    weights = np.sinc(distance * cutoff) * window
    normalised: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return normalised
