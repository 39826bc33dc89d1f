"""Seeded variations of the bundled data: the same generator state gives the same bytes."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from headrace.pipeline.demo.assets import Clip, Photo, to_wav

SOUND_RATE_HZ = 16_000
FULL_SCALE = 32_767
TEMPLATES = (
    "{sentence}",
    "{sentence} (note {number})",
    "Message {number}: {sentence}",
    "{sentence} [{hour:02d}:{minute:02d}]",
)

Signal = NDArray[np.float64]


def photo(rng: np.random.Generator, original: Photo) -> Photo:
    """Crop, flip, brightness, contrast, and JPEG (quality 60 to 95) or, for a PNG original, PNG."""
    image: NDArray[Any] | None = cv2.imdecode(np.frombuffer(original.data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{original.name} is no image that OpenCV can decode")
    height, width = image.shape[:2]
    kept = rng.uniform(0.85, 1.0)
    top = int(rng.uniform(0, height * (1 - kept)))
    left = int(rng.uniform(0, width * (1 - kept)))
    image = image[top : top + int(height * kept), left : left + int(width * kept)]
    if rng.random() < 0.5:
        image = cv2.flip(image, 1)
    image = cv2.convertScaleAbs(image, alpha=rng.uniform(0.85, 1.15), beta=rng.uniform(-15, 15))
    if original.content_type == "image/png":
        _, encoded = cv2.imencode(".png", image)
    else:
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96))])
    return Photo(original.name, original.content_type, encoded.tobytes())


def speech(rng: np.random.Generator, clip: Clip) -> bytes:
    """WAV: silence of 0.2 to 1 s before and after, another gain, a little noise."""
    signal = clip.samples.astype(np.float64) * rng.uniform(0.5, 1.2)
    before, after = (int(clip.rate_hz * rng.uniform(0.2, 1.0)) for _ in range(2))
    signal = np.concatenate([np.zeros(before), signal, np.zeros(after)])
    return to_wav(_to_int16(signal + rng.normal(0, 30, signal.size)), clip.rate_hz)


def sound(rng: np.random.Generator) -> tuple[str, bytes]:
    """A sound that is not speech: its name and its WAV, 1.5 to 3 s."""
    seconds = rng.uniform(1.5, 3.0)
    time = np.arange(int(seconds * SOUND_RATE_HZ)) / SOUND_RATE_HZ
    makers = {"tone": _tone, "hiss": _hiss, "clicks": _clicks, "silence": _silence}
    name = str(rng.choice(list(makers)))
    return name, to_wav(_to_int16(makers[name](rng, time)), SOUND_RATE_HZ)


def sentence(rng: np.random.Generator, text: str) -> str:
    """The sentence alone or in one of a few frames."""
    template = TEMPLATES[int(rng.integers(len(TEMPLATES)))]
    return template.format(
        sentence=text, number=int(rng.integers(1, 1000)), hour=int(rng.integers(24)), minute=int(rng.integers(60))
    )


def _tone(rng: np.random.Generator, time: Signal) -> Signal:
    return 6000 * np.sin(2 * np.pi * rng.uniform(200, 2000) * time)


def _hiss(rng: np.random.Generator, time: Signal) -> Signal:
    return rng.normal(0, rng.uniform(200, 2000), time.size)


def _clicks(rng: np.random.Generator, time: Signal) -> Signal:
    signal = rng.normal(0, 10, time.size)
    signal[:: int(SOUND_RATE_HZ * rng.uniform(0.1, 0.5))] = 20_000
    return signal


def _silence(rng: np.random.Generator, time: Signal) -> Signal:
    return rng.normal(0, 5, time.size)


def _to_int16(signal: Signal) -> NDArray[np.int16]:
    return np.clip(signal, -FULL_SCALE - 1, FULL_SCALE).astype(np.int16)
