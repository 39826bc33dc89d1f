"""Of several processes at one run one goes on, and each record has one outcome, whatever calls are answered with."""

from __future__ import annotations

import asyncio

import pytest
from confluent_kafka import KafkaError
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.connectors.kafka import transaction
from headrace.pipeline.errors import FatalError, FencedError
from tests.unit.fake_coordinator import error
from tests.unit.run_bench import Process, RunBench

TIMED_OUT = error(KafkaError._TIMED_OUT)
ABORTABLE = error(KafkaError.NOT_ENOUGH_REPLICAS, "abortable")


async def test_resumed_run_begins_where_the_last_process_committed() -> None:
    bench = RunBench()
    first = bench.process()
    await first.start()
    assert await first.step()
    assert await first.step()
    second = bench.process()
    await second.start()
    assert await second.step()
    assert bench.results == [b"r0", b"r1", b"r2"]
    assert (bench.progress.results, bench.progress.positions[0].offset) == (3, 3)


async def test_process_that_is_overtaken_ends_and_commits_nothing_more() -> None:
    bench = RunBench()
    first, second = bench.process(), bench.process()
    await first.start()
    assert await first.step()
    await second.start()
    assert await second.step()
    with pytest.raises(FencedError, match="another process goes on with run r"):
        await first.step()
    assert await second.step()  # the other's new producer has fenced it; it finds its own record, and goes on
    assert bench.results == [b"r0", b"r1", b"r2"]


async def test_process_that_commits_before_the_new_one_does_stays() -> None:
    bench = RunBench()
    first, second = bench.process(), bench.process()
    await first.start()
    assert await first.step()
    await second.start()
    assert await first.step()
    with pytest.raises(FencedError):
        await second.step()
    assert await first.step()
    assert bench.results == [b"r0", b"r1", b"r2"]


@pytest.mark.parametrize("applied", [True, False])
async def test_unit_of_unknown_outcome_is_there_once(applied: bool) -> None:
    bench = RunBench()
    process = bench.process()
    await process.start()
    bench.coordinator.answer("commit", TIMED_OUT, applied=applied)
    assert await process.step()
    assert await process.step()
    assert bench.results == [b"r0", b"r1"]
    assert bench.progress.results == 2


async def test_unit_that_another_process_came_between_is_not_tried_again() -> None:
    """An abort is followed by a new producer, which fences: only the record tells that somebody else has committed."""
    bench = RunBench()
    first, second = bench.process(), bench.process()
    await first.start()
    await second.start()

    async def overtake() -> None:
        assert await second.step()

    loop = asyncio.get_running_loop()
    bench.coordinator.answer(
        "begin", ABORTABLE, before=lambda: asyncio.run_coroutine_threadsafe(overtake(), loop).result(10)
    )
    with pytest.raises(FencedError):
        await first.step()
    assert bench.results == [b"r0"]


Fault = tuple[str, KafkaError, bool]
"""The call that fails, how, and whether it has done what it should."""
CALLS = st.sampled_from(["begin", "produce", "commit", "abort", "init"])
FAULTS = st.tuples(CALLS, st.sampled_from([TIMED_OUT, ABORTABLE]), st.booleans())
ACTS = st.lists(
    st.one_of(st.tuples(st.just("start"), st.none()), st.tuples(st.just("step"), FAULTS | st.none())), max_size=25
)


@settings(max_examples=60, deadline=None)
@given(acts=ACTS, choices=st.lists(st.integers(0, 3), min_size=25, max_size=25))
def test_any_course_of_processes_answers_each_record_once(
    acts: list[tuple[str, Fault | None]], choices: list[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transaction, "MAX_BACKOFF_SECONDS", 0.0)
        asyncio.run(_live(acts, choices))


async def _live(acts: list[tuple[str, Fault | None]], choices: list[int]) -> None:
    bench = RunBench()
    processes: list[Process] = []
    for (act, fault), choice in zip(acts, choices, strict=False):
        if act == "start" or not processes:
            processes.append(bench.process())
            await processes[-1].start()
            continue
        process = processes[choice % len(processes)]
        if fault is not None:
            call, problem, applied = fault
            if not (call == "init" and problem is ABORTABLE):
                bench.coordinator.answer(call, problem, applied=applied)
        try:
            await process.step()
        except FatalError:
            processes.remove(process)
        bench.coordinator.faults.clear()
    last = bench.process()
    await last.start()
    assert await last.step()
    count = len(bench.results)
    assert bench.results == [b"r%d" % each for each in range(count)]
    assert (bench.progress.results, bench.progress.positions[0].offset) == (count, count)
    for each in (*processes, last):
        await each.transactions.close()
