"""A load of several kinds: quick, slow, and a real model's."""

from __future__ import annotations

from tests.integration.avro_ends import Datum, delayed, event, numbers, text


def mixed(count: int) -> list[Datum]:
    """A third each of identity, delays of up to 60 ms, and texts."""
    return [_of_kind(index) for index in range(count)]


def _of_kind(index: int) -> Datum:
    if index % 3 == 0:
        return event(numbers(index))
    if index % 3 == 1:
        return delayed(index % 4 * 20, index)
    return event(text(f"sentence number {index} of many"))
