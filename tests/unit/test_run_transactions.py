"""Of several processes at one run one goes on, and each record has one outcome, whatever calls are answered with."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from confluent_kafka import KafkaError
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.connectors.kafka import run_transactions, transaction
from headrace.pipeline.errors import FatalError, FencedError
from tests.unit.fake_coordinator import error
from tests.unit.run_bench import Process, RunBench
from tests.unit.strategies import examples

TIMED_OUT = error(KafkaError._TIMED_OUT)
ABORTABLE = error(KafkaError.NOT_ENOUGH_REPLICAS, "abortable")


@pytest.fixture(autouse=True)
def nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of calls is the tests', not that of waiting."""
    monkeypatch.setattr(run_transactions, "GIVE_WAY_SECONDS", 0.0)


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
    assert bench.coordinator.count("init") == 2  # it has looked, and not fenced the other in turn
    assert await second.step()
    assert bench.results == [b"r0", b"r1", b"r2"]


async def test_process_is_overtaken_as_soon_as_another_has_started() -> None:
    bench = RunBench()
    first, second = bench.process(), bench.process()
    await first.start()
    await second.start()
    with pytest.raises(FencedError):
        await first.step()
    assert await second.step()
    assert bench.results == [b"r0"]


async def test_process_that_commits_before_the_new_one_does_stays() -> None:
    bench = RunBench()
    first, second = bench.process(), bench.process()
    await first.start()
    assert await first.step()

    async def overtake() -> None:
        assert await first.step()

    loop = asyncio.get_running_loop()
    bench.coordinator.answer(
        "begin", None, before=lambda: asyncio.run_coroutine_threadsafe(overtake(), loop).result(10)
    )
    with pytest.raises(FencedError):
        await second.start()
    await second.transactions.close()
    assert await first.step()
    assert bench.results == [b"r0", b"r1", b"r2"]
    assert len(set(bench.writers)) == 1


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


@pytest.mark.parametrize("call", ["begin", "init"])
async def test_unit_that_another_process_came_between_is_not_tried_again(call: str) -> None:
    """An abort is followed by a new producer, which fences: only the record tells that somebody else has committed."""
    bench = RunBench()
    first, second = bench.process(), bench.process()
    await first.start()

    async def overtake() -> None:
        await second.start()
        assert await second.step()

    loop = asyncio.get_running_loop()
    moments = {"begin": _nothing, "init": _nothing}
    moments[call] = lambda: asyncio.run_coroutine_threadsafe(overtake(), loop).result(10)
    bench.coordinator.answer("begin", ABORTABLE, before=moments["begin"])
    bench.coordinator.answer("init", None, before=moments["init"])
    with pytest.raises(FencedError):
        await first.step()
    assert bench.results == [b"r0"]


def _nothing() -> None:
    return None


# --- how the run is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("exhausted", "state"), [(True, "COMPLETE"), (False, "STOPPED")])
async def test_process_says_how_it_leaves_the_run(exhausted: bool, state: str) -> None:
    bench = RunBench()
    process = bench.process()
    await process.start()
    assert bench.manifests == [{"state": "RUNNING", "results": 0, "resumed": 0}]
    assert await process.step()
    process.exhausted = exhausted
    await process.transactions.close()
    assert bench.manifests[1:] == [{"state": state, "results": 1, "resumed": 0}]
    assert process.transactions.lost is None


@pytest.mark.parametrize("exhausted", [True, False])
async def test_process_that_is_overtaken_has_no_last_word(exhausted: bool) -> None:
    """Although it has nothing to commit that could be refused."""
    bench = RunBench()
    zombie, other = bench.process(), bench.process()
    await zombie.start()
    assert await zombie.step()
    await other.start()
    other.exhausted = True
    await other.transactions.close()
    said = bench.manifests
    zombie.exhausted = exhausted
    await zombie.transactions.close()
    assert bench.manifests == said
    assert said[-1]["state"] == "COMPLETE"
    assert isinstance(zombie.transactions.lost, FencedError)


async def test_last_word_of_unknown_outcome_is_said_once() -> None:
    bench = RunBench()
    process = bench.process()
    await process.start()
    bench.coordinator.answer("commit", TIMED_OUT, applied=True)
    await process.transactions.close()
    assert [each["state"] for each in bench.manifests] == ["RUNNING", "STOPPED"]
    assert process.transactions.lost is None


Fault = tuple[str, KafkaError, bool]
"""The call that fails, how, and whether it has done what it should."""
CALLS = st.sampled_from(["begin", "produce", "commit", "abort", "init"])
FAULTS = st.tuples(CALLS, st.sampled_from([TIMED_OUT, ABORTABLE]), st.booleans())
ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.none()),
        st.tuples(st.just("step"), FAULTS | st.none()),
        st.tuples(st.just("stop"), FAULTS | st.none()),
    ),
    max_size=25,
)


@settings(max_examples=examples(60), deadline=None)
@given(acts=ACTS, choices=st.lists(st.integers(0, 3), min_size=25, max_size=25))
def test_any_course_of_processes_answers_each_record_once(
    acts: list[tuple[str, Fault | None]], choices: list[int]
) -> None:
    """And nobody writes anything, not even how the run is, once another has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transaction, "MAX_BACKOFF_SECONDS", 0.0)
        patch.setattr(run_transactions, "GIVE_WAY_SECONDS", 0.0)
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
        if act == "stop":
            processes.remove(process)
            await process.transactions.close()
        else:
            try:
                await process.step()
            except FatalError:
                processes.remove(process)
                await process.transactions.close()
        bench.coordinator.faults.clear()
    last = bench.process()
    await last.start()
    assert await last.step()
    count = len(bench.results)
    assert bench.results == [b"r%d" % each for each in range(count)]
    assert (bench.progress.results, bench.progress.positions[0].offset) == (count, count)
    for each in processes[::2]:
        await each.transactions.close()
    last.exhausted = True
    await last.transactions.close()
    for each in processes[1::2]:
        await each.transactions.close()
    assert bench.manifests[-1] == {"state": "COMPLETE", "results": count, "resumed": 0}
    owners = [writer for writer, _ in itertools.groupby(bench.writers)]
    assert len(owners) == len(set(owners)), "a process has written after another"
