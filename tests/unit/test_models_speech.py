"""Speech to text without its network: the spectrum that goes in, and the rules for what comes out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from headrace.triton_models.serving.mel import BANDS, Floats, log_mel, mel_filters
from headrace.triton_models.serving.transcript import (
    WINDOW_FRAMES,
    Decoded,
    Rules,
    Segment,
    Tokens,
    mean_logprob,
    transcribe,
)

RATE_HZ = 16_000
FIRST_TIMESTAMP = 1_000
WORDS = {1: " one", 2: " two", 3: " three"}


def seconds(value: float) -> int:
    """The token of a time in a window."""
    return FIRST_TIMESTAMP + round(value / 0.02)


TOKENS = Tokens(FIRST_TIMESTAMP, lambda ids: "".join(WORDS[token] for token in ids))


class FakeNetwork:
    """Answers from a script, one entry a window, and remembers what it was asked."""

    def __init__(self, *answers: Decoded) -> None:
        self._answers = list(answers)
        self.calls: list[tuple[int, bool]] = []
        self.windows: list[Floats] = []

    def __call__(self, windows: Floats, without_repetition: bool) -> Sequence[Decoded]:
        assert windows.shape[1:] == (BANDS, WINDOW_FRAMES)
        self.calls.append((len(windows), without_repetition))
        self.windows += list(windows)
        return [self._answers.pop(0) for _ in windows]


def decoded(*tokens: int, mean: float = -0.2, no_speech: float = 0.0) -> Decoded:
    return Decoded(tokens, mean, no_speech)


def tone(length_seconds: float, hz: float = 440.0) -> Floats:
    return np.sin(2 * np.pi * hz * np.arange(int(RATE_HZ * length_seconds)) / RATE_HZ).astype(np.float32)


def run(network: FakeNetwork, *recordings: tuple[Floats, list[tuple[float, float]]]) -> list[list[Segment]]:
    return transcribe(recordings, network, TOKENS, Rules())


def test_mel_filters_are_those_of_whisper() -> None:
    """Values of ``mel_80`` in ``whisper/assets/mel_filters.npz``."""
    filters = mel_filters()
    assert filters.shape == (80, 201)
    for band, column, expected in (
        (0, 1, 0.02486259490251541),
        (10, 11, 0.004954374860972166),
        (40, 55, 0.0),
        (79, 195, 0.0022437951993197203),
    ):
        assert filters[band, column] == pytest.approx(expected, abs=1e-8)
    assert np.max(filters) == pytest.approx(0.025880683, abs=1e-8)


def test_log_mel_is_loudest_where_the_tone_is() -> None:
    spectrum = log_mel(tone(1.0, 1_000.0))
    assert spectrum.shape == (80, 100)
    assert spectrum.dtype == np.float32
    centres = np.argmax(mel_filters(), axis=1) * RATE_HZ / 400
    assert centres[np.argmax(spectrum[:, 50])] == pytest.approx(1_000, abs=40)
    assert np.max(spectrum) - np.min(spectrum) <= 2.0 + 1e-6  # eight decades, a fourth of them


def test_log_mel_of_a_long_recording_is_that_of_its_whole() -> None:
    """It is computed in pieces, but scaled as one."""
    samples = np.concatenate([tone(40.0) * np.float32(0.001), tone(1.0)])
    spectrum = log_mel(samples)
    assert spectrum.shape == (80, 4_100)
    assert np.allclose(spectrum[:, 3_990:], log_mel(samples[3_900 * 160 :])[:, 90:], atol=1e-4)


def test_window_becomes_segments_where_its_times_say() -> None:
    network = FakeNetwork(decoded(seconds(0), 1, seconds(1.5), seconds(2), 2, 3, seconds(4)))
    [segments] = run(network, (tone(5.0), [(0.0, 5.0)]))
    assert segments == [Segment(0.0, 1.5, "one"), Segment(2.0, 4.0, "two three")]
    assert network.calls == [(1, False)]


def test_next_window_begins_where_the_last_whole_segment_ends() -> None:
    network = FakeNetwork(
        decoded(seconds(0), 1, seconds(20), seconds(20), 2), decoded(seconds(0), 2, seconds(12)), decoded()
    )
    [segments] = run(network, (tone(40.0), [(0.0, 40.0)]))
    assert segments == [Segment(0.0, 20.0, "one"), Segment(20.0, 32.0, "two")]
    assert len(network.calls) == 2
    frames = log_mel(tone(40.0))
    assert np.array_equal(network.windows[1][:, :2_000], frames[:, 2_000:])
    assert not network.windows[1][:, 2_000:].any()


def test_segments_that_end_at_once_cannot_make_windows_without_end() -> None:
    network = FakeNetwork(*[decoded(seconds(0), 1, seconds(0.02), seconds(0.02), 2)] * 10)
    run(network, (tone(10.0), [(0.0, 10.0)]))
    assert len(network.calls) == 10


def test_times_beyond_the_recording_end_with_it() -> None:
    [segments] = run(FakeNetwork(decoded(seconds(0), 1, seconds(29))), (tone(3.0), [(0.0, 3.0)]))
    assert segments == [Segment(0.0, 3.0, "one")]


def test_recording_without_a_voice_is_not_even_asked_about() -> None:
    network = FakeNetwork()
    assert run(network, (np.zeros(RATE_HZ * 50, np.float32), []), (tone(50.0), [])) == [[], []]
    assert network.calls == []


def test_windows_without_a_voice_are_skipped_and_words_outside_it_dropped() -> None:
    network = FakeNetwork(decoded(seconds(0), 1, seconds(2), seconds(2), 2, seconds(20)))
    [segments] = run(network, (tone(70.0), [(33.0, 35.0)]))
    assert segments == [Segment(32.0, 50.0, "two")]
    assert network.calls == [(1, False)]


@pytest.mark.parametrize(
    ("no_speech", "mean", "kept"), [(0.7, -1.1, False), (0.7, -0.9, True), (0.5, -1.1, True), (0.1, -0.1, True)]
)
def test_unlikely_text_of_what_may_be_no_speech_is_not_believed(no_speech: float, mean: float, kept: bool) -> None:
    answer = decoded(seconds(0), 1, seconds(2), mean=mean, no_speech=no_speech)
    [segments] = run(FakeNetwork(answer), (tone(2.0), [(0.0, 2.0)]))
    assert bool(segments) == kept


def test_window_that_repeats_itself_is_decoded_again_without_repetition() -> None:
    network = FakeNetwork(
        decoded(seconds(0), 1, seconds(2)),
        decoded(seconds(0), *[2, 3] * 60, seconds(2)),
        decoded(seconds(0), 3, seconds(2)),
    )
    whole = [(0.0, 2.0)]
    assert run(network, (tone(2.0), whole), (tone(2.0), whole)) == [
        [Segment(0.0, 2.0, "one")],
        [Segment(0.0, 2.0, "three")],
    ]
    assert network.calls == [(2, False), (1, True)]


def test_recordings_share_calls_until_each_is_at_its_end() -> None:
    end = decoded(seconds(0), 1, seconds(30))
    network = FakeNetwork(*[end] * 6)
    found = run(network, *((tone(length), [(0.0, length)]) for length in (10.0, 65.0, 40.0)))
    assert [len(segments) for segments in found] == [1, 3, 2]
    assert [rows for rows, _ in network.calls] == [3, 2, 1]


@pytest.mark.parametrize("samples", [0, 1, 200])
def test_recording_too_short_for_a_spectrum_has_no_text(samples: int) -> None:
    assert run(FakeNetwork(), (np.zeros(samples, np.float32), [(0.0, 1.0)])) == [[]]


def test_window_without_times_is_one_segment() -> None:
    [segments] = run(FakeNetwork(decoded(1, 2)), (tone(3.0), [(0.0, 3.0)]))
    assert segments == [Segment(0.0, 3.0, "one two")]


def test_mean_logprob_counts_the_end() -> None:
    assert mean_logprob(-1.0, 9) == pytest.approx(-0.9)
    assert mean_logprob(float("nan"), 0) == -np.inf
