"""Turns on the event loop: work on many records gives way now and then, so that commits, probes and pages go on."""

from __future__ import annotations

import asyncio

from headrace.pipeline.ports import Clock

TURN_SECONDS = 0.002
"""How long one piece of work may hold the event loop; a single record may still take longer.

Every step of another record's journey may wait that long, and there are about ten."""


async def give_way(clock: Clock, turn_began: float) -> float:
    """Let others run if this turn has been long enough.

    Args:
        clock: of ``turn_began``.
        turn_began: when the turn began, in monotonic seconds.

    Returns:
        When the turn that goes on now began. Whatever was true before may have changed if it is another one.
    """
    if clock.monotonic() - turn_began < TURN_SECONDS:
        return turn_began
    await asyncio.sleep(0)
    return clock.monotonic()
