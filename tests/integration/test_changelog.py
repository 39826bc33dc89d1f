"""A changelog is read back whole: to the end that it had, past transactions that are open or were aborted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from confluent_kafka import Producer

from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.changelog import KafkaChangelog
from headrace.pipeline.errors import FatalError
from headrace.pipeline.records import SourceRecord, TopicPartition
from tests.integration.open_transactions import leave_open

REQUESTS = "requests"
STILL_SECONDS = 0.7
"""Long enough for a restore that does not wait to be done."""


class Reader:
    """Restores partitions of one topic; what came, by partition, and again if it came again."""

    def __init__(self, where: str, topic: str, patience_seconds: float = 60.0) -> None:
        self._changelog = KafkaChangelog(where, {}, f"{topic}.group", {REQUESTS: topic}, patience_seconds)
        self.keys: dict[int, list[bytes]] = {}

    def newest(self, count: int) -> list[bytes]:
        """Of partition 0, as whoever remembers them would: in the order in which each came last."""
        last = list(dict.fromkeys(reversed(self.keys[0])))
        return last[count - 1 :: -1]

    async def restore(self, *partitions: int, newest: int = 1000) -> None:
        def taking(number: int) -> Callable[[SourceRecord], None]:
            keys = self.keys[number] = []
            return lambda record: keys.append(record.key or b"")

        into = {TopicPartition(REQUESTS, number): taking(number) for number in partitions}
        await asyncio.wait_for(self._changelog.restore(into, newest), 20)


def write(where: str, topic: str, *keys: bytes, partition: int = 0, commit: bool = True, together: int = 1) -> None:
    """So many in one transaction."""
    producer = Producer({"bootstrap.servers": where, "transactional.id": f"{topic}.writer"})
    producer.init_transactions(20)
    for start in range(0, len(keys), together):
        producer.begin_transaction()
        for key in keys[start : start + together]:
            producer.produce(topic, b"value", key, partition)
        assert producer.flush(20) == 0
        producer.commit_transaction(20) if commit else producer.abort_transaction(20)


@pytest.fixture
def topic(make_topics: Callable[..., tuple[str, ...]]) -> str:
    (made,) = make_topics("seen", partitions=3)
    return made


def test_what_is_committed_is_handed_over_in_order_and_nothing_else(stack: Endpoints, topic: str) -> None:
    where, reader = stack.bootstrap_servers, Reader(stack.bootstrap_servers, topic)
    write(where, topic, b"a", b"b")
    write(where, topic, b"x", commit=False)
    write(where, topic, b"a", b"c")
    write(where, topic, b"d", partition=1)
    write(where, topic, b"x", partition=1, commit=False)
    asyncio.run(reader.restore(0, 1, 2))
    assert reader.keys == {0: [b"a", b"b", b"a", b"c"], 1: [b"d"], 2: []}


@pytest.mark.parametrize("commits", [True, False], ids=["committed", "aborted"])
def test_transaction_that_is_open_is_waited_for(stack: Endpoints, topic: str, commits: bool) -> None:
    where, reader = stack.bootstrap_servers, Reader(stack.bootstrap_servers, topic)
    write(where, topic, b"a")
    other = leave_open(where, topic, f"{topic}.other")

    async def restore() -> None:
        restoring = asyncio.create_task(reader.restore(0))
        await asyncio.wait([restoring], timeout=STILL_SECONDS)
        assert not restoring.done()
        end: Callable[[float], None] = other.commit_transaction if commits else other.abort_transaction
        await asyncio.to_thread(end, 20)
        await restoring

    asyncio.run(restore())
    assert reader.keys == {0: [b"a", b"other"] if commits else [b"a"]}


def test_restore_that_is_cancelled_ends(stack: Endpoints, topic: str) -> None:
    reader = Reader(stack.bootstrap_servers, topic)
    other = leave_open(stack.bootstrap_servers, topic, f"{topic}.other")

    async def restore() -> None:
        restoring = asyncio.create_task(reader.restore(0))
        await asyncio.wait([restoring], timeout=STILL_SECONDS)
        restoring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await restoring

    began = time.monotonic()
    asyncio.run(restore())  # which joins the thread
    assert time.monotonic() - began < 10
    other.abort_transaction(20)


def test_restore_that_does_not_come_to_its_end_says_where_and_what_to_do(stack: Endpoints, topic: str) -> None:
    where, reader = stack.bootstrap_servers, Reader(stack.bootstrap_servers, topic, STILL_SECONDS)
    write(where, topic, b"a")
    other = leave_open(where, topic, f"{topic}.other")
    said = rf"{topic}\[0\] were not restored in 1 s: they are read to offset 2 of 3\. .*find-hanging --topic {topic} "
    with pytest.raises(FatalError, match=said):
        asyncio.run(reader.restore(0, 1))
    other.abort_transaction(20)


def test_what_lies_before_the_newest_is_left_out(stack: Endpoints, topic: str) -> None:
    reader = Reader(stack.bootstrap_servers, topic)
    keys = [b"%d" % number for number in range(2000)]
    write(stack.bootstrap_servers, topic, *keys, together=100)
    asyncio.run(reader.restore(0, newest=200))
    assert reader.newest(200) == keys[-200:]
    assert len(reader.keys[0]) <= 220


def test_markers_beside_each_id_make_it_begin_further_back(stack: Endpoints, topic: str) -> None:
    reader = Reader(stack.bootstrap_servers, topic)
    keys = [b"%d" % number for number in range(40)]
    write(stack.bootstrap_servers, topic, *keys)
    asyncio.run(reader.restore(0, newest=5))
    assert reader.newest(5) == keys[-5:]
    assert len(reader.keys[0]) <= 3 + 6, "two passes, of 6 and 12 offsets"


def test_ids_that_repeat_make_it_begin_further_back(stack: Endpoints, topic: str) -> None:
    """Partition 1 has enough at once, and is not read again."""
    where, reader = stack.bootstrap_servers, Reader(stack.bootstrap_servers, topic)
    old = [b"%d" % number for number in range(1000)]
    often = [b"x", b"y", b"z"] * 100
    write(where, topic, *old, *often, together=100)
    write(where, topic, *old, partition=1, together=100)
    asyncio.run(reader.restore(0, 1, newest=20))
    assert reader.newest(20) == [*old[-17:], b"x", b"y", b"z"]
    assert len(reader.keys[0]) <= 2 * 22 * 16, "it begins 22, 44, 88, 176 and 352 offsets before the end"
    assert 20 <= len(reader.keys[1]) <= 22


def test_topic_with_fewer_ids_than_wanted_is_read_from_its_beginning(stack: Endpoints, topic: str) -> None:
    reader = Reader(stack.bootstrap_servers, topic)
    write(stack.bootstrap_servers, topic, b"old", *[b"x"] * 300, together=50)
    asyncio.run(reader.restore(0, newest=20))
    assert reader.newest(2) == [b"old", b"x"]


def test_topic_that_does_not_exist_is_said(stack: Endpoints, names: Callable[[str], str]) -> None:
    restore: Coroutine[Any, Any, None] = Reader(stack.bootstrap_servers, names("nothing")).restore(0)
    with pytest.raises(FatalError, match="does not exist"):
        asyncio.run(restore)


def test_partition_without_one_in_the_changelog_is_said(stack: Endpoints, topic: str) -> None:
    """Partitions were added to the request topic while a worker runs."""
    with pytest.raises(FatalError, match=rf"{topic} has no partition 3, but requests has"):
        asyncio.run(Reader(stack.bootstrap_servers, topic).restore(3))
