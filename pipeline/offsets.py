"""Completed offsets above the committed one, as text for the offset's metadata.

A committed offset says that everything below it is done. With concurrent inference records complete out of order;
what is done above the committed offset travels in that offset's metadata, inside the same transaction, so that a
successor skips it. Kafka limits the metadata to 4,096 bytes (``offset.metadata.max.bytes``), hence the window.

``h1:<committed offset>:<near>``
    near is base64(zlib(bitmap)): bit i (least significant first) of the bitmap is offset ``origin + i``, where origin
    is the committed offset rounded down to a multiple of 8. Any pattern of ``NEAR`` offsets fits.
``h2:<committed offset>:<near>:<far>``
    far is base64 of what is done further up, as runs: for each, in LEB128, how many offsets lie between it and the one
    before (the first: between it and the end of near), and its length. Few runs fit, but each may be long: one slow
    record leaves a single one, however many records pass it. Written only where there is something to say.

The text names its offset because tools copy it to offsets that they have changed (a reset, MirrorMaker's checkpoints):
there it would mark records that nobody has processed.
"""

from __future__ import annotations

import base64
import binascii
import enum
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from headrace.pipeline.errors import FatalError

NEAR: Final = 16_384
"""Offsets above the committed one of which any may be done: 2 KiB of incompressible bitmap are 2.8 kB of metadata."""
FAR: Final = 262_144
"""Offsets above the committed one that may be done while they are few runs. A successor reads them all to skip them."""
FAR_RUNS: Final = 128
"""6 bytes each at most, as base64 1 kB of metadata."""

_VERSION = re.compile(r"(h[0-9]+):")
_TEXT = re.compile(r"h[0-9]+:([0-9]+):(.*)", re.DOTALL)
_NEAR_BYTES = NEAR // 8 + 1
_NONZERO = re.compile(rb"[^\0]+")


class MetadataFormat(enum.StrEnum):
    """The newest format that is written. All are read; one is only written where an older one cannot say as much."""

    H1 = "h1"
    H2 = "h2"

    @property
    def window(self) -> Window:
        """How far completions may be committed in this format."""
        return Window(NEAR, NEAR, 0) if self is MetadataFormat.H1 else Window()


