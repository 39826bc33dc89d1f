"""Encoded images to the classifier's pixels. Bytes come from anywhere: they are checked before they are decoded."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE_PIXELS = 224
# The evaluation crop of EfficientNet-Lite0: the middle 224/256 of the shorter side.
_CROP = SIDE_PIXELS / (SIDE_PIXELS + 32)
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
# Start-of-frame markers carry the size; C4, C8 and CC are tables and extensions in the same range.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_START_OF_SCAN, _JPEG_END = 0xDA, 0xD9
# The next marker with a segment, past fill bytes (FF) and markers that stand alone (01, D0 to D7); read as a decoder
# does, or a header could be hidden from one of the two.
_JPEG_MARKER = re.compile(rb"(?:\xff++[\x01\xd0-\xd7])*+\xff++([^\x00\x01\xd0-\xd7\xff])")
# After a scan's header anything may stand before it: the scan's data, in which 00 follows each FF.
_JPEG_MARKER_AFTER_SCAN = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")
# A decoder goes over all pixels for each scan of a progressive JPEG, and some 70 bytes make one: thousands of them
# would hold the instance up for minutes. Encoders write about ten.
MAX_JPEG_SCANS = 64
MAX_JPEG_SEGMENTS = 10_000


class ImageError(ValueError):
    """These bytes are no image this model takes; the message says why."""


def decode(encoded: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """A JPEG or PNG as BGR uint8 [height, width, 3], turned upright as its EXIF says.

    Raises:
        ImageError: if it is neither, is cut short or corrupt, or has more than ``max_pixels``.
    """
    width, height = dimensions(encoded)
    if width == 0 or height == 0:
        raise ImageError(f"the image is {width} x {height} pixels")
    if width * height > max_pixels:
        raise ImageError(f"the image is {width} x {height} pixels; at most {max_pixels} in all are decoded")
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(f"the image cannot be decoded: {error.err}") from error
    if image is None:
        raise ImageError("the image is corrupt: it cannot be decoded")
    return image.astype(np.uint8, copy=False)


def dimensions(encoded: bytes) -> tuple[int, int]:
    """Width and height from the header, once the file is known to be whole.

    Raises:
        ImageError: as ``decode``.
    """
    if not encoded:
        raise ImageError("the image is empty")
    if encoded.startswith(_PNG):
        return _png_dimensions(encoded)
    if encoded.startswith(_JPEG):
        return _jpeg_dimensions(encoded)
    raise ImageError("the image is neither JPEG nor PNG")


def _png_dimensions(encoded: bytes) -> tuple[int, int]:
    """Walks all chunks, because a decoder fills what is missing of a broken PNG with black and says nothing."""
    size = None
    for kind, content in _png_chunks(encoded):
        if kind == b"IHDR":
            if size is not None:  # which of them a decoder goes by is its own affair
                raise ImageError("the PNG is corrupt: it has two headers")
            if len(content) != 13:
                break
            size = int.from_bytes(content[:4], "big"), int.from_bytes(content[4:8], "big")
        elif size is None:
            break
        elif kind == b"IEND":
            return size
    raise ImageError("the PNG is corrupt: its header or its end is missing")


def _png_chunks(encoded: bytes) -> Iterator[tuple[bytes, bytes]]:
    data = memoryview(encoded)
    at = len(_PNG)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            raise ImageError("the PNG is cut short")
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise ImageError("the PNG is corrupt: a checksum does not match")
        yield bytes(data[at + 4 : at + 8]), bytes(data[at + 8 : min(end, at + 8 + 13)])
        at = end + 4


def _jpeg_dimensions(encoded: bytes) -> tuple[int, int]:
    size, scans = None, 0
    for marker, start, end in _jpeg_segments(encoded):
        if marker in _JPEG_FRAMES and end - start >= 5:
            height, width = struct.unpack_from(">HH", encoded, start + 1)
            size = width, height
        elif marker == _JPEG_START_OF_SCAN:
            scans += 1
        if scans > MAX_JPEG_SCANS:
            raise ImageError(f"the JPEG has more than {MAX_JPEG_SCANS} scans: save it with fewer")
    if size is None or scans == 0:
        raise ImageError(f"the JPEG is corrupt: its {'frame header' if size is None else 'scan'} is missing")
    return size


def _jpeg_segments(encoded: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, and where its content starts and ends, up to the image's end; what follows that is no part of it.

    A JPEG without its end is refused: a decoder would paint the missing part grey and say nothing.
    """
    at, in_scans = 2, False
    for _ in range(MAX_JPEG_SEGMENTS):
        found = _JPEG_MARKER_AFTER_SCAN.search(encoded, at) if in_scans else _JPEG_MARKER.match(encoded, at)
        if found is None:
            corrupt = at < len(encoded) and not in_scans
            raise ImageError(f"the JPEG is {'corrupt: no marker where one must be' if corrupt else 'cut short'}")
        marker, start = found[1][0], found.end()
        if marker == _JPEG_END:
            return
        at = start + int.from_bytes(encoded[start : start + 2], "big")
        if at > len(encoded) or at < start + 2:
            raise ImageError("the JPEG is cut short")
        yield marker, start + 2, at
        in_scans |= marker == _JPEG_START_OF_SCAN
    raise ImageError(f"the JPEG has more than {MAX_JPEG_SEGMENTS} segments")


def prepare(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle of a BGR image as RGB uint8 [224, 224, 3], the way the classifier was evaluated."""
    height, width = image.shape[:2]
    side = max(1, int(_CROP * min(height, width)))
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    crop = image[top : top + side, left : left + side]
    # Cubic as in training; far larger images are averaged down, or fine patterns would turn into false ones.
    method = cv2.INTER_AREA if side > 2 * SIDE_PIXELS else cv2.INTER_CUBIC
    resized = cv2.resize(crop, (SIDE_PIXELS, SIDE_PIXELS), interpolation=method)
    return cv2.cvtColor(resized, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def top(probabilities: NDArray[np.float32], count: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The ``count`` likeliest classes of each row and their probabilities, likeliest first."""
    classes = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    return classes, np.take_along_axis(probabilities, classes, axis=1)
