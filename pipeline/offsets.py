"""Completed offsets above the committed one, as text for the offset's metadata.

A committed offset says that everything below it is done. With concurrent inference records complete out of order;
what is done above the committed offset travels in that offset's metadata, inside the same transaction, so that a
successor skips it. Kafka limits the metadata to 4,096 bytes (``offset.metadata.max.bytes``), hence the window.

Format ``h1:<committed offset>:`` + base64(zlib(bitmap)): bit i (least significant first) of the bitmap is offset
``origin + i``, where origin is the committed offset rounded down to a multiple of 8. The text names its offset because
tools copy it to offsets that they have changed (a reset, MirrorMaker's checkpoints): there the bitmap would mark
records that nobody has processed.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib

from headrace.pipeline.errors import FatalError

WINDOW = 16_384
"""Offsets that may be done above the committed one: 2 KiB of incompressible bitmap are 2.8 kB of metadata."""

_PREFIX = "h1:"
_VERSION = re.compile(r"h[0-9]+:")
_PARTS = re.compile(rf"{_PREFIX}([0-9]+):(.*)", re.DOTALL)
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

    def encode(self, base: int) -> str:
        """The metadata for committed offset ``base``; empty if nothing above it is done."""
        self.rebase(base)
        bits = self._bits.rstrip(b"\0")
        shift = base % 8
        if not bits or (len(bits) == 1 and not bits[0] >> shift):
            return ""
        return f"{_PREFIX}{base}:" + base64.b64encode(zlib.compress(bytes(bits), 1)).decode("ascii")


def decode_metadata(base: int, metadata: str) -> tuple[OffsetBitmap, str | None]:
    """What is done above committed offset ``base``, and a complaint if the metadata is not ours.

    Foreign metadata, or that of another offset, means that somebody else committed this one (a tool's reset): nothing
    above it counts as done.

    Raises:
        FatalError: the metadata is of a newer format, or ours but damaged: guessing would double or lose results.
    """
    if not metadata:
        return OffsetBitmap(base), None
    if not (version := _VERSION.match(metadata)):
        return OffsetBitmap(base), f"foreign offset metadata ignored: {metadata[:60]!r}"
    if version[0] != _PREFIX:
        raise FatalError(
            f"the offset metadata is of format {version[0]} and this version reads {_PREFIX}: "
            "run the newer headrace, or reset the group's offsets to drop it"
        )
    if not (parts := _PARTS.fullmatch(metadata)):
        raise _damaged(base, "it names no offset")
    if parts[1] != str(base):
        return OffsetBitmap(base), f"metadata of another offset than {base} ignored: {metadata[:60]!r}"
    try:
        return OffsetBitmap(base, _inflated(base64.b64decode(parts[2], validate=True))), None
    except (binascii.Error, zlib.error, ValueError) as error:
        raise _damaged(base, str(error)) from error


def _inflated(deflated: bytes) -> bytes:
    inflater = zlib.decompressobj()
    bits = inflater.decompress(deflated, _MAX_BITMAP_BYTES + 1)
    if not inflater.eof or inflater.unused_data or len(bits) > _MAX_BITMAP_BYTES:
        raise ValueError("its bitmap is truncated or longer than the window")
    return bits


def _damaged(base: int, why: str) -> FatalError:
    return FatalError(
        f"the offset metadata is damaged ({why}): reset the group's offset {base} of this partition to go on"
    )
