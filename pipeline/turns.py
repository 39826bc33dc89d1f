"""Turns on the event loop: work on many records gives way now and then, so that commits, probes and pages go on."""

from __future__ import annotations

import asyncio

from headrace.pipeline.ports import Clock

TURN_SECONDS = 0.002
"""How long one piece of work may hold the event loop; a single record may still take longer.

Every step of another record's journey may wait that long, and there are about ten."""


class Turn:
    """One piece of work's: after each record, ``if turn.is_over: await turn.give_way()``.

    Whatever was true before may have changed when another turn begins.
    """

    __slots__ = ("_began", "_clock")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether it has been long enough."""
        return self._clock.monotonic() - self._began >= TURN_SECONDS

    async def give_way(self) -> None:
        """Let others run; then the next turn begins."""
        await asyncio.sleep(0)
        self._began = self._clock.monotonic()
