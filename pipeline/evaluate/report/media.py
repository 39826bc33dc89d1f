"""Examples of inputs, to stand within a page: only what can be seen, heard or read, and do nothing else. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape

from headrace.pipeline.evaluate.evaluation import Case, Example
from headrace.pipeline.evaluate.report.wording import visible

MAX_TEXT = 2_000
MAX_ANSWER = 600
"""Characters."""

_IMAGES = {"image/jpeg", "image/png", "image/gif", "image/webp"}
_SOUNDS = {"audio/wav", "audio/x-wav", "audio/mpeg", "audio/ogg", "audio/flac", "audio/mp4", "audio/webm"}


@dataclass(frozen=True, slots=True)
class ShownCase:
    """A case with its input.

    Attributes:
        case: as it was found.
        kind: ``image``, ``audio``, ``text``, or empty if there are only words.
        content: a ``data:`` address, or the text.
        words: what the input is.
    """

    case: Case
    kind: str
    content: str
    words: str


def shown_cases(cases: Iterable[Case], room_bytes: int) -> Iterator[ShownCase]:
    """Cases in their order, with their inputs as far as these fit into so many bytes of HTML."""
    for case in cases:
        if case.example is None:
            yield ShownCase(case, "", "", "The input could not be read again.")
            continue
        kind, content = _content(case.example)
        words = visible(case.example.caption)
        needed = len(escape(content).encode())
        if needed > room_bytes:
            yield ShownCase(case, "", "", f"{words} (left out, to keep this file small)")
        else:
            room_bytes -= needed
            yield ShownCase(case, kind, content, words)


def _content(example: Example) -> tuple[str, str]:
    """Only what is listed becomes an address: a media type is what some producer says."""
    media_type = example.media_type.partition(";")[0].strip().lower()
    if not example.data:
        return "", ""
    if media_type in _IMAGES:
        return "image", _address(media_type, example.data)
    if media_type in _SOUNDS:
        return "audio", _address(media_type, example.data)
    if media_type.startswith("text/"):
        return "text", visible(example.data.decode(errors="replace"), MAX_TEXT)
    return "", ""


def _address(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def picture_words(shown: ShownCase) -> str:
    """For those who cannot see it: where the picture is from and how it was answered."""
    answered = visible(shown.case.candidate, 80)
    return f"{shown.words or 'picture'}, answered {answered}" if answered else shown.words
