from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable

from confluent_kafka import Consumer, Producer
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from tritonclient.grpc import InferenceServerClient

from headrace.connectors.embedded.stack import Stack
from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.admin import ensure_topics, wait_until_ready
from headrace.pipeline.records import TopicSpec

SCHEMA = json.dumps({"type": "record", "name": "Drop", "fields": [{"name": "litres", "type": "double"}]})


def read_one(bootstrap_servers: str, topic: str, group: str) -> bytes:
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": group, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    try:
        record = consumer.poll(20)
        assert record is not None
        assert record.error() is None
        value = record.value()
        assert isinstance(value, bytes)
        return value
    finally:
        consumer.close()


def write(bootstrap_servers: str, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap_servers, "message.max.bytes": 32_000_000})
    producer.produce(topic, value)
    assert producer.flush(20) == 0


def test_stack_serves_records_schemas_and_models(
    stack: Endpoints, names: Callable[[str], str], make_topics: Callable[..., tuple[str, ...]]
) -> None:
    (topic,) = make_topics("drops", config={"max.message.bytes": str(16 * 1024 * 1024)})
    value = b"w" * (15 * 1024 * 1024)
    write(stack.bootstrap_servers, topic, value)
    assert read_one(stack.bootstrap_servers, topic, names("group")) == value

    with SchemaRegistryClient({"url": stack.registry_url}) as registry:
        schema_id = registry.register_schema(names("subject"), Schema(SCHEMA, "AVRO"))
        assert registry.get_schema(schema_id).schema_str

    with InferenceServerClient(stack.triton_grpc) as triton:
        assert triton.is_server_ready()
        assert triton.is_model_ready("identity")
    with urllib.request.urlopen(stack.triton_metrics_url, timeout=5) as reply:
        assert b"nv_inference_count" in reply.read()


def test_restart_of_every_server_keeps_records_and_schema_ids(own_stack: Stack, names: Callable[[str], str]) -> None:
    before = own_stack.endpoints
    ensure_topics(before.bootstrap_servers, [TopicSpec("drops", 1)])
    write(before.bootstrap_servers, "drops", b"kept")
    with SchemaRegistryClient({"url": before.registry_url}) as registry:
        registry.register_schema(names("other"), Schema(json.dumps("string"), "AVRO"))
        schema_id = registry.register_schema(names("drop"), Schema(SCHEMA, "AVRO"))

    own_stack.registry.kill()
    own_stack.kafka.kill()
    own_stack.triton.kill()
    own_stack.kafka.start()
    own_stack.registry.start()
    own_stack.triton.start()

    assert own_stack.endpoints == before
    wait_until_ready(before.bootstrap_servers, timeout_seconds=10)
    assert read_one(before.bootstrap_servers, "drops", "after") == b"kept"
    with SchemaRegistryClient({"url": before.registry_url}) as registry:
        found = registry.get_latest_version(names("drop"))
        assert found.schema_id == schema_id
        assert registry.register_schema(names("drop"), Schema(SCHEMA, "AVRO")) == schema_id
