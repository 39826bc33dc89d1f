"""What an MP4 says of itself, read from its boxes (ISO/IEC 14496-12) before a decoder sees it.

Finds out early, and by name, what a decoder would answer with a shorter video or none at all; and refuses files that
refer to others. What it lets pass may still be a lie: the decoder's process is bounded anyway.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from headrace.pipeline.limits import MAX_MP4_BOXES

_SELF_CONTAINED = 1
_FROM_THE_TOP = frozenset(
    {b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"uuid", b"meta", b"mfra", b"sidx", b"styp"}
)
_HOLDERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"dinf", b"stbl", b"edts"})
_MOST_DELAY = 0.05
"""Of a video, that an edit list may leave out at the beginning: an encoder's delay, and nothing that is seen."""
_TABLE_ENTRY_BYTES = {b"stts": 8, b"stco": 4, b"co64": 8}


class VideoError(Exception):
    """A video that cannot be sampled.

    Args:
        code: as a dead letter's.
        message: what is wrong and what to do about it.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Track:
    """The first video track, as the file declares it.

    Attributes:
        codec: of its sample description: ``avc1``, ``hvc1`` …
        width, height: in pixels, before turning.
        samples: frames; 0 if the file is fragmented, which keeps them elsewhere.
        seconds: their durations added up; 0.0 if fragmented.
        last_seconds: the last frame's.
        cut: whether an edit list may show only some of it.
    """

    codec: str
    width: int
    height: int
    samples: int
    seconds: float
    last_seconds: float
    cut: bool


@dataclass(frozen=True, slots=True)
class _Box:
    kind: bytes
    start: int
    """Of its contents."""
    end: int


class _Reader:
    """Boxes of one file, so many and no more."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self._left = MAX_MP4_BOXES

    def boxes(self, start: int, end: int, top: bool = False) -> Iterator[_Box]:
        """The boxes between two positions.

        Args:
            start: first byte.
            end: first byte past them.
            top: they are not inside another: then one that runs past the end says that the file is cut short, and
                what is no box at all is taken for something that an old program left there.
        """
        position = start
        while position + 8 <= end:
            self._left -= 1
            if self._left < 0:
                raise VideoError("BAD_VIDEO", f"the MP4 has more than {MAX_MP4_BOXES} boxes")
            size, kind = struct.unpack_from(">I4s", self.data, position)
            body = position + 8
            if size == 1 and body + 8 <= end:
                (size,) = struct.unpack_from(">Q", self.data, body)
                body += 8
            elif size == 0:
                size = end - position
            box_end = position + size
            if top and kind not in _FROM_THE_TOP:
                if box_end > end or box_end < body:
                    return
            elif box_end < body or (box_end > end and not top):
                raise VideoError("BAD_VIDEO", f"the MP4's box {_text(kind)} does not fit into the one around it")
            elif box_end > end:
                missing = box_end - end
                raise VideoError(
                    "VIDEO_TRUNCATED", f"the file is cut short: its box {_text(kind)} lacks {missing:,} bytes"
                )
            yield _Box(kind, body, box_end)
            position = box_end

    def children(self, box: _Box) -> dict[bytes, list[_Box]]:
        found: dict[bytes, list[_Box]] = {}
        for child in self.boxes(box.start, box.end):
            found.setdefault(child.kind, []).append(child)
        return found

    def number(self, box: _Box, offset: int, form: str) -> int:
        """A number in a box; 0 if the box is too short to hold it."""
        if box.start + offset + struct.calcsize(form) > box.end:
            return 0
        value: int = struct.unpack_from(form, self.data, box.start + offset)[0]
        return value

    def table(self, box: _Box, dtype: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
        """The entries after a full box's count, as one flat array; no more than there are."""
        entry_bytes = _TABLE_ENTRY_BYTES[box.kind]
        there = max(0, box.end - box.start - 8) // entry_bytes
        count = min(self.number(box, 4, ">I"), there)
        words = count * entry_bytes // np.dtype(dtype).itemsize
        return np.frombuffer(self.data, dtype, words, box.start + 8).astype(np.uint64)


def inspect(data: memoryview, max_pixels: int, max_duration_seconds: float) -> Track:
    """The video track of an MP4 or QuickTime file.

    Raises:
        VideoError: ``BAD_VIDEO`` (no such file, no video in it, or it refers to another file), ``VIDEO_TRUNCATED``,
            ``VIDEO_EMPTY``, ``VIDEO_TOO_LARGE`` or ``VIDEO_TOO_LONG``.
    """
    reader = _Reader(data)
    top: dict[bytes, _Box] = {}
    for box in reader.boxes(0, len(data), top=True):
        top.setdefault(box.kind, box)
    moov = top.get(b"moov")
    if moov is None and b"mdat" in top:
        raise VideoError("VIDEO_TRUNCATED", "the file has no index (moov box): it is cut short, or was never finished")
    if moov is None:
        raise VideoError("BAD_VIDEO", "not an MP4: there is nothing in it but an ftyp box")
    inside = reader.children(moov)
    if b"cmov" in inside:
        raise VideoError("BAD_VIDEO", "the file's index is compressed: write the file with another program")
    track = None
    header = inside.get(b"mvhd")
    timescale = _timescale(reader, header[0]) if header else 0
    for trak in inside.get(b"trak", []):
        found = _track(reader, trak, timescale, fragmented=b"mvex" in inside)
        track = track or found
    if track is None:
        raise VideoError("BAD_VIDEO", "the file has no video track")
    if track.width * track.height > max_pixels:
        raise VideoError("VIDEO_TOO_LARGE", too_large(track.width, track.height, max_pixels))
    if track.seconds > max_duration_seconds:
        message = f"it lasts {track.seconds:.1f} s, at most {max_duration_seconds:g} s are allowed"
        raise VideoError("VIDEO_TOO_LONG", message)
    return track


def _track(reader: _Reader, trak: _Box, movie_timescale: int, fragmented: bool) -> Track | None:
    """What a track says of itself, None if it is no video."""
    (media, edits) = (reader.children(trak).get(kind, [None])[0] for kind in (b"mdia", b"edts"))
    if media is None:
        return None
    inside = reader.children(media)
    found: dict[bytes, _Box] = {kind: boxes[0] for kind, boxes in inside.items()}
    for holder in (b"minf", b"dinf", b"stbl"):
        if holder in found:
            found |= {kind: boxes[0] for kind, boxes in reader.children(found[holder]).items()}
    _refuse_references(reader, found.get(b"dref"))
    handler = found.get(b"hdlr")
    if handler is None or bytes(reader.data[handler.start + 8 : handler.start + 12]) != b"vide":
        return None
    description = found.get(b"stsd")
    if description is None or description.end - description.start < 8 + 36:
        raise VideoError("BAD_VIDEO", "its video track has no sample description")
    entry = _Box(bytes(reader.data[description.start + 12 : description.start + 16]), description.start + 16, trak.end)
    samples, total_bytes = _sizes(reader, found)
    if not samples and not fragmented:
        raise VideoError("VIDEO_EMPTY", "its video track has no frames")
    _refuse_lies(reader, found, total_bytes)
    timescale = _timescale(reader, found[b"mdhd"]) if b"mdhd" in found else 0
    seconds, last_seconds = _durations(reader, found.get(b"stts"), timescale)
    return Track(
        codec=_text(entry.kind),
        width=reader.number(entry, 24, ">H"),
        height=reader.number(entry, 26, ">H"),
        samples=samples,
        seconds=seconds,
        last_seconds=last_seconds,
        cut=edits is not None and _shows_less(reader, edits, movie_timescale, timescale, seconds),
    )


def _refuse_references(reader: _Reader, references: _Box | None) -> None:
    """Every entry of a data reference must be the file itself, of whatever kind the track is."""
    if references is None:
        return
    for entry in reader.boxes(references.start + 8, references.end):
        if not reader.number(entry, 0, ">I") & _SELF_CONTAINED:
            raise VideoError("BAD_VIDEO", "it keeps its frames in another file: send one file that holds them")


def _sizes(reader: _Reader, found: dict[bytes, _Box]) -> tuple[int, int]:
    """How many samples there are, and their bytes in all."""
    sizes = found.get(b"stsz")
    if sizes is not None:
        each, count = reader.number(sizes, 4, ">I"), reader.number(sizes, 8, ">I")
        if each:
            return count, each * count
        there = max(0, sizes.end - sizes.start - 12) // 4
        if count > there:
            raise VideoError("BAD_VIDEO", f"its index claims {count:,} frames and lists {there:,}")
        return count, int(np.frombuffer(reader.data, ">u4", count, sizes.start + 12).sum(dtype=np.uint64))
    compact = found.get(b"stz2")
    return (reader.number(compact, 8, ">I"), 0) if compact is not None else (0, 0)


def _refuse_lies(reader: _Reader, found: dict[bytes, _Box], total_bytes: int) -> None:
    """Frames must lie in the file, and together be no larger than it."""
    for kind, dtype in ((b"stco", ">u4"), (b"co64", ">u8")):
        if kind in found:
            offsets = reader.table(found[kind], dtype)
            if offsets.size and int(np.max(offsets)) >= len(reader.data):
                raise VideoError("VIDEO_TRUNCATED", "the file is cut short: some of its frames lie past its end")
    if total_bytes > len(reader.data):
        message = f"its frames are said to have {total_bytes:,} bytes, the whole file has {len(reader.data):,}"
        raise VideoError("VIDEO_TRUNCATED", message)


def _timescale(reader: _Reader, header: _Box) -> int:
    """Ticks a second, of a movie's or a track's header."""
    return reader.number(header, 20 if _version(reader, header) == 1 else 12, ">I")


def _version(reader: _Reader, box: _Box) -> int:
    return reader.number(box, 0, ">B")


def _durations(reader: _Reader, table: _Box | None, timescale: int) -> tuple[float, float]:
    """Seconds of all samples and of the last one, from their table: the headers' own figure may say anything."""
    if table is None or not timescale:
        return 0.0, 0.0
    runs = reader.table(table, ">u4").reshape(-1, 2)
    if not len(runs):
        return 0.0, 0.0
    total = float((runs[:, 0].astype(np.float64) * runs[:, 1]).sum())
    return total / timescale, float(runs[-1, 1]) / timescale


def _shows_less(reader: _Reader, edits: _Box, movie_timescale: int, timescale: int, seconds: float) -> bool:
    """Whether an edit list does anything but show all, an encoder's delay left out."""
    lists = reader.children(edits).get(b"elst", [])
    return any(not _shows_all(reader, each, movie_timescale, timescale, seconds) for each in lists)


def _shows_all(reader: _Reader, edits: _Box, movie_timescale: int, timescale: int, seconds: float) -> bool:
    count = reader.number(edits, 4, ">I")
    if count != 1:
        return count == 0
    duration_form, start_at, start_form = (">Q", 16, ">q") if _version(reader, edits) == 1 else (">I", 12, ">i")
    duration, start = reader.number(edits, 8, duration_form), reader.number(edits, start_at, start_form)
    to_the_end = duration + 1 >= seconds * movie_timescale  # it is in whole ticks
    return to_the_end and 0 <= start <= _MOST_DELAY * seconds * timescale


def too_large(width: int, height: int, max_pixels: int) -> str:
    """What is said of a video whose frames are too large."""
    return f"the frames have {width} x {height} pixels, at most {max_pixels:,} are allowed"


def _text(kind: bytes) -> str:
    """A box's kind, for messages."""
    return repr(kind.decode("latin-1"))[1:-1]
