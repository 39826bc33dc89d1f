"""A number for each of very many offsets, in little room. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

_BLOCK = 128
"""Offsets that share an array: eight bytes each, if only one of them has a number."""


class OffsetTable:
    """Numbers by partition and offset: eight bytes each where they lie close together. 0 stands for none."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[int, int], array[int]] = {}

    def __getitem__(self, place: tuple[int, int]) -> int:
        """The number at this partition and offset; 0 if it has none."""
        partition, offset = place
        block = self._blocks.get((partition, offset // _BLOCK))
        return 0 if block is None else block[offset % _BLOCK]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Partition and offset of each that has a number."""
        for (partition, block), numbers in self._blocks.items():
            yield from ((partition, block * _BLOCK + at) for at, number in enumerate(numbers) if number)

    def __setitem__(self, place: tuple[int, int], number: int) -> None:
        partition, offset = place
        at = partition, offset // _BLOCK
        if at not in self._blocks:
            self._blocks[at] = array("q", bytes(8 * _BLOCK))
        self._blocks[at][offset % _BLOCK] = number
