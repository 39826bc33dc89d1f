from __future__ import annotations

import asyncio

import pytest

from headrace.pipeline import turns
from headrace.pipeline.turns import TURN_SECONDS, Turn
from tests.unit.dispatch_bench import Bench
from tests.unit.fakes import on_virtual_time


class SetClock:
    """Says what it is told to."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def epoch_ms(self) -> int:
        return 0


class Others:
    """Another task on the loop: counts the turns that it gets."""

    def __init__(self) -> None:
        self.turns = 0
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            self.turns += 1
            await asyncio.sleep(0)


@on_virtual_time
async def test_others_get_a_turn_when_one_has_been_long_enough() -> None:
    clock, others = SetClock(), Others()
    turn = Turn(clock)
    clock.now = TURN_SECONDS * 0.9
    over = [turn.is_over]
    clock.now = TURN_SECONDS * 1.1
    over.append(turn.is_over)
    assert others.turns == 0
    await turn.give_way()
    over.append(turn.is_over)
    assert over == [False, True, False]
    assert others.turns == 1
    others.task.cancel()


@on_virtual_time
async def test_preparing_many_parts_gives_way() -> None:
    bench = Bench()
    await bench.begin()
    await bench.submit(0)  # from here on nothing is waited for
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "TURN_SECONDS", 0.0)
        others = Others()
        await bench.submit(*range(1, 11))
        assert others.turns == 10
    others.task.cancel()
    await asyncio.sleep(5)
    assert bench.texts == {offset: f"t{offset}" for offset in range(11)}
