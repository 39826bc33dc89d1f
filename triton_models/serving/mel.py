"""Whisper's input: the log-mel spectrogram of 16 kHz audio.

As ``log_mel_spectrogram`` in ``whisper/audio.py`` of OpenAI's Whisper (github.com/openai/whisper, MIT). Its mel filters
are those of ``librosa.filters.mel(sr=16000, n_fft=400, n_mels=80)`` (Slaney's scale and normalisation).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

RATE_HZ = 16_000
HOP = 160
BANDS = 80
_WINDOW = 400
_BLOCK_FRAMES = 3_000
"""30 s of audio a step: bounds the memory of the complex spectrum, whatever the length of the recording."""
_DYNAMIC_RANGE = 8.0


def mel_filters() -> Floats:
    """Triangles over the bins of the spectrum, float32 [80, 201]."""
    bins_hz = np.fft.rfftfreq(_WINDOW, 1 / RATE_HZ)
    edges_hz = _hz(np.linspace(0.0, _mel(RATE_HZ / 2), BANDS + 2))
    widths = np.diff(edges_hz)
    ramps = edges_hz[:, None] - bins_hz
    rising, falling = -ramps[:-2] / widths[:-1, None], ramps[2:] / widths[1:, None]
    area = 2.0 / (edges_hz[2:] - edges_hz[:-2])
    return (np.maximum(0.0, np.minimum(rising, falling)) * area[:, None]).astype(np.float32)


# Slaney's scale: linear up to 1 kHz, at 15 mel, logarithmic above.
_LINEAR_HZ = 200.0 / 3
_LOG_FROM_MEL, _LOG_FROM_HZ, _LOG_STEP = 15.0, 1000.0, np.log(6.4) / 27.0


def _mel(hz: float) -> float:
    if hz < _LOG_FROM_HZ:
        return hz / _LINEAR_HZ
    return float(_LOG_FROM_MEL + np.log(hz / _LOG_FROM_HZ) / _LOG_STEP)


def _hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    logarithmic = _LOG_FROM_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _LOG_FROM_MEL) - _LOG_FROM_MEL))
    return np.where(mel < _LOG_FROM_MEL, mel * _LINEAR_HZ, logarithmic)


_FILTERS = mel_filters()
_HANN = np.hanning(_WINDOW + 1)[:-1].astype(np.float32)


def log_mel(samples: Floats) -> Floats:
    """float32 [80, N // 160] of N samples at 16 kHz, N at least 201; about -1 to 1.5."""
    padded = np.pad(samples, _WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::HOP][: len(samples) // HOP]
    spectrum = np.empty((BANDS, len(frames)), np.float32)
    for start in range(0, len(frames), _BLOCK_FRAMES):
        part = slice(start, start + _BLOCK_FRAMES)
        power = np.abs(np.fft.rfft(frames[part] * _HANN, axis=1)).astype(np.float32) ** 2
        spectrum[:, part] = np.log10(np.maximum(_FILTERS @ power.T, 1e-10))
    if spectrum.size:
        np.maximum(spectrum, np.max(spectrum) - _DYNAMIC_RANGE, out=spectrum)
    spectrum += 4.0
    spectrum /= 4.0
    return spectrum