@dataclass(frozen=True, slots=True)
class Window:
    """How far above the lowest incomplete offset completions may be committed.

    Attributes:
        near: offsets of which any may be done.
        far: offsets of which those from ``near`` on may be done while they make few runs.
        far_runs: how few.
    """

    near: int = NEAR
    far: int = FAR
    far_runs: int = FAR_RUNS


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
        if self._bits:
            self._bits[0] &= 0xFF << base % 8 & 0xFF

    def count(self) -> int:
        """How many offsets are in it."""
        return int.from_bytes(self._bits).bit_count()

    def runs(self, start: int, void: OffsetBitmap | None = None) -> Iterator[tuple[int, int]]:
        """Runs of consecutive offsets from ``start`` on, ascending: first offset, and the one after the last.

        Args:
            start: not below where either bitmap begins.
            void: offsets without a record: those behind a run belong to it, so that they part none, nor make any.
        """
        bits = self._from(start)
        if void is not None:
            bits = _with_void(bits, void._from(start))
        edges = (bits ^ bits << 1).to_bytes((bits.bit_length() + 8) // 8, "little")
        places = (
            start + 8 * (found.start() + index) + bit
            for found in _NONZERO.finditer(edges)
            for index, byte in enumerate(found[0])
            for bit in range(8)
            if byte >> bit & 1
        )
        return zip(places, places, strict=True)

    def runs_with(self, start: int, more: Iterable[int], void: OffsetBitmap | None = None) -> int:
        """How many runs there would be from ``start`` on if these offsets, none of them below it, were added."""
        added = bytearray()
        for offset in more:
            index, bit = divmod(offset - start, 8)
            if index >= len(added):
                added.extend(bytes(index + 1 - len(added)))
            added[index] |= 1 << bit
        bits = self._from(start) | int.from_bytes(added, "little")
        if void is not None:
            bits = _with_void(bits, void._from(start))
        return (bits & ~(bits << 1)).bit_count()

    def _from(self, start: int) -> int:
        """As a number whose bit 0 is offset ``start``."""
        index, bit = divmod(start - self._origin, 8)
        return int.from_bytes(self._bits[index:], "little") >> bit

    def encode(self, base: int, void: OffsetBitmap | None = None) -> str:
        """The metadata for committed offset ``base``; empty if nothing above it is done. ``void`` is as in ``runs``."""
        self.rebase(base)
        bits = self._bits.rstrip(b"\0")
        if not bits:
            return ""
        near = base64.b64encode(zlib.compress(bytes(bits[:_NEAR_BYTES]), 1)).decode("ascii")
        if len(bits) <= _NEAR_BYTES:
            return f"{MetadataFormat.H1}:{base}:{near}"
        far = bytearray()
        last = self._origin + 8 * _NEAR_BYTES
        for first, end in self.runs(last, void):
            far += _leb128(first - last) + _leb128(end - first)
            last = end
        return f"{MetadataFormat.H2}:{base}:{near}:{base64.b64encode(far).decode('ascii')}"


def _with_void(bits: int, void: int) -> int:
    """``bits``, and those of ``void`` that follow them without a break: a carry runs through to the end of each."""
    void &= ~bits
    return bits | (void + (bits << 1 & void) ^ void) & void


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
    if version[1] not in tuple(MetadataFormat):
        raise FatalError(
            f"the offset metadata is of format {version[1]} and this version reads {', '.join(MetadataFormat)}: "
            "run the newer headrace, or reset the group's offsets to drop it"
        )
    if not (text := _TEXT.fullmatch(metadata)):
        raise _damaged(base, "it names no offset")
    if text[1] != str(base):
        return OffsetBitmap(base), f"metadata of another offset than {base} ignored: {metadata[:60]!r}"
    try:
        return _decoded(base, MetadataFormat(version[1]), text[2]), None
    except (binascii.Error, zlib.error, ValueError) as error:
        raise _damaged(base, str(error)) from error


def _decoded(base: int, version: MetadataFormat, content: str) -> OffsetBitmap:
    if version is MetadataFormat.H1:
        return OffsetBitmap(base, _inflated(base64.b64decode(content, validate=True)))
    near, _, far = content.partition(":")
    bits = _inflated(base64.b64decode(near, validate=True)).ljust(_NEAR_BYTES, b"\0")
    return OffsetBitmap(base, bits + _far_bits(base64.b64decode(far, validate=True)))


def _inflated(deflated: bytes) -> bytes:
    inflater = zlib.decompressobj()
    bits = inflater.decompress(deflated, _NEAR_BYTES + 1)
    if not inflater.eof or inflater.unused_data or len(bits) > _NEAR_BYTES:
        raise ValueError("its bitmap is truncated or longer than the window")
    return bits


def _far_bits(far: bytes) -> bytes:
    numbers = list(_leb128_numbers(far))
    if not numbers or len(numbers) % 2 or len(numbers) > 2 * FAR_RUNS or sum(numbers) > FAR:
        raise ValueError("its runs are truncated, or go beyond the window")
    bits = end = 0
    for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
        bits |= (1 << length) - 1 << end + gap
        end += gap + length
    return bits.to_bytes((end + 7) // 8, "little")


def _leb128(number: int) -> bytes:
    text = bytearray()
    while number > 0x7F:
        text.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*text, number])


def _leb128_numbers(text: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in text:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield number
            number = shift = 0
        elif shift > 21:
            raise ValueError("a number of its runs is longer than the window")
    if shift:
        raise ValueError("its runs are truncated")


def _damaged(base: int, why: str) -> FatalError:
    return FatalError(
        f"the offset metadata is damaged ({why}): reset the group's offset {base} of this partition to go on"
    )
