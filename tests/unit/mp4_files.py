"""MP4 files written box by box, so that a test can say anything in them, true or not."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np

PHOTOS = Path(__file__).parents[2] / "pipeline" / "demo" / "data" / "photos"
FTYP_BYTES = 24
_UNITY = (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_TURNED = {
    0: _UNITY,
    90: (0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000),
    180: (-0x10000, 0, 0, 0, -0x10000, 0, 0, 0, 0x40000000),
    270: (0, -0x10000, 0, 0x10000, 0, 0, 0, 0, 0x40000000),
}


@cache
def photo(name: str, width: int = 320, height: int = 180) -> bytes:
    """A photo of the demo as a JPEG of that size."""
    pixels = cv2.imread(str(PHOTOS / name))
    assert pixels is not None
    return jpeg(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA))


@cache
def plain(value: int, width: int = 64, height: int = 48) -> bytes:
    """A picture of one grey."""
    return jpeg(np.full((height, width, 3), value, np.uint8))


def jpeg(pixels: cv2.typing.MatLike) -> bytes:
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def box(kind: bytes, *contents: bytes) -> bytes:
    body = b"".join(contents)
    return struct.pack(">I4s", len(body) + 8, kind) + body


def full(kind: bytes, *contents: bytes, version: int = 0, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *contents)


@dataclass
class Mp4:
    """A file of one video track whose samples are JPEGs, unless ``codec`` says otherwise.

    Attributes:
        samples: encoded frames.
        ticks: how long each is shown, in thousandths of a second.
        size: width and height, as the track declares them.
        codec: of the sample description.
        turned: degrees by which a player turns the picture clockwise.
        reference: the body of the data reference's entry, its type first; None: the file itself.
        declared_ticks: what the headers claim to be the duration; None: the truth.
        declared_samples: how many samples the tables claim, all as large as the last; None: the truth.
        index_first: whether the index goes before the frames.
        edits: of the edit list: how much is shown and from where on, in thousandths of a second.
    """

    samples: Sequence[bytes]
    ticks: Sequence[int] = ()
    size: tuple[int, int] = (320, 180)
    codec: bytes = b"jpeg"
    turned: int = 0
    reference: bytes | None = None
    declared_ticks: int | None = None
    declared_samples: int | None = None
    index_first: bool = False
    edits: Sequence[tuple[int, int]] = ()
    extra: bytes = field(default=b"", repr=False)
    """Put into the index, after the track."""

    def content(self) -> bytes:
        ftyp = box(b"ftyp", b"isom", struct.pack(">I", 512), b"isom", b"mp42")
        assert len(ftyp) == FTYP_BYTES
        mdat = box(b"mdat", *self.samples)
        if not self.index_first:
            return ftyp + mdat + self._moov(len(ftyp) + 8)
        moov_bytes = len(self._moov(0))
        return ftyp + self._moov(len(ftyp) + moov_bytes + 8) + mdat

    def _moov(self, first: int) -> bytes:
        ticks = [*self.ticks] or [100] * len(self.samples)
        duration = sum(ticks) if self.declared_ticks is None else self.declared_ticks
        mvhd = full(b"mvhd", struct.pack(">4IIH10x9i24xI", 0, 0, 1000, duration, 0x10000, 0x100, *_UNITY, 2))
        return box(b"moov", mvhd, self._trak(first, ticks, duration), self.extra)

    def _trak(self, first: int, ticks: Sequence[int], duration: int) -> bytes:
        width, height = self.size
        matrix = _TURNED[self.turned]
        tkhd = full(
            b"tkhd",
            struct.pack(">5I8x4h9iII", 0, 0, 1, 0, duration, 0, 0, 0, 0, *matrix, width << 16, height << 16),
            flags=3,
        )
        mdhd = full(b"mdhd", struct.pack(">4IHH", 0, 0, 1000, duration, 0x55C4, 0))
        hdlr = full(b"hdlr", b"\0\0\0\0vide" + bytes(12) + b"video\0")
        vmhd = full(b"vmhd", bytes(8), flags=1)
        dinf = box(b"dinf", full(b"dref", struct.pack(">I", 1), self._reference()))
        minf = box(b"minf", vmhd, dinf, self._stbl(first, ticks))
        return box(b"trak", tkhd, self._edts(), box(b"mdia", mdhd, hdlr, minf))

    def _edts(self) -> bytes:
        if not self.edits:
            return b""
        entries = (struct.pack(">IiI", *edit, 0x10000) for edit in self.edits)
        return box(b"edts", full(b"elst", struct.pack(">I", len(self.edits)), *entries))

    def _reference(self) -> bytes:
        if self.reference is None:
            return full(b"url ", flags=1)
        return full(self.reference[:4], self.reference[4:])

    def _stbl(self, first: int, ticks: Sequence[int]) -> bytes:
        width, height = self.size
        entry = struct.pack(">6xH16xHHII4xH32xHh", 1, width & 0xFFFF, height & 0xFFFF, 72 << 16, 72 << 16, 1, 24, -1)
        stsd = full(b"stsd", struct.pack(">I", 1), box(self.codec, entry))
        runs = [(len([*group]), tick) for tick, group in groupby(ticks)]
        sizes = [len(sample) for sample in self.samples]
        offsets = [*_running(first, sizes)]
        if self.declared_samples is not None and sizes:
            more = self.declared_samples - len(sizes)
            runs[-1] = (runs[-1][0] + more, runs[-1][1])
            sizes += [sizes[-1]] * more
            offsets += [offsets[-1]] * more
        stts = full(b"stts", struct.pack(">I", len(runs)), *(struct.pack(">II", *run) for run in runs))
        stsc = full(b"stsc", struct.pack(">IIII", 1, 1, 1, 1))
        stsz = full(b"stsz", struct.pack(f">II{len(sizes)}I", 0, len(sizes), *sizes))
        stco = full(b"stco", struct.pack(f">I{len(offsets)}I", len(offsets), *offsets))
        return box(b"stbl", stsd, stts, stsc, stsz, stco)


def fragmented(samples: Sequence[bytes], ticks: int = 100) -> bytes:
    """The same as a live recording writes it: an index without frames, then fragments of one frame each."""
    trex = full(b"trex", struct.pack(">5I", 1, 1, ticks, 0, 0))
    head = Mp4([], extra=box(b"mvex", trex)).content()
    pieces = [head]
    for number, sample in enumerate(samples):
        tfhd = full(b"tfhd", struct.pack(">I", 1), flags=0x020000)
        tfdt = full(b"tfdt", struct.pack(">I", number * ticks))
        trun = full(b"trun", struct.pack(">IiI", 1, 0, len(sample)), flags=0x000201)
        moof_bytes = len(box(b"moof", full(b"mfhd", bytes(4)), box(b"traf", tfhd, tfdt, trun)))
        trun = full(b"trun", struct.pack(">IiI", 1, moof_bytes + 8, len(sample)), flags=0x000201)
        mfhd = full(b"mfhd", struct.pack(">I", number + 1))
        pieces += [box(b"moof", mfhd, box(b"traf", tfhd, tfdt, trun)), box(b"mdat", sample)]
    return b"".join(pieces)


def _running(first: int, sizes: Sequence[int]) -> Iterator[int]:
    for size in sizes:
        yield first
        first += size


@cache
def vp9_frame(width: int = 4096, height: int = 2304) -> bytes:
    """A grey frame of VP9 that stands alone: less than a kilobyte, whatever its size in pixels."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grey.mp4"
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"vp09"), 30.0, (width, height))
        assert writer.isOpened()
        writer.write(np.full((height, width, 3), 90, np.uint8))
        writer.release()
        data = path.read_bytes()
    (size,) = struct.unpack_from(">I", data, data.index(b"stsz") + 8)  # of every sample, for there is one
    (offset,) = struct.unpack_from(">I", data, data.index(b"stco") + 12)
    return data[offset : offset + size]


def slow(frames: int = 3000) -> bytes:
    """A file of a few megabytes that takes minutes when the picture of every frame is looked at."""
    return Mp4([vp9_frame()] * frames, ticks=[33] * frames, size=(4096, 2304), codec=b"vp09").content()
