"""A run's progress in its transactions, over transactions that a test may hold, refuse or fail."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from headrace.pipeline.errors import FatalError, FencedError, OutputRefusedError
from headrace.pipeline.ports import StartPosition
from headrace.pipeline.records import OutputRecord
from headrace.pipeline.replay.manifest import Progress
from tests.unit.counting_bench import LEFT, P1, Bench, unit
from tests.unit.fakes import EPOCH_MS, on_virtual_time, settle
from tests.unit.replay_bench import PLAN

# --- start ----------------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_progress_is_taken_when_no_other_process_can_commit_any_more() -> None:
    bench = Bench()
    bench.inner.hold()
    starting = asyncio.create_task(bench.counted.start())
    await settle()
    assert bench.counted.progress is None
    bench.inner.let_go()
    await starting
    found = bench.known
    assert found == replace(LEFT, writer=found.writer, number=1, resumed=2, updated_ms=EPOCH_MS)


@on_virtual_time
async def test_run_without_progress_begins_with_nothing_done() -> None:
    bench = Bench(None, resume=False)
    await bench.counted.start()
    assert bench.known == Progress("try-1", writer=bench.known.writer, number=1, updated_ms=EPOCH_MS)
    assert bench.known.writer


@on_virtual_time
async def test_process_that_cannot_fence_others_knows_nothing() -> None:
    bench = Bench()
    bench.inner.start_failure = FencedError("another")
    with pytest.raises(FencedError):
        await bench.counted.start()
    assert bench.counted.progress is None
    await bench.counted.close()
    assert bench.broker.outputs == []


@on_virtual_time
async def test_next_process_goes_on_from_what_is_committed_under_a_name_of_its_own() -> None:
    bench = Bench(None, resume=False)
    await bench.counted.start()
    await bench.counted.commit(unit(3, 1))
    first = bench.known
    following = bench.process(bench.inner)
    await following.start()
    second = following.progress
    assert second is not None
    assert second == replace(first, writer=second.writer, number=1, resumed=1)
    assert second.writer != first.writer


# --- commit ---------------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_progress_goes_last_with_the_outcomes_that_it_counts() -> None:
    bench = Bench()
    await bench.counted.start()
    given = unit(3, 1)
    assert await bench.counted.commit(given)
    committed = bench.inner.units[-1]
    assert committed.outputs[:-1] == given.outputs
    assert (committed.offsets, committed.records) == (given.offsets, given.records)
    assert committed.still_owned is given.still_owned
    record = committed.outputs[-1]
    assert (record.topic, record.partition) == (PLAN.progress_topic, 0)
    progress = bench.written[-1]
    assert (progress.number, progress.results, progress.dead_letters) == (2, 10, 3)
    assert progress == bench.known


@on_virtual_time
async def test_counts_are_those_of_all_that_is_visible_after_every_commit() -> None:
    bench = Bench()
    await bench.counted.start()
    seen: list[tuple[int, int]] = []

    def look() -> None:
        seen.append((bench.visible(PLAN.results_topic), bench.visible(PLAN.dead_letters_topic)))

    bench.broker.on_commit = look
    for offset, (results, dead_letters) in enumerate([(1, 0), (0, 2), (0, 0), (50, 3)], 6):
        await bench.counted.commit(unit(results, dead_letters, offset))
    written = bench.written[1:]
    assert [(each.results - LEFT.results, each.dead_letters - LEFT.dead_letters) for each in written] == seen
    assert seen[-1] == (51, 5)
    assert [each.number for each in written] == [2, 3, 4, 5]


@on_virtual_time
async def test_outputs_of_other_topics_are_not_counted() -> None:
    bench = Bench()
    await bench.counted.start()
    more = OutputRecord("other", None, b"")
    await bench.counted.commit(replace(unit(1), outputs=(*unit(1).outputs, more)))
    assert (bench.known.results, bench.known.dead_letters) == (8, 2)


@on_virtual_time
async def test_positions_are_the_newest_of_every_partition() -> None:
    bench = Bench()
    await bench.counted.start()
    await bench.counted.commit(unit(1, offset=6))
    await bench.counted.commit(unit(1, offset=2, partition=P1))
    await bench.counted.commit(unit(1, offset=8))
    assert bench.written[-1].positions == {
        0: StartPosition(8, "m8"),
        1: StartPosition(2, "m2"),
        3: StartPosition(9, ""),
    }


@on_virtual_time
async def test_unit_that_was_not_committed_changes_nothing() -> None:
    bench = Bench()
    await bench.counted.start()
    before = bench.known
    assert not await bench.counted.commit(replace(unit(4), still_owned=lambda: False))
    assert bench.known == before
    await bench.counted.commit(unit(1))
    assert [(each.number, each.results) for each in bench.written] == [(1, 7), (2, 8)]


@on_virtual_time
async def test_time_at_work_goes_on_from_what_was_left() -> None:
    bench = Bench()
    await bench.counted.start()
    await asyncio.sleep(5)
    await bench.counted.commit(unit(1))
    await asyncio.sleep(2.5)
    await bench.counted.commit(unit(1, offset=7))
    assert [each.active_seconds for each in bench.written] == pytest.approx([40.0, 45.0, 47.5], abs=0.01)
    assert [each.updated_ms - EPOCH_MS for each in bench.written] == pytest.approx([0, 5_000, 7_500], abs=10)


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 2])
def test_refused_output_is_passed_on_and_its_dead_letter_counted_instead(index: int) -> None:
    @on_virtual_time
    async def run() -> None:
        bench = Bench()
        await bench.counted.start()
        before = bench.known
        bench.inner.failures.append(OutputRefusedError(index, "too large"))
        with pytest.raises(OutputRefusedError) as caught:
            await bench.counted.commit(unit(3))
        assert caught.value.index == index
        assert bench.known == before
        await bench.counted.commit(unit(2, 1))
        assert [(each.number, each.results, each.dead_letters) for each in bench.written[1:]] == [(2, 9, 3)]

    run()


@on_virtual_time
async def test_refusal_of_the_progress_itself_is_fatal() -> None:
    """It is no event's, so no dead letter could take its place."""
    bench = Bench()
    await bench.counted.start()
    bench.inner.failures.append(OutputRefusedError(3, "larger than 4194304 bytes"))
    with pytest.raises(FatalError, match=r"^how far the run is cannot be written: larger than 4194304 bytes$"):
        await bench.counted.commit(unit(3))
    assert bench.visible(PLAN.results_topic) == 0


@on_virtual_time
async def test_failure_is_passed_on_and_nothing_is_committed_after_it() -> None:
    """Whether it was committed is not known, so what would follow it is not, either."""
    bench = Bench()
    await bench.counted.start()
    before = bench.known
    bench.inner.failures.append(FatalError("no answer"))
    for _ in range(2):
        with pytest.raises(FatalError, match="no answer"):
            await bench.counted.commit(unit(1))
    assert bench.known == before
    await bench.counted.close()
    assert bench.written == [before]
    assert bench.counted.lost is None
