import numpy as np

from headrace.triton_models.serving import vad
from headrace.triton_models.serving.vad import FRAME, RATE_HZ, Rules, speech_segments

PLAIN = Rules(padding_seconds=0.0)


def segments(pattern: str, rules: Rules = PLAIN, cut: int = 0) -> list[tuple[float, float]]:
    """A character a frame: ``#`` speech, ``-`` between the thresholds, anything else silence. In frames."""
    levels = {"#": 0.9, "-": 0.4}
    probabilities = np.array([levels.get(mark, 0.1) for mark in pattern], np.float32)
    found = speech_segments(probabilities, len(pattern) * FRAME - cut, rules)
    return [(start * RATE_HZ / FRAME, end * RATE_HZ / FRAME) for start, end in found]


def test_silence_has_no_segments() -> None:
    assert segments("...................") == []


def test_speech_runs_from_its_first_to_its_last_frame() -> None:
    assert segments("....############.......") == [(4, 16)]


def test_a_short_gap_does_not_divide_speech() -> None:
    assert segments("##########..##########.....") == [(0, 22)]


def test_a_long_gap_divides_speech() -> None:
    assert segments("##########.....##########.....") == [(0, 10), (15, 25)]


def test_short_noise_is_no_speech() -> None:
    assert segments("...#####........") == []


def test_a_doubtful_stretch_continues_speech_but_does_not_start_it() -> None:
    assert segments("--------##########--------------##.....") == [(8, 34)]


def test_speech_until_the_end_ends_with_the_audio() -> None:
    assert segments("....##########", cut=100) == [(4, 14 - 100 / FRAME)]


def test_padding_widens_within_the_audio() -> None:
    frame = 480 / FRAME
    assert segments("##########.....##########", Rules()) == [(0, 10 + frame), (15 - frame, 25)]


def test_padding_is_shared_where_segments_are_close() -> None:
    rules = Rules(padding_seconds=0.2)
    assert segments("##########.....##########..........", rules) == [(0, 12.5), (12.5, 25 + 6.25)]


def test_probabilities_are_the_same_whatever_the_block_size() -> None:
    """A network that adds up what it saw: state and context must be handed on between calls."""
    calls = []

    def network(frames: vad.Floats, hidden: vad.Floats, cell: vad.Floats) -> tuple[vad.Floats, vad.Floats, vad.Floats]:
        calls.append(len(frames))
        assert frames.shape[1] == FRAME + vad.CONTEXT
        sums = np.cumsum(np.concatenate([hidden[0, 0, :1], frames[:, 0]])).astype(np.float32)[1:]
        return sums, np.full_like(hidden, sums[-1]), cell

    audio = np.arange(FRAME * 1100 + 7, dtype=np.float32) % 5
    probabilities = vad.speech_probabilities(audio, network)
    padded = np.concatenate([np.zeros(vad.CONTEXT, np.float32), audio])
    assert calls == [512, 512, 77]
    assert np.array_equal(probabilities, np.cumsum(padded[::FRAME][: len(probabilities)]))


def test_probabilities_of_nothing_are_none() -> None:
    def network(*_: vad.Floats) -> tuple[vad.Floats, vad.Floats, vad.Floats]:
        raise AssertionError("nothing to run on")

    assert len(vad.speech_probabilities(np.zeros(0, np.float32), network)) == 0


def test_pack_fills_shorter_rows_with_nan() -> None:
    packed = vad.pack([[(0.5, 1.0)], [], [(0.0, 1.0), (2.0, 3.0)]])
    assert packed.shape == (3, 2, 2)
    assert np.isnan(packed).sum() == 2 + 4
    assert packed[2].tolist() == [[0, 1], [2, 3]]


def test_pack_of_no_segments_still_has_a_row() -> None:
    assert vad.pack([[]]).shape == (1, 1, 2)
