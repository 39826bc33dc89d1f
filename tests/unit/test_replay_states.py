"""How a run is, as its process says it: in transactions of the run, and as long as the run is this process's."""

from __future__ import annotations

import asyncio

import pytest

from headrace.pipeline.errors import FencedError
from headrace.pipeline.replay.counting import LAST_WORD_SECONDS, SIGN_OF_LIFE_SECONDS
from headrace.pipeline.replay.manifest import Run, RunState
from tests.unit.counting_bench import RUNS, Bench, unit
from tests.unit.fakes import EPOCH_MS, on_virtual_time, settle
from tests.unit.replay_bench import PLAN


@on_virtual_time
async def test_run_is_taken_before_anything_is_answered() -> None:
    """In one transaction with how it is: nobody else can commit after it, nor say that."""
    bench = Bench()
    await bench.counted.start()
    [taken] = bench.inner.units
    assert [output.topic for output in taken.outputs] == [RUNS, PLAN.progress_topic]
    assert taken.offsets == ()
    assert bench.written == [bench.known]
    assert bench.said == [
        Run(PLAN, RunState.RUNNING, EPOCH_MS, results=7, dead_letters=2, resumed=2, active_seconds=40.0)
    ]


@on_virtual_time
async def test_process_that_cannot_take_the_run_says_nothing_of_it() -> None:
    bench = Bench()
    bench.inner.failures.append(FencedError("another"))
    with pytest.raises(FencedError):
        await bench.counted.start()
    await bench.counted.close()
    assert bench.broker.outputs == []
    assert bench.inner.closed


@on_virtual_time
async def test_signs_of_life_are_given_while_nothing_is_committed() -> None:
    bench = Bench()
    await bench.counted.start()
    await asyncio.sleep(3 * SIGN_OF_LIFE_SECONDS + 1)
    assert [each.state for each in bench.said] == [RunState.RUNNING] * 4
    assert [each.updated_ms - EPOCH_MS for each in bench.said] == pytest.approx([0, 20_000, 40_000, 60_000], abs=50)
    assert [each.number for each in bench.written] == [1, 2, 3, 4]
    await bench.counted.close()


@on_virtual_time
async def test_sign_of_life_tells_the_process_that_it_has_lost_the_run() -> None:
    bench = Bench()
    await bench.counted.start()
    bench.inner.failures.append(FencedError("another"))
    await asyncio.sleep(SIGN_OF_LIFE_SECONDS + 1)
    assert isinstance(bench.counted.failure, FencedError)
    assert bench.counted.lost is bench.counted.failure
    await bench.counted.close()
    assert len(bench.said) == 1


@on_virtual_time
async def test_sign_of_life_and_unit_are_committed_one_after_the_other() -> None:
    bench = Bench()
    await bench.counted.start()
    bench.inner.hold()
    committing = asyncio.create_task(bench.counted.commit(unit(3)))
    await asyncio.sleep(SIGN_OF_LIFE_SECONDS + 1)
    bench.inner.let_go()
    await committing
    await settle()
    assert [(each.number, each.results) for each in bench.written] == [(1, 7), (2, 10), (3, 10)]
    assert bench.said[-1].results == 10
    await bench.counted.close()


@on_virtual_time
async def test_commit_that_nobody_waits_for_any_more_counts_in_the_last_word() -> None:
    bench = Bench()
    await bench.counted.start()
    bench.inner.hold()
    committing = asyncio.create_task(bench.counted.commit(unit(1)))
    await settle()
    committing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await committing
    closing = asyncio.create_task(bench.counted.close())
    await settle()
    bench.inner.let_go()
    await closing
    assert [(each.number, each.results) for each in bench.written] == [(1, 7), (2, 8), (3, 8)]
    assert (bench.said[-1].state, bench.said[-1].results) == (RunState.STOPPED, 8)


@pytest.mark.parametrize(("exhausted", "state"), [(True, RunState.COMPLETE), (False, RunState.STOPPED)])
def test_closing_says_how_the_run_is_left(exhausted: bool, state: RunState) -> None:
    @on_virtual_time
    async def run() -> None:
        bench = Bench()
        await bench.counted.start()
        await asyncio.sleep(2)
        await bench.counted.commit(unit(1))
        bench.exhausted = exhausted
        await bench.counted.close()
        assert bench.inner.closed
        assert bench.said[1:] == [bench.counted.left]
        left = bench.said[-1]
        assert (left.state, left.results, left.dead_letters, left.resumed) == (state, 8, 2, 2)
        assert left.active_seconds == pytest.approx(42, abs=0.01)
        await asyncio.sleep(2 * SIGN_OF_LIFE_SECONDS)
        assert len(bench.said) == 2

    run()


@on_virtual_time
async def test_process_that_has_lost_the_run_does_not_say_how_it_is_left(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    await bench.counted.start()
    bench.inner.failures.append(FencedError("another process goes on with it"))
    bench.exhausted = True
    await bench.counted.close()
    assert bench.inner.closed
    assert len(bench.said) == 1
    assert isinstance(bench.counted.lost, FencedError)
    assert "how run try-1 is left could not be written: another process goes on with it" in caplog.text


@on_virtual_time
async def test_last_word_is_not_waited_for_without_end(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    await bench.counted.start()
    bench.inner.hold()
    began = asyncio.get_running_loop().time()
    await bench.counted.close()
    assert asyncio.get_running_loop().time() - began == pytest.approx(LAST_WORD_SECONDS, abs=0.1)
    assert bench.inner.closed
    assert "how run try-1 is left could not be written: no answer" in caplog.text
    assert bench.counted.left is not None
    assert bench.counted.left.state is RunState.STOPPED


@on_virtual_time
async def test_closing_before_the_start_says_nothing() -> None:
    bench = Bench()
    await bench.counted.close()
    assert bench.inner.closed
    assert bench.broker.outputs == []
    assert bench.counted.left is None
