import io
import struct
import wave

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.pipeline import limits
from headrace.triton_models.serving import audio
from headrace.triton_models.serving.resample import resample

LONG = 600.0


def tone(rate_hz: int, seconds: float = 0.5, pitch_hz: float = 440.0) -> NDArray[np.float64]:
    return 0.5 * np.sin(2 * np.pi * pitch_hz * np.arange(int(rate_hz * seconds)) / rate_hz)


def wav(
    data: bytes, *, tag: int = 1, channels: int = 1, rate_hz: int = 16_000, bits: int = 16, size: int = -1
) -> bytes:
    frame = channels * bits // 8
    header = struct.pack("<HHIIHH", tag, channels, rate_hz, rate_hz * frame, frame, bits)
    chunks = b"fmt " + struct.pack("<I", 16) + header
    chunks += b"LIST" + struct.pack("<I", 3) + b"odd\0"  # a chunk to step over, padded to an even size
    chunks += b"data" + struct.pack("<I", len(data) if size < 0 else size) + data
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks


def samples(signal: NDArray[np.float64], tag: int, bits: int) -> bytes:
    if tag == 3:
        return signal.astype(f"<f{bits // 8}").tobytes()
    if bits == 8:
        return (np.round(signal * 127) + 128).astype("u1").tobytes()
    whole = np.round(signal * (2 ** (bits - 1) - 1)).astype("<i8")
    return bytes(whole.view("u1").reshape(-1, 8)[:, : bits // 8].tobytes())


@pytest.mark.parametrize(
    ("tag", "bits", "tolerance"),
    [(1, 8, 0.01), (1, 16, 1e-4), (1, 24, 1e-6), (1, 32, 1e-6), (3, 32, 1e-6), (3, 64, 1e-6)],
)
def test_decode_reads_every_sample_format(tag: int, bits: int, tolerance: float) -> None:
    signal = tone(16_000)
    decoded = audio.decode(wav(samples(signal, tag, bits), tag=tag, bits=bits), LONG)
    assert decoded.dtype == np.float32
    assert np.abs(decoded - signal).max() < tolerance


def test_decode_reads_the_extensible_format() -> None:
    signal = tone(16_000)
    header = struct.pack("<HHIIHH", 0xFFFE, 1, 16_000, 32_000, 2, 16) + struct.pack("<HHIH", 22, 16, 4, 1) + bytes(14)
    data = samples(signal, 1, 16)
    body = b"WAVEfmt " + struct.pack("<I", len(header)) + header + b"data" + struct.pack("<I", len(data)) + data
    decoded = audio.decode(b"RIFF" + struct.pack("<I", len(body)) + body, LONG)
    assert np.abs(decoded - signal).max() < 1e-4


def test_decode_reads_what_the_standard_library_writes() -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(2)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        writer.writeframes(np.array([[1000, 3000], [-2000, 0]], "<i2").tobytes())
    assert (audio.decode(file.getvalue(), LONG) * 32768).tolist() == [2000, -1000]  # channels are averaged


def test_decode_takes_other_bytes_for_raw_pcm() -> None:
    signal = tone(16_000)
    assert np.abs(audio.decode(samples(signal, 1, 16), LONG) - signal).max() < 1e-4


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 44_101, 96_000, 192_000])
def test_decode_resamples_to_16_khz(rate_hz: int) -> None:
    decoded = audio.decode(wav(samples(tone(rate_hz), 1, 16), rate_hz=rate_hz), LONG)
    assert abs(len(decoded) - 8_000) <= 1
    middle = slice(400, -400)  # the filter rings at both ends
    assert np.abs(decoded - tone(16_000)[: len(decoded)])[middle].max() < 2e-3


def test_resample_removes_what_would_fold_back() -> None:
    high = resample(tone(48_000, pitch_hz=11_000).astype(np.float32), 48_000, 16_000)
    assert np.abs(high[400:-400]).max() < 1e-3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"abc", "middle of a sample"),
        (b"RIFF", "not WAVE"),
        (b"RIFF\0\0\0\0AVI ", "not WAVE"),
        (b"RIFF\0\0\0\0WAVE", "no data chunk"),
        (b"fLaC" + bytes(100), "FLAC"),
        (b"OggS" + bytes(100), "Ogg"),
        (wav(bytes(100), size=101), "cut short: its b'data' chunk claims 101 bytes and 100 are there"),
        (wav(bytes(100), size=0xFFFFFFFF), "cut short"),
        (wav(bytes(101)), "middle of a sample"),
        (wav(bytes(100), channels=0), "0 channels"),
        (wav(bytes(100), rate_hz=0), "0 Hz"),
        (wav(bytes(100), rate_hz=4_000_000), "4000000 Hz"),
        (wav(bytes(100), bits=12), "12 bits"),
        (wav(bytes(100), tag=85), "format 85"),
        (wav(np.array([np.nan], "<f4").tobytes(), tag=3, bits=32), "not finite"),
        (wav(np.array([1e39], "<f8").tobytes(), tag=3, bits=64), "not finite"),
        (wav(bytes(32_000 * 3))[:-1], "cut short"),
    ],
)
def test_decode_says_what_is_wrong(content: bytes, reason: str) -> None:
    with pytest.raises(audio.AudioError, match=reason):
        audio.decode(content, LONG)


def test_decode_counts_the_chunks_before_the_samples() -> None:
    whole, before = wav(bytes(100)), limits.MAX_WAV_CHUNKS - 3  # fmt, LIST and data are there already
    many, too_many = (whole[:12] + b"junk\0\0\0\0" * count + whole[12:] for count in (before, before + 1))
    assert len(audio.decode(many, LONG)) == 50
    with pytest.raises(audio.AudioError, match="more than 10000 chunks before its data"):
        audio.decode(too_many, LONG)


def test_decode_refuses_a_recording_that_is_too_long() -> None:
    assert len(audio.decode(bytes(32_000 * 2), 2.0)) == 32_000
    with pytest.raises(audio.AudioError, match=r"lasts 2\.0 s; at most 1 s"):
        audio.decode(bytes(32_000 * 2), 1.0)


def test_decode_of_random_bytes_is_audio_or_an_error() -> None:
    random = np.random.default_rng(2)
    for start in (b"", b"RIFF", b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0", b"RIFF\0\0\0\0WAVE"):
        for length in range(0, 200, 3):
            try:
                decoded = audio.decode(start + random.bytes(length), LONG)
            except audio.AudioError:
                continue
            assert np.isfinite(decoded).all()
