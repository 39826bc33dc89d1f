"""Parts of events: text, image, audio, video, tensor."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from headrace.pipeline.compose import media_of
from headrace.pipeline.records import Modality, Part
from headrace.sdk.errors import InvalidEventError
from headrace.sdk.tensors import Array, ArrayLike, to_tensor

Encoded = bytes | bytearray | memoryview | Path
"""The bytes of a file, or where it is."""
PartLike = Part | str | bytes | Path | Array
"""What becomes a part by itself: text; an encoded file, by its first bytes; a tensor."""


def text(content: str, *, name: str = "text", content_type: str = "text/plain") -> Part:
    """A part of text."""
    if not isinstance(content, str):
        raise InvalidEventError(f"text is a str, this is of type {_kind(content)}: decode it first")
    return Part(name, Modality.TEXT, content_type, content)


def image(content: Encoded, *, name: str = "image", content_type: str | None = None) -> Part:
    """An encoded image. Without ``content_type`` its first bytes say what it is (JPEG, PNG)."""
    return _media(Modality.IMAGE, content, name, content_type)


def audio(content: Encoded, *, name: str = "audio", content_type: str | None = None) -> Part:
    """Encoded or raw audio. Without ``content_type`` it is known by its first bytes (WAV).

    Raw samples have no first bytes to know them by: say ``audio/pcm`` (16 kHz, mono, 16 bits, little-endian).
    """
    return _media(Modality.AUDIO, content, name, content_type)


def video(content: Encoded, *, name: str = "video", content_type: str | None = None) -> Part:
    """An encoded video. Without ``content_type`` its first bytes say what it is (MP4)."""
    return _media(Modality.VIDEO, content, name, content_type)


def tensor(values: ArrayLike, *, name: str = "tensor", datatype: str | None = None) -> Part:
    """Numbers, text or bytes in an array, without a batch dimension; see ``tensors.to_tensor``."""
    return Part(name, Modality.TENSOR, "", to_tensor(values, datatype))


def part_of(value: PartLike) -> Part:
    """What ``PartLike`` promises.

    Raises:
        InvalidEventError: bytes or a file of no known kind, or a value of another type.
        OSError: the file cannot be read.
    """
    match value:
        case Part():
            return value
        case str():
            return text(value)
        case bytes() | Path():
            content = _bytes(value)
            found = media_of(content)
            if found is None:
                raise InvalidEventError(
                    f"{_named(value)} is of no known kind: say what it is, by text(), image(), audio(), video() or "
                    "tensor()"
                )
            return Part(found[0].lower(), found[0], found[1], content)
        case np.ndarray():
            return tensor(value)
    raise InvalidEventError(f"a value of type {_kind(value)} is no part: give text, bytes, a Path, an array, or a Part")


def _media(modality: Modality, content: Encoded, name: str, content_type: str | None) -> Part:
    data = _bytes(content)
    if content_type is None:
        found = media_of(data)
        if found is None or found[0] is not modality:
            what = f"{found[1]}, no {modality.lower()}" if found else f"no {modality.lower()} of a known kind"
            raise InvalidEventError(f"{_named(content)} is {what}: check it, or say content_type=")
        content_type = found[1]
    return Part(name, modality, content_type, data)


def _bytes(content: object) -> bytes:
    if isinstance(content, os.PathLike):
        return Path(content).read_bytes()
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content)
    raise InvalidEventError(f"the content is of type {_kind(content)}: give bytes or a Path")


def _named(content: object) -> str:
    return f"{content}" if isinstance(content, os.PathLike) else "the content"


def _kind(value: object) -> str:
    return type(value).__name__
