"""How the consumer of a group is set up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError

from headrace.connectors.kafka.client_log import LOG_LEVEL
from headrace.connectors.kafka.group import client_id
from headrace.pipeline.config import CALLBACK_SHARE, Assignment

HEARTBEAT_SECONDS = 0.5
"""A member hears of a rebalance by its next one; until all have, the partitions of a member that left belong to nobody,
and so do those that move cooperatively."""
CLIENT_RECEIVE_BYTES = 100_000_000
"""librdkafka's default for the largest response, with its overhead. A broker sends a record whole, however large."""


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    bootstrap_servers: str
    group_id: str
    instance_id: str
    topics: tuple[str, ...]
    session_timeout_seconds: float = 6.0
    max_poll_interval_seconds: float = 300.0
    assignment: Assignment = Assignment.RANGE
    max_message_bytes: int = 8 * 1024 * 1024
    client: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    delays: Mapping[str, float] = field(default_factory=dict)
    """Which of the topics are delay topics, and for how many seconds."""

    @property
    def callback_timeout_seconds(self) -> float:
        """All that one rebalance callback may wait: past the poll interval the group gives the partitions away.

        It is longer than a dead worker's transaction lasts, which the settings see to: until that has come to its end
        the committed offsets cannot be read.
        """
        return CALLBACK_SHARE * self.max_poll_interval_seconds


def consumer_config(settings: ConsumerSettings, on_error: Callable[[KafkaError], None]) -> dict[str, Any]:
    """Of librdkafka's client."""
    return {
        "receive.message.max.bytes": CLIENT_RECEIVE_BYTES + settings.max_message_bytes,
        **settings.client,
        "bootstrap.servers": settings.bootstrap_servers,
        "group.id": settings.group_id,
        "group.instance.id": settings.instance_id,
        "client.id": client_id(settings.instance_id),
        "session.timeout.ms": int(settings.session_timeout_seconds * 1000),
        "heartbeat.interval.ms": int(min(settings.session_timeout_seconds / 4, HEARTBEAT_SECONDS) * 1000),
        "max.poll.interval.ms": int(settings.max_poll_interval_seconds * 1000),
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "partition.assignment.strategy": settings.assignment.value,
        "fetch.wait.max.ms": 100,
        "fetch.queue.backoff.ms": 2,  # default 1000: the fetcher sleeps a second each time its queue is full
        "queued.min.messages": 20_000,
        # A topic that is paused takes its records out of the queue again, and those of others wait behind them.
        "queued.max.messages.kbytes": 16_384,
        "error_cb": on_error,
        "log_level": LOG_LEVEL,
    }
