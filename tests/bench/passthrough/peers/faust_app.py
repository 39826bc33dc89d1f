"""Stock Faust with ``processing_guarantee="exactly_once"``: one agent that sends each event's result.

Faust's own transport (aiokafka) and settings, but for the topics' serializers, which leave bytes alone.
"""

from __future__ import annotations

from typing import Any

import faust

from tests.bench.passthrough.spec import Answering, Spec

spec = Spec.given()
answering = Answering(spec)
app = faust.App(
    spec.group,
    broker=f"kafka://{spec.bootstrap_servers}",
    processing_guarantee="exactly_once",
    consumer_auto_offset_reset="earliest",
    topic_partitions=spec.partitions,
    store="memory://",
    web_enabled=False,
    datadir=f"{spec.report}.faust",
)
RAW: dict[str, Any] = {
    "key_type": bytes,
    "value_type": bytes,
    "key_serializer": "raw",
    "value_serializer": "raw",
    "partitions": spec.partitions,
}
requests = app.topic(spec.requests, **RAW)
results = app.topic(spec.results, **RAW)


@app.agent(requests)
async def answer(stream: Any) -> None:
    async for event in stream.events():
        message = event.message
        value = answering.answer(
            message.value, message.topic, message.partition, message.offset, round(message.timestamp * 1000)
        )
        await results.send(key=message.key, value=value)


if __name__ == "__main__":
    app.main()
