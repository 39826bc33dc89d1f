"""Video parts: an MP4, by its first bytes. What is in it is found out where it is sampled, or by the model."""

from __future__ import annotations

from headrace.pipeline.codecs.row import need_bytes, poison
from headrace.pipeline.records import Part
from headrace.pipeline.routing import media_type

_CONTENT_TYPES = frozenset({"video/mp4", "video/quicktime", "video/*", "application/octet-stream", ""})


def encoded(part: Part, content: bytes | str) -> bytes:
    """The video as it came: to be sampled, or for a model that decodes it itself.

    Raises:
        PoisonError: ``EMPTY_CONTENT``, ``BAD_VIDEO`` or ``UNSUPPORTED_CONTENT_TYPE``.
    """
    data = need_bytes(part, content, "video")
    content_type = media_type(part.content_type)
    if content_type not in _CONTENT_TYPES:
        raise poison(part, "UNSUPPORTED_CONTENT_TYPE", f"content type {content_type[:60]!r}: send video/mp4")
    if data[4:8] != b"ftyp" or len(data) < 16:
        raise poison(part, "BAD_VIDEO", "not an MP4: it does not begin with an ftyp box")
    return data
