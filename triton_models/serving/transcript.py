"""Speech to text with Whisper: windows of 30 s, several recordings at a time, and the rules around the network.

The rules are those of ``transcribe`` in ``whisper/transcribe.py`` of OpenAI's Whisper (github.com/openai/whisper, MIT):
a window ends where its last whole segment does, and what the network takes for no speech is left out. Three differ, so
that the answer to a recording is always the same and depends on nothing but it: earlier text is no prompt for later
windows; a window that repeats itself is decoded again without repetitions instead of at random; and nothing is heard
where voice activity detection hears no voice, for Whisper makes words up in silence and noise.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .mel import BANDS, HOP, RATE_HZ, Floats, log_mel

WINDOW_FRAMES = 3_000
"""30 s: what the network takes."""
_FRAMES_A_SECOND = RATE_HZ // HOP
_FRAMES_A_TIMESTAMP = 2
_TIMESTAMP_SECONDS = _FRAMES_A_TIMESTAMP / _FRAMES_A_SECOND
_LEAST_ADVANCE = _FRAMES_A_SECOND
"""However short the segments that the network finds: bounds the number of windows of a recording."""
_SHORTEST_SAMPLES = 201
"""The spectrum mirrors half a window at both ends; anything shorter says nothing anyway."""

Spans = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Rules:
    """When a window's text is not believed. Defaults are Whisper's."""

    no_speech_threshold: float = 0.6
    logprob_threshold: float = -1.0
    compression_threshold: float = 2.4


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the network made of a window."""

    tokens: tuple[int, ...]
    """Text and timestamps, without the end's token."""
    mean_logprob: float
    no_speech: float
    """Probability that the window holds no speech."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Times in seconds of the recording."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """What is to be known of the vocabulary."""

    first_timestamp: int
    """This token and those above it are times, 0.02 s apart."""
    text: Callable[[Sequence[int]], str]


Decode = Callable[[Floats, bool], Sequence[Decoded]]
"""Windows float32 [N, 80, 3000] to N answers; with True, such as hold no sequence of three tokens twice."""


@dataclass(slots=True)
class _Recording:
    features: Floats
    speech: Spans
    at: int = 0
    """The frame from which on it is not transcribed yet."""
    segments: list[Segment] = field(default_factory=list)

    def next_window(self) -> Floats | None:
        """The next window with a voice in it, None if there is none any more."""
        length = self.features.shape[1]
        while self.at < length and not self._voiced(self.at, self.at + WINDOW_FRAMES):
            self.at += WINDOW_FRAMES
        if self.at >= length:
            return None
        window = np.zeros((BANDS, WINDOW_FRAMES), np.float32)
        part = self.features[:, self.at : self.at + WINDOW_FRAMES]
        window[:, : part.shape[1]] = part
        return window

    def _voiced(self, first: int, end: int) -> bool:
        return self._voiced_seconds(first / _FRAMES_A_SECOND, end / _FRAMES_A_SECOND)

    def _voiced_seconds(self, start: float, end: float) -> bool:
        return any(begun < end and ended > start for begun, ended in self.speech)

    def take(self, decoded: Decoded, tokens: Tokens, rules: Rules) -> None:
        """Add the window's segments and go on to where the next begins."""
        frames = min(WINDOW_FRAMES, self.features.shape[1] - self.at)
        if decoded.no_speech > rules.no_speech_threshold and decoded.mean_logprob < rules.logprob_threshold:
            self.at += frames
            return
        offset = self.at / _FRAMES_A_SECOND
        pieces, advance = _pieces(decoded.tokens, tokens.first_timestamp, frames)
        for start, end, piece in pieces:
            text = tokens.text(piece).strip()
            segment = Segment(offset + start, offset + min(end, frames / _FRAMES_A_SECOND), text)
            if text and segment.end > segment.start and self._voiced_seconds(segment.start, segment.end):
                self.segments.append(segment)
        self.at += advance


def _pieces(
    tokens: Sequence[int], first_timestamp: int, frames: int
) -> tuple[list[tuple[float, float, list[int]]], int]:
    """A window's segments (start and end in seconds of the window, text tokens), and how many frames they cover."""
    times = [token >= first_timestamp for token in tokens]
    # Where one segment's end is followed by the next one's start.
    cuts = [index for index in range(1, len(tokens)) if times[index - 1] and times[index]]
    ends_with_one = times[-2:] == [False, True]
    if not cuts:
        marks = [token for token, is_time in zip(tokens, times, strict=True) if is_time and token != first_timestamp]
        end = (marks[-1] - first_timestamp) * _TIMESTAMP_SECONDS if marks else frames / _FRAMES_A_SECOND
        words = [token for token, is_time in zip(tokens, times, strict=True) if not is_time]
        return [(0.0, end, words)], frames
    if ends_with_one:
        cuts.append(len(tokens))
    pieces = []
    for begin, cut in zip([0, *cuts], cuts, strict=False):
        piece = tokens[begin:cut]
        start, end = (
            (mark - first_timestamp) * _TIMESTAMP_SECONDS if mark >= first_timestamp else 0.0
            for mark in (piece[0], piece[-1])
        )
        pieces.append((start, end, [token for token in piece if token < first_timestamp]))
    if ends_with_one:  # it says that nothing is spoken after it
        return pieces, frames
    last = tokens[cuts[-1] - 1] - first_timestamp
    return pieces, min(frames, max(_LEAST_ADVANCE, last * _FRAMES_A_TIMESTAMP))


def transcribe(
    recordings: Sequence[tuple[Floats, Spans]], decode: Decode, tokens: Tokens, rules: Rules
) -> list[list[Segment]]:
    """Segments of each recording, in order.

    Args:
        recordings: samples at 16 kHz of each, and where a voice is heard in it, in seconds.
        decode: the network; it gets a window of every recording that is not at its end.
        tokens: its vocabulary.
        rules: when its text is not believed.
    """
    found = [
        _Recording(log_mel(samples) if len(samples) >= _SHORTEST_SAMPLES else np.zeros((BANDS, 0), np.float32), speech)
        for samples, speech in recordings
    ]
    while True:
        waiting = [(one, window) for one in found if (window := one.next_window()) is not None]
        if not waiting:
            return [one.segments for one in found]
        windows = np.stack([window for _, window in waiting])
        answers = list(decode(windows, False))
        repeating = [row for row, answer in enumerate(answers) if _repeats(answer, tokens, rules)]
        if repeating:
            for row, answer in zip(repeating, decode(windows[repeating], True), strict=True):
                answers[row] = answer
        for (one, _), answer in zip(waiting, answers, strict=True):
            one.take(answer, tokens, rules)


def _repeats(decoded: Decoded, tokens: Tokens, rules: Rules) -> bool:
    text = tokens.text([token for token in decoded.tokens if token < tokens.first_timestamp]).encode()
    return bool(text) and len(text) / len(zlib.compress(text)) > rules.compression_threshold


def mean_logprob(score: float, length: int) -> float:
    """The score of a sequence of ``length`` tokens, a mean over them, as Whisper counts: with the end's token."""
    return score * length / (length + 1) if math.isfinite(score) else -math.inf
