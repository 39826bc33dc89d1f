"""Image parts: JPEG or PNG, by their header alone."""

from __future__ import annotations

import re
import struct

from headrace.pipeline.codecs.row import need_bytes, poison
from headrace.pipeline.limits import MAX_IMAGE_PIXELS, MAX_IMAGE_SIDE_PIXELS, MAX_JPEG_SEGMENTS
from headrace.pipeline.records import Part
from headrace.pipeline.routing import media_type

_JPEG_MAGIC = b"\xff\xd8\xff"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_CONTENT_TYPES = {
    "image/jpeg": "JPEG",
    "image/jpg": "JPEG",
    "image/png": "PNG",
    "image/*": None,
    "application/octet-stream": None,
    "": None,
}
"""Content type → the format it promises; None leaves it to the content."""

_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOFn; those three are tables and reserved
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length
_SCAN_OR_END = frozenset({0xDA, 0xD9})
_MARKER = re.compile(rb"\xff++([^\x00\xff])")  # any number of fill bytes before it


def encoded(part: Part, content: bytes | str) -> bytes:
    """The image as it came, header checked; the pixels are the model's to decode.

    Raises:
        PoisonError: ``EMPTY_CONTENT``, ``BAD_IMAGE``, ``UNSUPPORTED_CONTENT_TYPE``, ``CONTENT_TYPE_MISMATCH`` or
            ``TOO_LARGE``.
    """
    data = need_bytes(part, content, "image")
    content_type = media_type(part.content_type)
    if content_type not in _CONTENT_TYPES:
        message = f"content type {content_type[:60]!r}: send image/jpeg or image/png"
        raise poison(part, "UNSUPPORTED_CONTENT_TYPE", message)
    actual = _format(data)
    if actual is None:
        raise poison(part, "BAD_IMAGE", f"neither a JPEG nor a PNG: it begins with {data[:4].hex(' ')}")
    promised = _CONTENT_TYPES[content_type]
    if promised is not None and promised != actual:
        raise poison(part, "CONTENT_TYPE_MISMATCH", f"content type {content_type}, but the content is a {actual}")
    size = _jpeg_size(part, data) if actual == "JPEG" else _png_size(data)
    if size is None or 0 in size:
        raise poison(part, "BAD_IMAGE", f"the {actual}'s header gives no size: it is damaged or truncated")
    width, height = size
    if max(size) > MAX_IMAGE_SIDE_PIXELS or width * height > MAX_IMAGE_PIXELS:
        limit = f"at most {MAX_IMAGE_SIDE_PIXELS} a side and {MAX_IMAGE_PIXELS} in all are allowed"
        raise poison(part, "TOO_LARGE", f"the image has {width} x {height} pixels, {limit}")
    return data


def _format(data: bytes) -> str | None:
    if data.startswith(_JPEG_MAGIC):
        return "JPEG"
    return "PNG" if data.startswith(_PNG_MAGIC) else None


def _png_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from the IHDR chunk, which must come first."""
    if len(data) < 33 or data[12:16] != b"IHDR":
        return None
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _jpeg_size(part: Part, data: bytes) -> tuple[int, int] | None:
    """Width and height from the frame header, found by walking the segments before the first scan."""
    position = 2
    for _ in range(MAX_JPEG_SEGMENTS):
        found = _MARKER.match(data, position)
        if found is None:
            return None
        marker, position = found[1][0], found.end()
        if marker in _STANDALONE:
            continue
        if marker in _SCAN_OR_END or position + 2 > len(data):
            return None
        if marker in _FRAME_HEADERS:
            return _frame_size(data, position)
        position += max(2, int.from_bytes(data[position : position + 2], "big"))
    raise poison(part, "BAD_IMAGE", f"the JPEG has more than {MAX_JPEG_SEGMENTS} segments before its frame header")


def _frame_size(data: bytes, position: int) -> tuple[int, int] | None:
    """From a frame header's length on: that, the samples' bits, height, width."""
    if position + 7 > len(data):
        return None
    height, width = struct.unpack_from(">HH", data, position + 3)
    return width, height
