"""Command-line arguments → inference requests. Files are known by their first bytes, not by their names."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

from headrace.pipeline.errors import ConfigError
from headrace.pipeline.records import InferenceRequest, Modality, Part

PART_NAMES = {Modality.TEXT: "text", Modality.IMAGE: "image", Modality.AUDIO: "audio"}
MEDIA_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".wav"})
_MAGIC_BYTES = 12


def part_of(argument: str, *, as_text: bool = False) -> Part:
    """A JPEG, PNG or WAV file becomes an image or audio part, anything else a text part.

    Raises:
        ConfigError: the argument names a file that is neither, or that cannot be read, or looks like a missing one.
    """
    path = Path(argument)
    if as_text or not _is_file(path):
        if not as_text and path.suffix.lower() in MEDIA_SUFFIXES and not any(map(str.isspace, argument)):
            raise ConfigError(f"there is no file {argument}: check the path, or say --text to send these words")
        return Part(PART_NAMES[Modality.TEXT], Modality.TEXT, "text/plain", argument)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{argument} cannot be read: {error.strerror}") from error
    found = media_of(content)
    if found is None:
        raise ConfigError(
            f"{argument} is a file, but neither JPEG, PNG nor WAV: say --text to send the argument itself as text"
        )
    modality, content_type = found
    return Part(PART_NAMES[modality], modality, content_type, content)


def media_of(content: bytes) -> tuple[Modality, str] | None:
    """Modality and content type by the first bytes, None if they are of no known kind."""
    head = content[:_MAGIC_BYTES]
    if head.startswith(b"\xff\xd8\xff"):
        return Modality.IMAGE, "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return Modality.IMAGE, "image/png"
    if head.startswith(b"RIFF") and head[8:12] == b"WAVE":
        return Modality.AUDIO, "audio/wav"
    return None


def requests_of(
    parts: Sequence[Part], *, together: bool, event_type: str, source: str, time_ms: int, model: str | None = None
) -> list[InferenceRequest]:
    """One request for each part, or one with all of them, each with a new id."""
    groups = [named_apart(parts)] if together else [(part,) for part in parts]
    return [
        InferenceRequest(
            id=str(uuid.uuid4()), type=event_type, source=source, time_ms=time_ms, parts=tuple(group), model=model
        )
        for group in groups
    ]


def named_apart(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The same parts; the second of a name becomes ``name-2`` and so on."""
    seen: dict[str, int] = {}
    named = []
    for part in parts:
        count = seen[part.name] = seen.get(part.name, 0) + 1
        name = part.name if count == 1 else f"{part.name}-{count}"
        named.append(Part(name, part.modality, part.content_type, part.content))
    return tuple(named)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long for a name, or a NUL in it: words, then
        return False
