"""What an offset bitmap holds, as a list."""

from __future__ import annotations

from headrace.pipeline.offsets import OffsetBitmap


def done_from(bitmap: OffsetBitmap, base: int) -> list[int]:
    """The offsets from ``base`` on, which is not below where the bitmap begins, that are done, ascending."""
    return [offset for run in bitmap.runs(base) for offset in range(*run)]
