"""WAV files and raw PCM to 16 kHz mono. Headers come from anywhere: what they claim is checked against the bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .resample import resample

RATE_HZ = 16_000
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 4_000, 384_000
_MOST_CHANNELS = 64
MAX_WAV_CHUNKS = 10_000
_PCM, _FLOAT, _EXTENSIBLE = 0x0001, 0x0003, 0xFFFE
# Containers that somebody will send sooner or later; read as raw PCM they would be noise.
_OTHERS = {
    b"fLaC": "FLAC",
    b"OggS": "Ogg",
    b"ID3": "MP3",
    b"FORM": "AIFF",
    b"RF64": "RF64",
    b"RIFX": "big-endian WAV",
    b"\x1aE\xdf\xa3": "Matroska or WebM",
}


class AudioError(ValueError):
    """These bytes are no audio this model takes; the message says why."""


@dataclass(frozen=True, slots=True)
class _Format:
    tag: int
    channels: int
    rate_hz: int
    bits: int

    @property
    def frame_bytes(self) -> int:
        return self.channels * self.bits // 8


def decode(content: bytes, max_seconds: float) -> NDArray[np.float32]:
    """A WAV file, or else raw 16-bit little-endian mono PCM at 16 kHz, as float32 in -1 to 1 at 16 kHz, mono.

    Raises:
        AudioError: if it is neither, is cut short, or lasts longer than ``max_seconds``.
    """
    if not content:
        raise AudioError("the audio is empty")
    if content.startswith(b"RIFF"):
        wave_format, data = _read_wave(content)
    else:
        wave_format, data = _Format(_PCM, 1, RATE_HZ, 16), memoryview(content)
        for start, name in _OTHERS.items():
            if content.startswith(start):
                raise AudioError(f"the audio is {name}: send WAV, or raw 16-bit mono PCM at 16 kHz")
    if len(data) % wave_format.frame_bytes:
        raise AudioError("the audio ends in the middle of a sample")
    seconds = len(data) / wave_format.frame_bytes / wave_format.rate_hz
    if seconds > max_seconds:
        raise AudioError(f"the audio lasts {seconds:.1f} s; at most {max_seconds:g} s are taken: send it in pieces")
    samples = _samples(wave_format, data).reshape(-1, wave_format.channels)
    mono = samples[:, 0] if wave_format.channels == 1 else samples.mean(axis=1, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise AudioError("the audio has samples that are not finite numbers")
    return resample(np.ascontiguousarray(mono), wave_format.rate_hz, RATE_HZ)


def _read_wave(content: bytes) -> tuple[_Format, memoryview]:
    """The format and the sample bytes of a RIFF/WAVE file."""
    view = memoryview(content)
    if content[8:12] != b"WAVE":
        raise AudioError("the audio is a RIFF file but not WAVE")
    wave_format: _Format | None = None
    at = 12
    for _ in range(MAX_WAV_CHUNKS):
        if at + 8 > len(view):
            raise AudioError("the WAV has no data chunk")
        kind, size = bytes(view[at : at + 4]), int.from_bytes(view[at + 4 : at + 8], "little")
        start, end = at + 8, at + 8 + size
        if end > len(view):
            raise AudioError(
                f"the WAV is cut short: its {kind!r} chunk claims {size} bytes and {len(view) - start} are there"
            )
        if kind == b"fmt ":
            wave_format = _read_format(view[start:end])
        elif kind == b"data":
            if wave_format is None:
                raise AudioError("the WAV is corrupt: its data comes before its format")
            return wave_format, view[start:end]
        at = end + size % 2  # chunks are padded to even sizes
    raise AudioError(f"the WAV has more than {MAX_WAV_CHUNKS} chunks before its data")


def _read_format(chunk: memoryview) -> _Format:
    if len(chunk) < 16:
        raise AudioError("the WAV is corrupt: its format chunk is too short")
    tag, channels, rate_hz, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == _EXTENSIBLE:
        if len(chunk) < 26:
            raise AudioError("the WAV is corrupt: its extensible format is too short")
        (tag,) = struct.unpack_from("<H", chunk, 24)
    if (tag, bits) not in _READERS:
        raise AudioError(f"the WAV has format {tag} with {bits} bits: PCM of 8, 16, 24 or 32 bits or floats are taken")
    if not 1 <= channels <= _MOST_CHANNELS:
        raise AudioError(f"the WAV has {channels} channels: 1 to {_MOST_CHANNELS} are taken")
    if not LOWEST_RATE_HZ <= rate_hz <= HIGHEST_RATE_HZ:
        raise AudioError(f"the WAV has {rate_hz} Hz: {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} Hz are taken")
    wave_format = _Format(tag, channels, rate_hz, bits)
    if frame_bytes != wave_format.frame_bytes:
        raise AudioError(f"the WAV is corrupt: {channels} x {bits} bits do not make frames of {frame_bytes} bytes")
    return wave_format


def _samples(wave_format: _Format, data: memoryview) -> NDArray[np.float32]:
    dtype, scale = _READERS[wave_format.tag, wave_format.bits]
    if (wave_format.tag, wave_format.bits) == (_PCM, 24):  # no such dtype: the upper three bytes of an int32
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        samples = wide.view("<i4")[:, 0].astype(np.float32)
    else:
        with np.errstate(over="ignore"):  # becomes infinite, which the caller refuses
            samples = np.frombuffer(data, dtype).astype(np.float32)
    if wave_format.bits == 8:  # the one unsigned format
        samples -= 128
    samples *= np.float32(scale)
    return samples


_READERS: dict[tuple[int, int], tuple[str, float]] = {
    (_PCM, 8): ("u1", 2.0**-7),
    (_PCM, 16): ("<i2", 2.0**-15),
    (_PCM, 24): ("<i4", 2.0**-31),
    (_PCM, 32): ("<i4", 2.0**-31),
    (_FLOAT, 32): ("<f4", 1.0),
    (_FLOAT, 64): ("<f8", 1.0),
}
