"""What a user says (words, files, options) → inference requests. Files are known by their first bytes, not their names.

Where the pieces come from is `event_sources`' matter, JSON lines are `event_lines`'.
"""

from __future__ import annotations

import enum
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headrace.pipeline.errors import ConfigError
from headrace.pipeline.records import Headers, InferenceRequest, Modality, Parameter, Part

PART_NAMES = {
    Modality.TEXT: "text",
    Modality.IMAGE: "image",
    Modality.AUDIO: "audio",
    Modality.VIDEO: "video",
    Modality.TENSOR: "tensor",
}
MEDIA_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".wav", ".mp4", ".mov"})
KINDS = "JPEG, PNG, WAV nor MP4"
_MAGIC_BYTES = 12
_NOT_VIDEO = frozenset({b"M4A ", b"M4B ", b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis", b"crx "})
"""Brands of files that begin as an MP4 does and hold sound or pictures."""


class KeyFrom(enum.StrEnum):
    """What of a file's path becomes the record key."""

    NAME = "name"
    FOLDER = "folder"


@dataclass(frozen=True, slots=True)
class EventOptions:
    """What the command line says of every event; what a JSON line says of its own goes first."""

    type: str = "headrace.cli"
    source: str = "headrace/cli"
    model: str | None = None
    model_version: str | None = None
    key: bytes | None = None
    key_from: KeyFrom | None = None
    headers: Headers = ()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """An event to be sent.

    Attributes:
        request: what its record's value will be.
        key: its record's key.
        headers: those its sender wants, beside those that every request has.
        origin: what it was made of, for messages: a path, ``line 3``, or the words.
    """

    request: InferenceRequest
    key: bytes | None
    headers: Headers
    origin: str


def event_of(
    parts: Sequence[Part], options: EventOptions, *, time_ms: int, origin: str, path: Path | None = None
) -> Event:
    """An event with a new id. ``path``: the file that it was made of, if it was one, for ``key_from``.

    Raises:
        ConfigError: a version is given without a model.
    """
    if options.model_version is not None and options.model is None:
        raise ConfigError(f"{origin}: a model version without a model: name the model too, or neither")
    request = InferenceRequest(
        id=str(uuid.uuid4()),
        type=options.type,
        source=options.source,
        time_ms=time_ms,
        parts=tuple(parts),
        parameters=options.parameters,
        model=options.model,
        model_version=options.model_version,
    )
    key = options.key
    if options.key_from is not None and path is not None:
        key = os.fsencode(path.name if options.key_from is KeyFrom.NAME else path.absolute().parent.name)
    return Event(request, key, options.headers, origin)


def part_of(argument: str, *, as_text: bool = False) -> Part:
    """A JPEG, PNG, WAV or MP4 file becomes an image, audio or video part, anything else a text part.

    Raises:
        ConfigError: the argument names a file that is of another kind or cannot be read, or looks like a missing one.
    """
    path = Path(argument)
    if as_text or not is_file(path):
        if not as_text and path.suffix.lower() in MEDIA_SUFFIXES and not any(map(str.isspace, argument)):
            raise ConfigError(f"there is no file {argument}: check the path, or say --text to send these words")
        return text_part(argument)
    part = media_part(path)
    if part is None:
        raise ConfigError(f"{argument} is a file, but neither {KINDS}: say --text to send the argument itself as text")
    return part


def text_part(words: str) -> Part:
    """A part of text as it stands."""
    return Part(PART_NAMES[Modality.TEXT], Modality.TEXT, "text/plain", words)


def media_part(path: Path) -> Part | None:
    """A file's content as a part; None, without reading further than its first bytes, if it is of no known kind.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_MAGIC_BYTES)
            found = media_of(head)
            if found is None:
                return None
            modality, content_type = found
            return Part(PART_NAMES[modality], modality, content_type, head + file.read())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def media_of(content: bytes) -> tuple[Modality, str] | None:
    """Modality and content type by the first bytes, None if they are of no known kind."""
    head = content[:_MAGIC_BYTES]
    if head.startswith(b"\xff\xd8\xff"):
        return Modality.IMAGE, "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return Modality.IMAGE, "image/png"
    if head.startswith(b"RIFF") and head[8:12] == b"WAVE":
        return Modality.AUDIO, "audio/wav"
    if head[4:8] == b"ftyp" and len(head) == _MAGIC_BYTES and head[8:12] not in _NOT_VIDEO:
        return Modality.VIDEO, "video/quicktime" if head[8:12] == b"qt  " else "video/mp4"
    return None


def named_apart(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The same parts; the second of a name becomes ``name-2`` and so on."""
    seen: dict[str, int] = {}
    named = []
    for part in parts:
        count = seen[part.name] = seen.get(part.name, 0) + 1
        name = part.name if count == 1 else f"{part.name}-{count}"
        named.append(Part(name, part.modality, part.content_type, part.content))
    return tuple(named)


def is_file(path: Path) -> bool:
    """Whether there is such a file; never raises."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long for a name, or a NUL in it: words, then
        return False
