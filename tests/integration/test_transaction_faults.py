"""The transaction engine on three real brokers behind fault proxies: each of its calls struck by each kind of fault.

After each fault an independent read_committed reader and the group's committed offsets say that the unit is there
once, and the next units go through.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Producer

from headrace.connectors.embedded.downloads import Downloads
from headrace.connectors.embedded.paths import cache_dir
from headrace.connectors.embedded.ports import PortReservation
from headrace.connectors.embedded.progress import Progress
from headrace.connectors.kafka import transaction
from headrace.connectors.kafka.admin import ensure_topics
from headrace.pipeline.records import TopicSpec
from tests.chaos.cluster import NODES, KafkaCluster
from tests.integration.harness import wait_until
from tests.integration.transaction_rig import Act, Rig, StruckProducer, drop_records, fence_it

IN_TRANSACTION = ("produce", "send_offsets_to_transaction", "commit_transaction", "abort_transaction")
OUTSIDE = ("init_transactions", "replacement", "committed")
TIMEOUT_SECONDS = 3.0
"""Of a transaction; after 0.8 of it a call is no longer repeated. The brokers look each second for what timed out."""
CALL_SECONDS = 0.4
SHORT_SECONDS = 0.7
"""Several calls' time-outs: the call is repeated."""
LONG_SECONDS = 2.8
"""Longer than a call is repeated: its outcome is unknown."""


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    classpath = Downloads(cache_dir(), Progress()).kafka_classpath()
    with PortReservation() as ports, KafkaCluster(tmp_path_factory.mktemp("cluster"), classpath, ports) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: KafkaCluster) -> Iterator[KafkaCluster]:
    """All nodes run at a test's beginning, and no fault outlasts it."""
    if len(shared_cluster.running) < len(NODES):
        shared_cluster.start()
        shared_cluster.wait_in_sync()
    yield shared_cluster
    heal(shared_cluster)


@pytest.fixture
def make_patient_rig(cluster: KafkaCluster, names: Callable[[str], str]) -> Callable[..., Rig]:
    """Its calls have all the time that they have in a worker."""
    topics = [TopicSpec(names("t.requests"), 2, len(NODES)), TopicSpec(names("t.results"), 1, len(NODES))]
    ensure_topics(cluster.bootstrap_servers, topics)
    return functools.partial(
        Rig,
        cluster.bootstrap_servers,
        cluster.proxied_bootstrap_servers,
        names("t"),
        client={"reconnect.backoff.max.ms": 300},
    )


@pytest.fixture
def make_rig(make_patient_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rig]:
    monkeypatch.setattr(transaction, "CALL_TIMEOUT_SECONDS", CALL_SECONDS)
    monkeypatch.setattr(transaction, "COMMIT_TIMEOUT_SECONDS", CALL_SECONDS)
    return make_patient_rig


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig(transaction_timeout_seconds=TIMEOUT_SECONDS)


def heal(cluster: KafkaCluster, drop: bool = False) -> None:
    for proxy in cluster.proxies.values():
        proxy.heal(drop)


def hold_replies(cluster: KafkaCluster) -> None:
    for proxy in cluster.proxies.values():
        proxy.hold(requests=False, replies=True)


def cut(cluster: KafkaCluster) -> None:
    for proxy in cluster.proxies.values():
        proxy.refuse()
        proxy.cut()


async def strike(rig: Rig, call: str, act: Act) -> None:
    """Units around the one that ``act`` strikes in ``call``, and what has come of each."""
    if call == "init_transactions":
        rig.strikes.before(call, act)
    await rig.start()
    if call == "abort_transaction":
        rig.strikes.after("produce", drop_records)
        rig.strikes.before(call, act)
    elif call in ("replacement", "committed"):
        rig.strikes.before("commit_transaction", fence_it(rig))
        rig.strikes.before("init_transactions" if call == "replacement" else call, act)
    elif call == "commit_transaction":
        rig.strikes.before(call, after_delivery(act))
    elif call != "init_transactions":
        rig.strikes.before(call, act)
    await commit_each(rig)


def after_delivery(act: Act) -> Act:
    """So that nothing but the commit itself is left to be answered."""

    def deliver(producer: Producer | None) -> None:
        assert producer is not None
        assert producer.flush(10) == 0
        act(producer)

    return deliver


async def commit_each(rig: Rig) -> None:
    """The first unit meets the fault, the others use each producer again."""
    for number in (1, 2, 3):
        assert await rig.commit(number)
        if number == 1:
            assert rig.strikes.pending == []
            await rig.check(1)
    await rig.check(1, 2, 3)


@pytest.mark.parametrize(
    ("call", "seconds"),
    [(call, SHORT_SECONDS) for call in IN_TRANSACTION + OUTSIDE] + [(call, LONG_SECONDS) for call in IN_TRANSACTION],
)
async def test_call_whose_answers_are_held_leaves_its_unit_there_once(
    cluster: KafkaCluster, rig: Rig, caplog: pytest.LogCaptureFixture, call: str, seconds: float
) -> None:
    caplog.set_level(logging.INFO)

    def act(_: Producer | None) -> None:
        hold_replies(cluster)
        rig.later(seconds, functools.partial(heal, cluster))

    async with rig:
        await strike(rig, call, act)
    if seconds == LONG_SECONDS:
        outcome = "committed" if call == "commit_transaction" else "not committed"
        assert f"the transaction of unknown outcome was {outcome}" in caplog.text


