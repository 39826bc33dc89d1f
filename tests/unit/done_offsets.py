"""What an offset bitmap holds, as a list."""

from __future__ import annotations

from headrace.pipeline.offsets import OffsetBitmap


def done_from(bitmap: OffsetBitmap, base: int, span: int = 1000) -> list[int]:
    """Those of the ``span`` offsets from ``base`` on that are done, ascending."""
    return [offset for offset in range(base, base + span) if offset in bitmap]
