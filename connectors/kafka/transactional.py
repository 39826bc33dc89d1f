"""How a transactional producer is configured, and what librdkafka makes necessary there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, Message

from headrace.connectors.kafka.client_log import LOG_LEVEL, client_log
from headrace.pipeline import metrics

CLIENT_LOG = client_log("transactions")

BATCH_BYTES = 1_000_000
"""librdkafka's own default; a broker refuses a batch that is larger than its topic takes, whatever the records are."""
ALONE = "alone"
"""Names the producer that sends each record in a batch of its own. It has producer 0's transactional id, so that the
slot's next holder, who begins with those, ends what it left open; so of the two there is only one at a time."""

RECOVERY = {"metadata.recovery.strategy": "none"}
"""librdkafka's own default forgets the brokers when all are down; then send_offsets_to_transaction, waiting for the
forgotten coordinator's return, never ends, whatever its time-out (its issues 5456 and 5511). For producers only: a
client with this that is told of no brokers (by one that shuts down as the last) never finds any again, and a producer
is replaced when that happens."""

IDLE_SECONDS = 5.0
"""Unused connections are closed after this. For a group coordinator that has gone, and that the brokers list no more,
send_offsets_to_transaction waits until some connection comes or goes; then it asks for the new one (5511, too)."""
SOCKET_TIMEOUT_SECONDS = 10.0
"""Of one request. So long a producer that has no brokers left waits for its transaction's coordinator."""


@dataclass(frozen=True, slots=True)
class TransactionSettings:
    bootstrap_servers: str
    group_id: str
    transactional_id: str
    producers: int = 2
    transaction_timeout_seconds: float = 30.0
    max_message_bytes: int = 10 * 1024 * 1024
    max_batch_bytes: int = BATCH_BYTES
    client: Mapping[str, str | int | float | bool] = field(default_factory=dict)


def producer_config(
    settings: TransactionSettings, name: str, on_delivery: Callable[[KafkaError | None, Message], None]
) -> dict[str, Any]:
    """Of the producer of this name (``ALONE``, or its number)."""
    return {
        **RECOVERY,
        "connections.max.idle.ms": int(IDLE_SECONDS * 1000),
        "socket.timeout.ms": int(min(SOCKET_TIMEOUT_SECONDS, settings.transaction_timeout_seconds) * 1000),
        **settings.client,
        "bootstrap.servers": settings.bootstrap_servers,
        "transactional.id": f"{settings.transactional_id}-{'0' if name == ALONE else name}",
        "transaction.timeout.ms": int(settings.transaction_timeout_seconds * 1000),
        "message.max.bytes": settings.max_message_bytes,
        "linger.ms": 0,  # the unit is complete when it is sent: waiting gains nothing
        "retry.backoff.ms": 1,  # else each CONCURRENT_TRANSACTIONS costs 100 ms (the default)
        "retry.backoff.max.ms": 100,
        "partitioner": "murmur2_random",  # as Java's clients: a key keeps its partition across languages
        "queue.buffering.max.messages": 1_000_000,
        "batch.num.messages": 1 if name == ALONE else 10_000,
        "batch.size": settings.max_batch_bytes,
        "delivery.report.only.error": True,
        "on_delivery": on_delivery,
        "error_cb": count_error,
        "log_level": LOG_LEVEL,
    }


def count_error(_: KafkaError) -> None:
    """What librdkafka tells of by itself."""
    metrics.KAFKA_ERRORS.labels("transactions").inc()
