"""Image parts: JPEG or PNG, by their header alone."""

from __future__ import annotations

import struct

from headrace.pipeline.codecs.row import media_type, need_bytes, poison
from headrace.pipeline.records import Part

MAX_SIDE_PIXELS = 16_384
MAX_PIXELS = 64 * 1024 * 1024
"""A small file can unpack to gigabytes: 64 megapixels are 192 MB decoded, all that one row may cost the model."""

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


def encoded(part: Part, content: bytes | str) -> bytes:
    """The image as it came, header checked; the pixels are the model's to decode.

    Raises:
        PoisonError: ``EMPTY_CONTENT``, ``BAD_IMAGE``, ``UNSUPPORTED_CONTENT_TYPE``, ``CONTENT_TYPE_MISMATCH`` or
            ``TOO_LARGE``.
    """
    data = need_bytes(part, content, "image")
    content_type = media_type(part)
    if content_type not in _CONTENT_TYPES:
        message = f"content type {content_type[:60]!r}: send image/jpeg or image/png"
        raise poison(part, "UNSUPPORTED_CONTENT_TYPE", message)
    actual = _format(data)
    if actual is None:
        raise poison(part, "BAD_IMAGE", f"neither a JPEG nor a PNG: it begins with {data[:4].hex(' ')}")
    promised = _CONTENT_TYPES[content_type]
    if promised is not None and promised != actual:
        raise poison(part, "CONTENT_TYPE_MISMATCH", f"content type {content_type}, but the content is a {actual}")
    size = _jpeg_size(data) if actual == "JPEG" else _png_size(data)
    if size is None or 0 in size:
        raise poison(part, "BAD_IMAGE", f"the {actual}'s header gives no size: it is damaged or truncated")
    width, height = size
    if max(size) > MAX_SIDE_PIXELS or width * height > MAX_PIXELS:
        limit = f"at most {MAX_SIDE_PIXELS} a side and {MAX_PIXELS} in all are allowed"
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


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from the frame header, found by walking the segments before the first scan."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _STANDALONE:
            position += 2
        elif marker in _SCAN_OR_END:
            return None
        elif marker in _FRAME_HEADERS:
            if position + 9 > len(data):
                return None
            height, width = struct.unpack_from(">HH", data, position + 5)
            return width, height
        else:
            position += 2 + max(2, int.from_bytes(data[position + 2 : position + 4], "big"))
    return None