@pytest.mark.parametrize(
    ("call", "carried_out"),
    [(call, True) for call in IN_TRANSACTION + OUTSIDE]
    + [("send_offsets_to_transaction", False), ("commit_transaction", False)],
)
async def test_call_whose_connections_are_cut_leaves_its_unit_there_once(
    cluster: KafkaCluster, rig: Rig, call: str, carried_out: bool
) -> None:
    """Either at once, or when the request has come through and its answer has not."""

    def cut_now() -> None:
        cut(cluster)
        rig.later(0.4, functools.partial(heal, cluster))

    def act(_: Producer | None) -> None:
        if carried_out:
            hold_replies(cluster)
            rig.later(0.3, cut_now)
        else:
            cut_now()

    async with rig:
        await strike(rig, call, act)


async def test_transaction_that_the_broker_timed_out_is_made_anew(rig: Rig) -> None:
    """The process was stopped for longer than the transaction may last."""
    async with rig:
        await rig.start()
        rig.strikes.after("produce", lambda _: time.sleep(TIMEOUT_SECONDS + 1.5))
        await commit_each(rig)


async def test_records_after_an_abort_are_not_taken_for_those_that_were_in_flight(
    cluster: KafkaCluster, make_patient_rig: Callable[..., Rig]
) -> None:
    """The broker has written the aborted ones, and would confirm others with their sequence numbers as duplicates."""
    owned = True

    def first_sent(producer: Producer | None) -> None:
        """The partition is in the transaction: of the second record only the confirmation is waited for."""
        assert producer is not None
        assert producer.flush(10) == 0
        hold_replies(cluster)
        rig.strikes.after("produce", second_sent)

    def second_sent(producer: Producer | None) -> None:
        nonlocal owned
        wait_until(lambda: rig.end() > written + 1, 10, "the second record to be written")
        heal(cluster, drop=True)
        owned = False

    async with make_patient_rig(producers=1) as rig:
        rig.owned = lambda: owned
        await rig.start()
        assert await rig.commit(1)
        written = await asyncio.to_thread(rig.end)
        rig.strikes.after("produce", first_sent)
        assert not await rig.commit(2, b"2a", b"2b")
        owned = True
        for number in (3, 4):
            assert await rig.commit(number)
        await rig.check(1, 3, 4)


# --- killed brokers -------------------------------------------------------------------------------------------------


def kill_coordinator_before_it_answers(cluster: KafkaCluster, rig: Rig) -> None:
    """It has the request to commit, and takes the answer with it."""

    def act(producer: Producer | None) -> None:
        assert isinstance(producer, StruckProducer)
        node = cluster.transaction_coordinator(producer.transactional_id)
        cluster.proxies[node].hold(requests=False, replies=True)

        def kill() -> None:
            cluster.kill(node)
            cluster.proxies[node].heal(drop=True)

        rig.later(0.3, kill)

    rig.strikes.before("commit_transaction", after_delivery(act))


def kill_coordinator(cluster: KafkaCluster, rig: Rig) -> None:
    def act(producer: Producer | None) -> None:
        assert isinstance(producer, StruckProducer)
        cluster.kill(cluster.transaction_coordinator(producer.transactional_id))

    rig.strikes.before("commit_transaction", act)


def kill_group_coordinator(cluster: KafkaCluster, rig: Rig) -> None:
    rig.strikes.before("send_offsets_to_transaction", lambda _: cluster.kill(cluster.group_coordinator(rig.group)))


def kill_leader(cluster: KafkaCluster, rig: Rig) -> None:
    rig.strikes.before("produce", lambda _: cluster.kill(cluster.leader(rig.results, 0)))


@pytest.mark.parametrize(
    ("plan", "timeout_seconds"),
    [
        (kill_coordinator_before_it_answers, 20.0),
        (kill_coordinator, TIMEOUT_SECONDS),
        (kill_group_coordinator, 20.0),
        (kill_leader, TIMEOUT_SECONDS),
    ],
)
async def test_call_whose_broker_is_killed_leaves_its_unit_there_once(
    cluster: KafkaCluster,
    make_rig: Callable[..., Rig],
    plan: Callable[[KafkaCluster, Rig], None],
    timeout_seconds: float,
) -> None:
    """Others take over after three seconds: a short transaction is over then, a long one goes on."""
    async with make_rig(transaction_timeout_seconds=timeout_seconds) as rig:
        await rig.start()
        plan(cluster, rig)
        await commit_each(rig)


async def test_group_coordinator_that_was_killed_between_two_units_is_found_anew(
    cluster: KafkaCluster, make_rig: Callable[..., Rig]
) -> None:
    """The producer has used it before, and the brokers no longer list it: librdkafka alone would wait for it."""
    async with make_rig(producers=1) as rig:
        await rig.start()
        assert await rig.commit(1)
        gone = cluster.group_coordinator(rig.group)
        cluster.kill(gone)
        wait_until(lambda: coordinator(cluster, rig.group) not in (None, gone), 30, "another coordinator")
        rig.strikes.before("begin_transaction", forget_brokers_that_are_gone)
        for number in (2, 3):
            assert await rig.commit(number)
        await rig.check(1, 2, 3)


def forget_brokers_that_are_gone(producer: Producer | None) -> None:
    """By fresh metadata, which the client also fetches by itself now and then."""
    assert producer is not None
    producer.list_topics(timeout=10)


def coordinator(cluster: KafkaCluster, group: str) -> int | None:
    try:
        return cluster.group_coordinator(group)
    except LookupError:
        return None
