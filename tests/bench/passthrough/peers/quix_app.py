"""Quix Streams with ``processing_guarantee="exactly-once"``: one dataframe from topic to topic.

Its functions are synchronous: where Triton is called, one record waits for the one before.
"""

from __future__ import annotations

from typing import Any

from quixstreams import Application, message_context
from quixstreams.models import Topic

from tests.bench.passthrough.spec import FAST_CLIENT, FAST_PRODUCER, Answering, Spec


def main() -> None:
    spec = Spec.given()
    if spec.model:
        from tests.bench.passthrough.calling import Calling

        answering: Answering | Calling = Calling(spec)
    else:
        answering = Answering(spec)
    chosen = {} if "commit interval" not in spec.settings else {"commit_interval": spec.settings["commit interval"]}
    app = Application(
        broker_address=spec.bootstrap_servers,
        consumer_group=spec.group,
        processing_guarantee="exactly-once",
        auto_offset_reset="earliest",
        auto_create_topics=False,
        consumer_extra_config=dict(FAST_CLIENT),
        producer_extra_config=dict(FAST_PRODUCER),
        state_dir=f"{spec.report}.quix",
        **chosen,
    )

    def topic(name: str) -> Topic:
        raw = "bytes"
        return app.topic(name, key_serializer=raw, value_serializer=raw, key_deserializer=raw, value_deserializer=raw)

    def answer(value: Any, key: Any, timestamp: int, headers: Any) -> bytes:
        where = message_context()
        return answering.answer(value, where.topic, where.partition, where.offset, timestamp)

    frame = app.dataframe(topic(spec.requests))
    frame = frame.apply(answer, metadata=True)
    frame.to_topic(topic(spec.results))
    app.run()


if __name__ == "__main__":
    main()
