"""Photos as cameras deliver them. One camera hangs upside down, and says so in EXIF: its pixels are turned round."""

from __future__ import annotations

import struct
from dataclasses import replace

import cv2
import numpy as np

from headrace.pipeline.demo import augment
from headrace.pipeline.demo.assets import Photo

CAMERAS = ("cameras/north", "cameras/south", "cameras/east", "cameras/west", "cameras/hall")
UPSIDE_DOWN = "cameras/hall"
QUALITY = 92
_TURNED_ROUND = 3
"""EXIF's orientation of an image that has to be rotated by 180 degrees."""
_SEGMENT_START = b"\xff\xe1"
_AFTER_MARKER = 2


def taken(rng: np.random.Generator, camera: str, photo: Photo) -> bytes:
    """A JPEG of what the photo shows, in one of its variations."""
    jpeg = augment.photo(rng, replace(photo, content_type="image/jpeg")).data
    return turned_round(jpeg) if camera == UPSIDE_DOWN else jpeg


def turned_round(jpeg: bytes) -> bytes:
    """The same picture to whoever heeds EXIF, stored upside down."""
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError("these bytes are no image that OpenCV can decode")
    _, encoded = cv2.imencode(".jpg", cv2.rotate(pixels, cv2.ROTATE_180), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    content = encoded.tobytes()
    return content[:_AFTER_MARKER] + _orientation(_TURNED_ROUND) + content[_AFTER_MARKER:]


def _orientation(value: int) -> bytes:
    """An EXIF segment with nothing but the orientation (JEITA CP-3451: a TIFF header and a directory of one entry)."""
    tag, short = 0x0112, 3
    header = struct.pack(">2sHI", b"MM", 42, 8)
    directory = struct.pack(">HHHIHHI", 1, tag, short, 1, value, 0, 0)
    content = b"Exif\0\0" + header + directory
    return _SEGMENT_START + struct.pack(">H", 2 + len(content)) + content
