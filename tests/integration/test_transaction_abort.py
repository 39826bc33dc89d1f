"""What a producer sends after an abort of records whose confirmations were lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Producer

from headrace.connectors.kafka.admin import ensure_topics
from headrace.pipeline.records import TopicSpec
from tests.chaos.cluster import NODES, KafkaCluster
from tests.integration.harness import wait_until
from tests.integration.test_transaction_faults import shared_cluster
from tests.integration.transaction_rig import Rig

__all__ = ["shared_cluster"]


@pytest.fixture
def rig(shared_cluster: KafkaCluster, names: Callable[[str], str]) -> Iterator[Rig]:
    topics = [TopicSpec(names("t.requests"), 2, len(NODES)), TopicSpec(names("t.results"), 1, len(NODES))]
    ensure_topics(shared_cluster.bootstrap_servers, topics)
    yield Rig(
        shared_cluster.bootstrap_servers,
        shared_cluster.proxied_bootstrap_servers,
        names("t"),
        producers=1,
        client={"reconnect.backoff.max.ms": 300},
    )
    for proxy in shared_cluster.proxies.values():
        proxy.heal()


async def test_records_after_an_abort_are_not_taken_for_those_that_were_in_flight(
    rig: Rig, shared_cluster: KafkaCluster
) -> None:
    """The broker has written the aborted ones, and would confirm others with their sequence numbers as duplicates."""

    owned = True

    def first_sent(producer: Producer | None) -> None:
        """The partition is in the transaction: of the second record only the confirmation is waited for."""
        assert producer is not None
        assert producer.flush(10) == 0
        for proxy in shared_cluster.proxies.values():
            proxy.hold(requests=False, replies=True)
        rig.strikes.after("produce", second_sent)

    def second_sent(producer: Producer | None) -> None:
        nonlocal owned
        wait_until(lambda: rig.end() > written + 1, 10, "the second record to be written")
        for proxy in shared_cluster.proxies.values():
            proxy.heal(drop=True)
        owned = False

    async with rig:
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
