"""What is found out about an MP4 before a decoder sees it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.connectors.video.mp4 import Track, VideoError, inspect
from headrace.pipeline.limits import MAX_MP4_BOXES
from tests.unit.mp4_files import FTYP_BYTES, Mp4, box, full, plain

FRAMES = [plain(value) for value in (0, 100, 200)]


def look(data: bytes) -> Track:
    return inspect(memoryview(data), max_pixels=4096 * 2304, max_duration_seconds=600.0)


def code(data: bytes) -> str:
    with pytest.raises(VideoError) as caught:
        look(data)
    return caught.value.code


@pytest.mark.parametrize("index_first", [False, True])
def test_track_is_read(index_first: bool) -> None:
    track = look(Mp4(FRAMES, ticks=[100, 2000, 500], size=(64, 48), index_first=index_first).content())
    assert track == Track("jpeg", 64, 48, samples=3, seconds=2.6, last_seconds=0.5, cut=False)


def test_durations_are_those_of_the_frames_whatever_the_headers_claim() -> None:
    assert look(Mp4(FRAMES, declared_ticks=10**8).content()).seconds == pytest.approx(0.3)


def test_fragmented_file_has_its_frames_elsewhere() -> None:
    track = look(Mp4([], extra=box(b"mvex", full(b"trex", bytes(20)))).content())
    assert (track.samples, track.seconds) == (0, 0.0)


def test_what_an_old_program_left_at_the_end_is_ignored() -> None:
    whole = Mp4(FRAMES, size=(64, 48)).content()
    assert look(whole + b"\0" * 5) == look(whole + b"leftovers of something else") == look(whole)


@pytest.mark.parametrize("index_first", [False, True])
def test_file_that_is_cut_short_anywhere_is_found_out(index_first: bool) -> None:
    whole = Mp4(FRAMES, index_first=index_first).content()
    codes = {code(whole[:length]) for length in range(FTYP_BYTES + 8, len(whole))}
    assert codes == {"VIDEO_TRUNCATED"}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (Mp4([]).content(), "VIDEO_EMPTY"),
        (Mp4(FRAMES, size=(16_000, 16_000)).content(), "VIDEO_TOO_LARGE"),
        (Mp4(FRAMES, ticks=[10**6] * 3).content(), "VIDEO_TOO_LONG"),
        (Mp4(FRAMES, declared_samples=300).content(), "VIDEO_TRUNCATED"),
        (Mp4(FRAMES, reference=b"url file:///etc/hostname\0").content(), "BAD_VIDEO"),
        (Mp4(FRAMES, reference=b"urn name\0http://127.0.0.1/\0").content(), "BAD_VIDEO"),
        (Mp4(FRAMES, reference=b"alis" + bytes(200)).content(), "BAD_VIDEO"),
        (Mp4(FRAMES, extra=box(b"cmov", bytes(100))).content(), "BAD_VIDEO"),
        (Mp4(FRAMES).content().replace(b"vide", b"soun"), "BAD_VIDEO"),
        (Mp4(FRAMES).content()[:FTYP_BYTES], "BAD_VIDEO"),
        (Mp4(FRAMES).content().replace(b"stsd", b"free"), "BAD_VIDEO"),
        (Mp4(FRAMES).content() + struct.pack(">I4s", 4, b"moov"), "BAD_VIDEO"),
        (box(b"ftyp", bytes(8)) + box(b"free") * (MAX_MP4_BOXES + 1), "BAD_VIDEO"),
    ],
    ids=[
        "no frames", "huge", "endless", "claims frames it has not", "another file", "another host", "a QuickTime alias",
        "a compressed index", "sound alone", "nothing but its type", "no description", "a box smaller than its header",
        "boxes without end",
    ],
)  # fmt: skip
def test_bad_file_is_refused_by_name(data: bytes, expected: str) -> None:
    assert code(data) == expected


def test_every_track_is_looked_at_for_other_files() -> None:
    """A sound track's reference would be opened just as well."""
    sound = Mp4(FRAMES, reference=b"url file:///etc/hostname\0").content().replace(b"vide", b"soun")
    start = sound.index(b"trak") - 4
    trak = sound[start : start + int.from_bytes(sound[start : start + 4], "big")]
    assert code(Mp4(FRAMES, extra=trak).content()) == "BAD_VIDEO"
    assert look(Mp4(FRAMES, extra=trak.replace(b"dref", b"free")).content()).samples == 3


@settings(deadline=None)  # a busy machine
@given(st.data())
def test_any_damage_is_refused_or_read_but_never_a_crash(data: st.DataObject) -> None:
    """Whatever bytes are changed, there is a track or a `VideoError`, and quickly."""
    whole = bytearray(Mp4([b"a", b"bc"], index_first=True).content())
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(8, len(whole) - 5))
        whole[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4) | st.sampled_from([b"\xff" * 4, bytes(4)]))
    try:
        track = look(bytes(whole))
    except VideoError:
        return
    assert track.samples >= 0


@settings(deadline=None)  # a busy machine
@given(st.binary(max_size=300))
def test_any_bytes_are_refused(tail: bytes) -> None:
    with pytest.raises(VideoError):
        look(box(b"ftyp", b"isom" + bytes(4)) + tail)


@pytest.mark.parametrize(
    ("edits", "cut"),
    [
        ((), False),
        (((3000, 0),), False),
        (((2999, 67),), False),  # rounded, and with an encoder's delay
        (((1500, 0),), True),
        (((1500, 1500),), True),
        (((3000, 1500),), True),
        (((0, 0),), True),
        (((1000, 0), (2000, 1000)), True),
        (((500, -1), (3000, 0)), True),
    ],
)
def test_video_is_cut_if_an_edit_list_may_leave_out_frames(edits: tuple[tuple[int, int], ...], cut: bool) -> None:
    assert look(Mp4([plain(9)] * 30, edits=edits).content()).cut is cut
