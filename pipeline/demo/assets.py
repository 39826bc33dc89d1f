"""The bundled data: photos, speech and sentences (see ``data/LICENSES.md``)."""

from __future__ import annotations

import importlib.resources
import io
import wave
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONTENT_TYPES = {".jpg": "image/jpeg", ".png": "image/png"}


@dataclass(frozen=True, slots=True)
class Photo:
    """An encoded photo, as bundled."""

    name: str
    content_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Clip:
    """Mono 16-bit samples."""

    name: str
    rate_hz: int
    samples: NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Assets:
    """Everything the events are made of. ``sentences`` are groups; those of one group mean the same."""

    photos: tuple[Photo, ...]
    speech: tuple[Clip, ...]
    sentences: tuple[tuple[str, ...], ...]


def load() -> Assets:
    """Read the bundled data, in a fixed order."""
    data = importlib.resources.files("headrace.pipeline.demo") / "data"
    photos = sorted((data / "photos").iterdir(), key=lambda file: file.name)
    speech = sorted((data / "speech").iterdir(), key=lambda file: file.name)
    groups = (data / "sentences.txt").read_text("utf-8").strip().split("\n\n")
    return Assets(
        photos=tuple(
            Photo(file.name, CONTENT_TYPES[file.name[file.name.rindex(".") :]], file.read_bytes()) for file in photos
        ),
        speech=tuple(_clip(file.name, file.read_bytes()) for file in speech),
        sentences=tuple(tuple(group.splitlines()) for group in groups),
    )


def _clip(name: str, data: bytes) -> Clip:
    with wave.open(io.BytesIO(data)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        return Clip(name, file.getframerate(), samples)


def to_wav(samples: NDArray[np.int16], rate_hz: int) -> bytes:
    """Mono 16-bit WAV bytes."""
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples.astype("<i2").tobytes())
    return target.getvalue()
