"""FastStream on aiokafka, which has no exactly-once: a subscriber that publishes, record by record or in batches."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka import ConsumerRecord
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker
from faststream.kafka.annotations import KafkaMessage

from tests.bench.passthrough.spec import Answering, Spec

BATCH_BYTES = 1_000_000
"""What is published together must fit into one batch: the default, 16 kB, would refuse most."""
spec = Spec.given()
answering = Answering(spec)
broker = KafkaBroker(
    spec.bootstrap_servers,
    acks="all",
    enable_idempotence=True,
    logger=None,  # it logs each record
    max_batch_size=BATCH_BYTES,
)
app = FastStream(broker)
publisher = broker.publisher(spec.results, batch=bool(spec.settings.get("batches")))


def answered(record: ConsumerRecord) -> bytes:
    return answering.answer(record.value, record.topic, record.partition, record.offset, record.timestamp)


async def undecoded(message: Any) -> Any:
    return message.body


AT_ONCE: int = spec.settings.get("at once", 0)
SUBSCRIPTION: dict[str, Any] = {
    "group_id": spec.group,
    "auto_offset_reset": "earliest",
    # At least once: an offset is committed when its record was answered. Of more than one at a time: before.
    "ack_policy": AckPolicy.ACK_FIRST if AT_ONCE else AckPolicy.NACK_ON_ERROR,
    "decoder": undecoded,
    **({"max_workers": AT_ONCE} if AT_ONCE else {}),
}

if spec.settings.get("batches"):

    @broker.subscriber(spec.requests, batch=True, max_records=spec.settings["batches"], **SUBSCRIPTION)
    async def answer_batch(bodies: list[Any], message: KafkaMessage) -> None:
        await publisher.publish(*map(answered, message.raw_message))

elif spec.model:
    from tests.bench.passthrough.calling import AsyncCalling

    calling: list[AsyncCalling] = []  # made in the event loop

    @app.on_startup
    async def connect() -> None:
        calling.append(AsyncCalling(spec))

    @broker.subscriber(spec.requests, **SUBSCRIPTION)
    async def infer(body: Any, message: KafkaMessage) -> None:
        record = message.raw_message
        value = await calling[0].answer(record.value, record.topic, record.partition, record.offset, record.timestamp)
        await publisher.publish(value, key=record.key)

else:

    @broker.subscriber(spec.requests, **SUBSCRIPTION)
    async def answer(body: Any, message: KafkaMessage) -> None:
        record = message.raw_message
        await publisher.publish(answered(record), key=record.key)


if __name__ == "__main__":
    asyncio.run(app.run())
