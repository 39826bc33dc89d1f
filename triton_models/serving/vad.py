"""Voice activity: speech probability of each 32 ms, and the segments that follow from them.

Model, framing and rules are Silero VAD's (github.com/snakers4/silero-vad, MIT): ``sequence_vad.py`` and
``get_speech_timestamps_from_probs`` in ``utils_vad.py``, without their limit on a segment's length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Network = Callable[[Floats, Floats, Floats], tuple[Floats, Floats, Floats]]
"""Frames [F, 576], hidden and cell state [1, 1, 128] to probabilities [F] and the new states."""

RATE_HZ = 16_000
FRAME = 512
CONTEXT = 64
_STATE = (1, 1, 128)
# 16 s a call: bounds memory whatever the length of the recording.
_FRAMES_A_CALL = 512


@dataclass(frozen=True, slots=True)
class Rules:
    """When speech starts and ends. Defaults are Silero's."""

    threshold: float = 0.5
    exit_threshold: float = 0.35
    min_speech_seconds: float = 0.25
    min_silence_seconds: float = 0.1
    padding_seconds: float = 0.03


def speech_probabilities(audio: Floats, network: Network) -> Floats:
    """One probability for each 512 samples; the last are filled up with silence."""
    frames = -(-len(audio) // FRAME)
    padded = np.zeros(CONTEXT + frames * FRAME, np.float32)
    padded[CONTEXT : CONTEXT + len(audio)] = audio
    windows = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + FRAME)[::FRAME] if frames else padded[:0]
    hidden, cell = np.zeros(_STATE, np.float32), np.zeros(_STATE, np.float32)
    found: list[Floats] = []
    for start in range(0, frames, _FRAMES_A_CALL):
        block = np.ascontiguousarray(windows[start : start + _FRAMES_A_CALL])
        probabilities, hidden, cell = network(block, hidden, cell)
        found.append(probabilities.reshape(-1))
    return np.concatenate(found) if found else np.zeros(0, np.float32)


def speech_segments(probabilities: Floats, length: int, rules: Rules) -> list[tuple[float, float]]:
    """Start and end of each stretch of speech, in seconds, in order; ``length`` is the audio's in samples."""
    stretches = _pad(_stretches(probabilities, length, rules), length, rules)
    return [(start / RATE_HZ, end / RATE_HZ) for start, end in stretches]


def _stretches(probabilities: Floats, length: int, rules: Rules) -> list[tuple[int, int]]:
    """Hysteresis: in at ``threshold``, out where it stays below ``exit_threshold`` for the shortest silence."""
    shortest = rules.min_speech_seconds * RATE_HZ
    silence = rules.min_silence_seconds * RATE_HZ
    found: list[tuple[int, int]] = []
    start: int | None = None
    quiet_since: int | None = None
    for index, probability in enumerate(probabilities.tolist()):
        now = index * FRAME
        if probability >= rules.threshold:
            quiet_since = None
            start = now if start is None else start
        elif start is not None and probability < rules.exit_threshold:
            quiet_since = now if quiet_since is None else quiet_since
            if now - quiet_since >= silence:
                if quiet_since - start > shortest:
                    found.append((start, quiet_since))
                start = quiet_since = None
    if start is not None and length - start > shortest:
        found.append((start, length))
    return found


def _pad(stretches: Sequence[tuple[int, int]], length: int, rules: Rules) -> list[tuple[int, int]]:
    """Widened on both sides; two that would overlap share the gap between them."""
    padding = int(rules.padding_seconds * RATE_HZ)
    starts = [start for start, _ in stretches]
    ends = [end for _, end in stretches]
    for index in range(len(stretches)):
        gap_before = starts[index] - stretches[index - 1][1] if index else 2 * padding
        gap_after = stretches[index + 1][0] - ends[index] if index + 1 < len(stretches) else 2 * padding
        starts[index] = max(0, starts[index] - (padding if gap_before >= 2 * padding else gap_before // 2))
        ends[index] = min(length, ends[index] + (padding if gap_after >= 2 * padding else gap_after // 2))
    return list(zip(starts, ends, strict=True))


def pack(rows: Sequence[Sequence[tuple[float, float]]]) -> Floats:
    """Segments of several recordings as float32 [N, longest, 2]; shorter ones, and none at all, end in NaN rows."""
    packed = np.full((len(rows), max(1, *map(len, rows)) if rows else 1, 2), np.nan, np.float32)
    for row, segments in enumerate(rows):
        packed[row, : len(segments)] = np.array(segments, np.float32).reshape(-1, 2)
    return packed
