import base64
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.errors import FatalError
from headrace.pipeline.offsets import WINDOW, OffsetBitmap, decode_metadata
from tests.unit.done_offsets import done_from

METADATA_LIMIT_BYTES = 4096
"""Kafka's default for ``offset.metadata.max.bytes``."""


@given(base=st.integers(0, 2**62), above=st.sets(st.integers(1, WINDOW - 1), max_size=200))
def test_metadata_round_trips(base: int, above: set[int]) -> None:
    done = {base + each for each in above}
    bitmap = OffsetBitmap(base)
    for offset in done:
        bitmap.add(offset)
    found, complaint = decode_metadata(base, bitmap.encode(base))
    assert complaint is None
    assert set(done_from(found, base, WINDOW)) == done


@given(seed=st.integers(0, 2**32))
def test_metadata_of_a_full_incompressible_window_fits_the_broker(seed: int) -> None:
    bits = random.Random(seed).randbytes(WINDOW // 8)
    base = 2**63 - WINDOW + 7  # the longest of texts
    bitmap = OffsetBitmap(base, bits + b"\xff")
    assert len(bitmap.encode(base)) < METADATA_LIMIT_BYTES


def test_metadata_is_empty_when_nothing_above_is_done() -> None:
    bitmap = OffsetBitmap(100)
    for offset in range(100, 111):
        bitmap.add(offset)
    assert bitmap.encode(111) == ""


@pytest.mark.parametrize("metadata", ["some tool was here", "{}", "o1:AAAA", "h:x"])
def test_foreign_metadata_counts_as_nothing_done_and_is_reported(metadata: str) -> None:
    done, complaint = decode_metadata(5, metadata)
    assert done_from(done, 0) == []
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
    assert done_from(done, 0) == []
    assert complaint == f"metadata of another offset than {base} ignored: {metadata!r}"


def test_metadata_of_a_newer_format_is_fatal() -> None:
    with pytest.raises(FatalError, match="newer headrace"):
        decode_metadata(5, "h2:AAAA")


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
    ],
)
def test_damaged_metadata_is_fatal_because_guessing_would_double(metadata: str) -> None:
    with pytest.raises(FatalError, match="damaged"):
        decode_metadata(5, metadata)
