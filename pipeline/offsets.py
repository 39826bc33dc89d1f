"""Completed offsets above the committed one, as text for the offset's metadata.

A committed offset says that everything below it is done. With concurrent inference records complete out of order;
what is done above the committed offset travels in that offset's metadata, inside the same transaction, so that a
successor skips it. Kafka limits the metadata to 4,096 bytes (``offset.metadata.max.bytes``), hence the window.

Format ``h1:`` + base64(zlib(bitmap)): bit i (least significant first) of the bitmap is offset ``base + i``, where
base is the committed offset rounded down to a multiple of 8.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterator

from headrace.pipeline.errors import FatalError

WINDOW = 16_384
"""Offsets that may be done above the committed one: 2 KiB of incompressible bitmap are 2.8 kB of metadata."""

_PREFIX = "h1:"
_VERSIONED = re.compile(r"^h(\d+):")
_MAX_BITMAP_BYTES = WINDOW // 8 + 1


class OffsetBitmap:
    """The set of completed offsets from a moving base upwards."""

    __slots__ = ("_bits", "_origin")

    def __init__(self, base: int, bits: bytes = b"") -> None:
        self._origin = base - base % 8
        self._bits = bytearray(bits)

    def __contains__(self, offset: int) -> bool:
        index, bit = divmod(offset - self._origin, 8)
        return 0 <= index < len(self._bits) and bool(self._bits[index] >> bit & 1)

    def add(self, offset: int) -> None:
        index, bit = divmod(offset - self._origin, 8)
        if index >= len(self._bits):
            self._bits.extend(bytes(index + 1 - len(self._bits)))
        self._bits[index] |= 1 << bit

    def rebase(self, base: int) -> None:
        """Forget what lies below ``base``."""
        origin = base - base % 8
        del self._bits[: (origin - self._origin) // 8]
        self._origin = origin

    def above(self, base: int) -> Iterator[int]:
        """The offsets in the set that are at or above ``base``, ascending."""
        for index, byte in enumerate(self._bits):
            for bit in range(8):
                offset = self._origin + index * 8 + bit
                if byte >> bit & 1 and offset >= base:
                    yield offset

    def encode(self, base: int) -> str:
        """The metadata for committed offset ``base``; empty if nothing above it is done."""
        self.rebase(base)
        bits = self._bits.rstrip(b"\0")
        shift = base % 8
        if not bits or (len(bits) == 1 and not bits[0] >> shift):
            return ""
        return _PREFIX + base64.b64encode(zlib.compress(bytes(bits), 1)).decode("ascii")


def decode_metadata(base: int, metadata: str) -> tuple[OffsetBitmap, str | None]:
    """What is done above committed offset ``base``, and a complaint if the metadata is not ours.

    Foreign metadata means that somebody else committed this offset (a tool's reset): nothing above it counts as done.

    Raises:
        FatalError: the metadata is of a newer format, or ours but damaged: guessing would double or lose results.
    """
    if not metadata:
        return OffsetBitmap(base), None
    if not (match := _VERSIONED.match(metadata)):
        return OffsetBitmap(base), f"foreign offset metadata ignored: {metadata[:60]!r}"
    if match[0] != _PREFIX:
        raise FatalError(
            f"the offset metadata is of format {match[0]} and this version reads {_PREFIX}: "
            "run the newer headrace, or reset the group's offsets to drop it"
        )
    try:
        inflater = zlib.decompressobj()
        bits = inflater.decompress(base64.b64decode(metadata[len(_PREFIX) :], validate=True), _MAX_BITMAP_BYTES + 1)
        if not inflater.eof or inflater.unused_data or len(bits) > _MAX_BITMAP_BYTES:
            raise ValueError("its bitmap is truncated or longer than the window")
    except (binascii.Error, zlib.error, ValueError) as error:
        raise FatalError(
            f"the offset metadata is damaged ({error}): reset the group's offset {base} of this partition to go on"
        ) from error
    return OffsetBitmap(base, bits), None
