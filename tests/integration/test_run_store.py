"""Runs on the real broker: begun once, seen whatever others leave open, gone on with by one, removed for good."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient

from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.admin import ensure_topics, partition_counts
from headrace.connectors.kafka.run_transactions import KafkaRunTransactions, LostProgressError, newest_value
from headrace.connectors.kafka.runs import RunStore
from headrace.connectors.registry import ConfluentRegistry
from headrace.pipeline.config import KafkaSettings, Settings, TopicSettings
from headrace.pipeline.errors import ConfigError, FencedError, HeadraceError
from headrace.pipeline.ports import CommitUnit
from headrace.pipeline.records import OutputRecord, TopicSpec
from headrace.pipeline.replay.manifest import Plan, Progress, Run, RunState
from headrace.pipeline.replay.settings import identity, run_topics
from tests.integration.harness import wait_until
from tests.integration.open_transactions import delete_records, leave_open, left_open
from tests.unit import replay_bench


@pytest.fixture
def live(stack: Endpoints, names: Callable[[str], str]) -> Settings:
    return Settings(
        kafka=KafkaSettings(bootstrap_servers=stack.bootstrap_servers), topics=TopicSettings(runs=names("runs"))
    )


@pytest.fixture
def make_store(live: Settings, stack: Endpoints) -> Iterator[Callable[[], RunStore]]:
    """Stores as of several processes."""
    with contextlib.ExitStack() as registries:
        yield lambda: RunStore(live, registries.enter_context(ConfluentRegistry(stack.registry_url)))


@pytest.fixture
def store(make_store: Callable[[], RunStore]) -> RunStore:
    return make_store()


def run_of(live: Settings, run_id: str = "r", created_ms: int = 1) -> Run:
    results, dead_letters, progress = run_topics(live, run_id)
    plan = replace(
        replay_bench.PLAN,
        run=run_id,
        results_topic=results,
        dead_letters_topic=dead_letters,
        progress_topic=progress,
        partitions=2,
        created_ms=created_ms,
    )
    return Run(plan, RunState.RUNNING, created_ms)


def ids(store: RunStore) -> list[str]:
    return [run.plan.run for run in store.all()]


def topics_of(live: Settings, run_id: str = "r") -> list[str]:
    counts = partition_counts(live.kafka.bootstrap_servers, run_topics(live, run_id))
    return [name for name, count in counts.items() if count]


class Process:
    """One that goes on with a run, as far as its transactions go."""

    def __init__(self, store: RunStore, plan: Plan, writer: str) -> None:
        self.transactions: KafkaRunTransactions = store.transactions(plan, lambda down: None)
        self._store = store
        self._plan = plan
        self._progress = Progress(plan.run, writer)

    async def commit(self, results: int, *outputs: OutputRecord) -> None:
        """So many results are there after it."""
        self._progress = replace(self._progress, number=self._progress.number + 1, results=results)
        value = self._store.encode_progress(self._progress)
        progress = OutputRecord(self._plan.progress_topic, None, value, partition=0)
        assert await self.transactions.commit(CommitUnit((*outputs, progress), (), 0, lambda: True))


@pytest.fixture
async def make_process() -> AsyncIterator[Callable[..., Process]]:
    processes: list[Process] = []

    def make(store: RunStore, plan: Plan, writer: str = "w") -> Process:
        processes.append(Process(store, plan, writer))
        return processes[-1]

    yield make
    for each in processes:
        await each.transactions.close()


# --- begin and find -------------------------------------------------------------------------------------------------


def test_run_that_is_begun_is_found_and_others_are_not(live: Settings, store: RunStore) -> None:
    assert store.all() == ()
    second, first = run_of(live, "b", 2), run_of(live, "a", 1)
    store.begin(second)
    store.begin(first)
    assert store.all() == (first, second)
    assert store.named("b") == second
    assert store.find("c") is None
    with pytest.raises(ConfigError, match="there is no run c"):
        store.named("c")


def test_run_is_begun_once_whoever_tries_at_a_time(live: Settings, make_store: Callable[[], RunStore]) -> None:
    at_once = threading.Barrier(4)

    def begin(store: RunStore, created_ms: int) -> HeadraceError | None:
        run = run_of(live, created_ms=created_ms)
        at_once.wait(20)
        try:
            store.begin(run)
        except HeadraceError as error:
            return error
        return None

    stores = [make_store() for _ in range(at_once.parties)]
    with ThreadPoolExecutor(at_once.parties) as pool:
        outcomes = list(pool.map(begin, stores, range(at_once.parties)))
    assert outcomes.count(None) == 1
    assert {type(each) for each in outcomes if each} == {ConfigError}
    [run] = stores[0].all()
    assert run.plan.created_ms == outcomes.index(None)


def test_record_that_is_no_run_is_passed_over(live: Settings, store: RunStore) -> None:
    store.begin(run_of(live))
    producer = Producer({"bootstrap.servers": live.kafka.bootstrap_servers})
    producer.produce(live.topics.runs, b"no run", b"other")
    assert producer.flush(20) == 0
    assert ids(store) == ["r"]


def test_run_behind_a_transaction_that_is_open_is_waited_for(
    live: Settings, make_store: Callable[[], RunStore]
) -> None:
    """It was begun before it is asked for: it must not seem not to be there, whatever another process left open."""
    first, second = run_of(live, "first", 1), run_of(live, "second", 2)
    store = make_store()
    store.begin(first)
    with ThreadPoolExecutor(1) as pool:
        with left_open(live.kafka.bootstrap_servers, live.topics.runs):
            store.begin(second)
            finding = pool.submit(make_store().find, "second")
            with pytest.raises(TimeoutError):
                finding.result(2)
        assert finding.result(20) == second


async def test_counts_of_a_run_whose_process_was_killed_are_of_what_it_committed(
    live: Settings, store: RunStore, make_process: Callable[..., Process]
) -> None:
    run = run_of(live)
    await asyncio.to_thread(store.begin, run)
    process = make_process(store, run.plan)
    await process.transactions.start()
    await process.commit(3)
    await process.commit(7)
    value = store.encode_progress(Progress("r", "w", 3, results=11))
    with left_open(live.kafka.bootstrap_servers, run.plan.progress_topic, value):
        found = await asyncio.to_thread(store.named, "r")
    assert (found.state, found.results) == (RunState.RUNNING, 7)


# --- remove ---------------------------------------------------------------------------------------------------------


def test_removed_run_is_not_there_and_may_be_begun_again(live: Settings, store: RunStore) -> None:
    store.begin(run_of(live, "kept"))
    for created_ms in (1, 2):
        run = run_of(live, created_ms=created_ms)
        store.begin(run)
        assert store.named("r") == run
        assert store.remove("r")
        assert ids(store) == ["kept"]
        assert topics_of(live) == []
    assert not store.remove("r")


def test_run_that_was_broken_off_as_it_began_is_removed(live: Settings, store: RunStore) -> None:
    ensure_topics(live.kafka.bootstrap_servers, [TopicSpec(run_topics(live, "r")[2], 1)])
    assert store.remove("r")
    assert topics_of(live) == []
    store.begin(run_of(live))
    assert ids(store) == ["r"]


@pytest.mark.parametrize("lost", [0, 2])
def test_run_that_has_lost_a_topic_is_removed(live: Settings, store: RunStore, lost: int) -> None:
    store.begin(run_of(live))
    admin = AdminClient({"bootstrap.servers": live.kafka.bootstrap_servers})
    for future in admin.delete_topics([run_topics(live, "r")[lost]]).values():
        future.result(20)
    wait_until(lambda: len(topics_of(live)) == 2, 20, "the topic to be gone")
    assert store.remove("r")
    assert topics_of(live) == []
    assert ids(store) == []


def test_run_whose_progress_was_deleted_is_not_gone_on_with_but_removed(live: Settings, store: RunStore) -> None:
    run = run_of(live)
    store.begin(run)
    delete_records(live.kafka.bootstrap_servers, run.plan.progress_topic)
    with pytest.raises(LostProgressError, match="how far the run is has been deleted"):
        newest_value(live.kafka, run.plan.progress_topic)
    assert store.remove("r")
    assert ids(store) == []


def test_run_is_removed_whoever_else_removes_it(live: Settings, make_store: Callable[[], RunStore]) -> None:
    """Of several at a time each ends, and nothing is left."""
    make_store().begin(run_of(live))
    at_once = threading.Barrier(3)

    def remove(store: RunStore) -> bool | HeadraceError:
        at_once.wait(20)
        try:
            return store.remove("r")
        except HeadraceError as error:  # the other has deleted the topics meanwhile
            return error

    stores = [make_store() for _ in range(at_once.parties)]
    with ThreadPoolExecutor(at_once.parties) as pool:
        outcomes = list(pool.map(remove, stores))
    assert True in outcomes
    stores[0].remove("r")
    assert ids(stores[0]) == []
    assert topics_of(live) == []


# --- processes ------------------------------------------------------------------------------------------------------


async def test_process_can_write_nothing_of_a_run_that_was_removed(
    live: Settings, make_store: Callable[[], RunStore], make_process: Callable[..., Process]
) -> None:
    """Neither how far it is, nor how it is."""
    store, run = make_store(), run_of(live)
    await asyncio.to_thread(store.begin, run)
    process = make_process(store, run.plan)
    await process.transactions.start()
    await process.commit(1, store.manifest(run))
    assert await asyncio.to_thread(make_store().remove, "r")
    with pytest.raises(FencedError, match="run r has been removed"):
        await process.commit(2, store.manifest(run))
    assert await asyncio.to_thread(ids, store) == []
    assert await asyncio.to_thread(topics_of, live) == []


def test_transaction_that_its_process_left_open_holds_up_no_removal(live: Settings, store: RunStore) -> None:
    """It is aborted at once, and not when its time is up: in the topic of all runs, too, which it would hide."""
    store.begin(run_of(live))
    left = leave_open(live.kafka.bootstrap_servers, live.topics.runs, f"{identity(live, 'r')}-0")
    began = time.monotonic()
    assert store.remove("r")
    assert ids(store) == []
    assert time.monotonic() - began < live.kafka.transaction_timeout_seconds
    with pytest.raises(KafkaException):
        left.commit_transaction(20)


async def test_process_of_a_run_that_was_removed_has_no_part_in_the_next_of_its_id(
    live: Settings, make_store: Callable[[], RunStore], make_process: Callable[..., Process]
) -> None:
    """Whether it was at it before, or only now begins."""
    store, old, new = make_store(), run_of(live, created_ms=1), run_of(live, created_ms=2)
    await asyncio.to_thread(store.begin, old)
    zombie, late = make_process(store, old.plan, "zombie"), make_process(store, old.plan, "late")
    await zombie.transactions.start()
    await zombie.commit(1)
    assert await asyncio.to_thread(make_store().remove, "r")
    await asyncio.to_thread(store.begin, new)
    process = make_process(store, new.plan, "new")
    await process.transactions.start()
    await process.commit(5)
    with pytest.raises(FencedError, match="run r has been removed"):
        await zombie.commit(2, store.manifest(old))
    with pytest.raises(FencedError, match="run r has been removed"):
        await late.transactions.start()
    await process.commit(6)  # although they have fenced it
    found = await asyncio.to_thread(store.named, "r")
    assert (found.plan, found.results) == (new.plan, 6)


async def test_of_two_processes_the_one_that_came_last_goes_on(
    live: Settings, make_store: Callable[[], RunStore], make_process: Callable[..., Process]
) -> None:
    store, run = make_store(), run_of(live)
    await asyncio.to_thread(store.begin, run)
    first, second = make_process(store, run.plan, "first"), make_process(make_store(), run.plan, "second")
    await first.transactions.start()
    await first.commit(1)
    await second.transactions.start()
    await second.commit(2)
    with pytest.raises(FencedError, match="another process goes on with run r"):
        await first.commit(9, store.manifest(replace(run, state=RunState.COMPLETE)))
    await second.commit(3)
    found = await asyncio.to_thread(store.named, "r")
    assert (found.state, found.results) == (RunState.RUNNING, 3)
