"""Text parts: a string, or bytes that are UTF-8."""

from __future__ import annotations

from headrace.pipeline.codecs.row import media_parameter, poison
from headrace.pipeline.limits import MAX_TEXT_BYTES
from headrace.pipeline.records import Part


def encoded(part: Part, content: bytes | str) -> bytes:
    """The text as UTF-8.

    Raises:
        PoisonError: ``EMPTY_CONTENT``, ``BAD_TEXT`` (not UTF-8), ``TOO_LARGE``, ``UNSUPPORTED_CONTENT_TYPE`` (charset).
    """
    if not content:
        raise poison(part, "EMPTY_CONTENT", "the text is empty")
    charset = media_parameter(part, "charset")
    if charset not in (None, "utf-8", "utf8", "us-ascii"):
        raise poison(part, "UNSUPPORTED_CONTENT_TYPE", f"charset {charset[:40]!r}: send UTF-8")
    try:
        if isinstance(content, str):
            data = content.encode()
        else:
            data = content
            data.decode()
    except (UnicodeEncodeError, UnicodeDecodeError) as error:
        raise poison(part, "BAD_TEXT", f"the text is not UTF-8: {error.reason}") from error
    if len(data) > MAX_TEXT_BYTES:
        raise poison(part, "TOO_LARGE", f"the text has {len(data)} bytes, at most {MAX_TEXT_BYTES} are allowed")
    return data
