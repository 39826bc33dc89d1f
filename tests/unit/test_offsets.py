import base64
import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.pipeline.errors import FatalError
from headrace.pipeline.offsets import FAR, FAR_RUNS, NEAR, OffsetBitmap, decode_metadata
from tests.unit.done_offsets import done_from
from tests.unit.strategies import examples

NO_NEAR = base64.b64encode(zlib.compress(b"")).decode()
METADATA_LIMIT_BYTES = 4096
"""Kafka's default for ``offset.metadata.max.bytes``."""


def far(*text: int) -> str:
    return base64.b64encode(bytes(text)).decode()


@settings(max_examples=examples(50), deadline=None)
@given(base=st.integers(0, 2**62), above=st.sets(st.integers(1, NEAR - 1), max_size=200))
def test_metadata_round_trips(base: int, above: set[int]) -> None:
    done = {base + each for each in above}
    bitmap = OffsetBitmap(base)
    for offset in done:
        bitmap.add(offset)
    found, complaint = decode_metadata(base, bitmap.encode(base))
    assert complaint is None
    assert {offset for offset in range(base, base + NEAR) if offset in found} == done
    assert done_from(found, base) == sorted(done)


@settings(max_examples=examples(50), deadline=None)
@given(seed=st.integers(0, 2**32))
def test_metadata_of_a_full_incompressible_window_fits_the_broker(seed: int) -> None:
    bits = random.Random(seed).randbytes(NEAR // 8)
    base = 2**63 - FAR + 7  # the longest of texts
    bitmap = OffsetBitmap(base, bits + b"\xff")
    assert len(bitmap.encode(base)) < METADATA_LIMIT_BYTES


@settings(max_examples=examples(50), deadline=None)
@given(
    base=st.integers(0, 2**40),
    gaps=st.lists(st.tuples(st.integers(1, 1500), st.integers(1, 500)), min_size=1, max_size=FAR_RUNS),
    near=st.sets(st.integers(1, NEAR - 1), max_size=50),
)
def test_metadata_with_far_runs_round_trips(base: int, gaps: list[tuple[int, int]], near: set[int]) -> None:
    bitmap = OffsetBitmap(base)
    done = {base + each for each in near}
    end = base + NEAR + 7
    for gap, length in gaps:
        done.update(range(end + gap, end + gap + length))
        end += gap + length
    for offset in done:
        bitmap.add(offset)
    metadata = bitmap.encode(base)
    assert metadata.startswith("h2:")
    found, complaint = decode_metadata(base, metadata)
    assert complaint is None
    assert {offset for offset in range(base, end + 10) if offset in found} == done
    assert found.count() == len(done)
    assert done_from(found, base) == sorted(done)


@settings(max_examples=examples(10), deadline=None)
@given(seed=st.integers(0, 2**32))
def test_longest_metadata_fits_the_broker(seed: int) -> None:
    random_ = random.Random(seed)
    base = 2**63 - FAR + 7
    bitmap = OffsetBitmap(base, random_.randbytes(NEAR // 8) + b"\xff")
    step = (FAR - NEAR) // FAR_RUNS
    for start in range(base + NEAR + 20, base + FAR - step, step):
        for offset in range(start, start + step // 2 + random_.randrange(3)):
            bitmap.add(offset)
    assert len(bitmap.encode(base)) < METADATA_LIMIT_BYTES


@settings(max_examples=examples(50), deadline=None)
@given(have=st.sets(st.integers(0, 300)), more=st.sets(st.integers(0, 300)), start=st.integers(0, 300))
def test_runs_are_counted_before_they_are_made(have: set[int], more: set[int], start: int) -> None:
    bitmap = OffsetBitmap(0)
    for offset in have:
        bitmap.add(offset)
    more = {each for each in more if each >= start}
    count = bitmap.runs_with(start, more)
    for offset in more:
        bitmap.add(offset)
    assert len(list(bitmap.runs(start))) == count


def test_metadata_is_empty_when_nothing_above_is_done() -> None:
    bitmap = OffsetBitmap(100)
    for offset in range(100, 111):
        bitmap.add(offset)
    assert bitmap.encode(111) == ""


@pytest.mark.parametrize("metadata", ["some tool was here", "{}", "o1:AAAA", "h:x"])
def test_foreign_metadata_counts_as_nothing_done_and_is_reported(metadata: str) -> None:
    done, complaint = decode_metadata(5, metadata)
    assert done_from(done, 5) == []
    assert complaint is not None
    assert metadata in complaint


@pytest.mark.parametrize("base", [0, 99, 101, 108])
def test_metadata_of_another_offset_counts_as_nothing_done_and_is_reported(base: int) -> None:
    """Tools that move a committed offset keep its metadata: a reset, MirrorMaker's translation to another cluster."""
    bitmap = OffsetBitmap(100)
    bitmap.add(103)
    metadata = bitmap.encode(100)
    assert done_from(decode_metadata(100, metadata)[0], 100) == [103]
    done, complaint = decode_metadata(base, metadata)
    assert done_from(done, base) == []
    assert complaint == f"metadata of another offset than {base} ignored: {metadata!r}"


def test_metadata_of_a_newer_format_is_fatal() -> None:
    with pytest.raises(FatalError, match="newer headrace"):
        decode_metadata(5, "h3:AAAA")


@pytest.mark.parametrize(
    "metadata",
    [
        "h1:",
        "h1:5",
        "h1:x:AAAA",
        "h1:5:",
        "h1:5:?",
        "h1:5:AAAA",
        "h1:" + base64.b64encode(zlib.compress(b"\1" * 50)).decode(),
        "h1:5:" + base64.b64encode(zlib.compress(b"\1" * 50)[:-1]).decode(),
        "h1:5:" + base64.b64encode(zlib.compress(b"\1" * 50) + b"x").decode(),
        "h1:5:" + base64.b64encode(zlib.compress(b"\1" * 1_000_000)).decode(),
        f"h2:5:{NO_NEAR}",
        f"h2:5:{NO_NEAR}:",
        f"h2:5:{NO_NEAR}:{far(1)}",
        f"h2:5:{NO_NEAR}:{far(1, 0x80)}",
        f"h2:5:{NO_NEAR}:{far(1, 0xFF, 0xFF, 0xFF, 0x7F)}",
        f"h2:5:{NO_NEAR}:{far(1, 0xFF, 0xFF, 0x7F)}",
        f"h2:5:{NO_NEAR}:{far(*[1, 1] * (FAR_RUNS + 1))}",
        f"h2:5:AAAA:{far(1, 1)}",
    ],
)
def test_damaged_metadata_is_fatal_because_guessing_would_double(metadata: str) -> None:
    with pytest.raises(FatalError, match="damaged"):
        decode_metadata(5, metadata)
