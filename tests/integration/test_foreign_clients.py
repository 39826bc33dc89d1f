"""The contract is the topic: programs that share no code with headrace take part at both ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest
from confluent_kafka import Producer

from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.reader import Beginning, CommittedReader
from headrace.connectors.registry import ConfluentRegistry
from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.config import KafkaSettings, Settings
from headrace.pipeline.envelope import RequestDecoder, ResultDecoder, encode_result
from headrace.pipeline.headers import delivery_of, result_headers
from headrace.pipeline.records import (
    InferenceRequest,
    InferenceResult,
    Label,
    Modality,
    PartOutput,
    Provenance,
    SourceRecord,
    Tensor,
    Timings,
)
from headrace.pipeline.setup import COMPATIBILITY, register_contracts
from headrace.pipeline.wire import schema_id_of
from tests.integration.java_clients import console_consumer

FOREIGN_PRODUCER = Path(__file__).with_name("foreign_producer.py")


def committed(stack: Endpoints, topic: str) -> list[SourceRecord]:
    settings = KafkaSettings(bootstrap_servers=stack.bootstrap_servers)
    with CommittedReader(settings, [topic], Beginning()) as reader:
        return list(reader.records(30.0, until_end=True))


def decoded(registry: ConfluentRegistry, records: list[SourceRecord]) -> dict[str, InferenceRequest]:
    decoder = RequestDecoder()
    for schema_id in decoder.missing(record.value for record in records):
        decoder.add_schema(schema_id, registry.schema(schema_id))
    requests = [decoder.decode(record.value) for record in records]
    return {request.id: request for request in requests}


def test_events_of_a_foreign_producer_are_decoded(
    stack: Endpoints, make_topics: Callable[..., tuple[str, ...]], tmp_path: Path
) -> None:
    (topic,) = make_topics("requests")
    schema = resources.files("headrace") / "schemas" / "inference_request.avsc"
    with resources.as_file(schema) as schema_file, ConfluentRegistry(stack.registry_url) as registry:
        arguments = [stack.bootstrap_servers, stack.registry_url, topic, str(schema_file)]
        done = subprocess.run(
            [sys.executable, "-W", "error", str(FOREIGN_PRODUCER), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        reports = [json.loads(line) for line in done.stdout.splitlines()]
        records = committed(stack, topic)
        requests = decoded(registry, records)

    assert {(r["topic"], r["partition"], r["offset"]) for r in reports} == {
        (record.provenance.topic, record.provenance.partition, record.provenance.offset) for record in records
    }
    sentence, photo, full = (requests[report["id"]] for report in sorted(reports, key=lambda r: int(r["offset"])))
    assert [(part.name, part.modality, part.content) for part in sentence.parts] == [
        ("sentence", Modality.TEXT, "ein Fluß dreht die Mühle")
    ]
    assert photo.parts[0].content == b"\x89PNG\r\n\x1a\n"
    assert isinstance(photo.parts[1].content, Tensor)
    assert (photo.parts[1].content.datatype, photo.parts[1].content.shape) == ("FP32", (4,))
    assert full.parameters == {"unit": "metres", "top": 3, "threshold": 0.5, "strict": True}
    assert (full.subject, full.model, full.model_version, full.session) == ("mill", "text_embedding", "1", "s-1")
    delivery = delivery_of(records[0].headers)
    assert delivery.correlation_id == b"foreign-1"
    assert delivery.trace is not None
    assert delivery.trace.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"


def test_foreign_producer_and_pipeline_share_one_schema_id(stack: Endpoints, names: Callable[[str], str]) -> None:
    """Registered by hand or by headrace, first or second: the same schema has the same id."""
    topics = {"requests": [names("requests")], "results": names("results"), "dead_letters": names("dead-letters")}
    with ConfluentRegistry(stack.registry_url) as registry, ConfluentRegistry(stack.registry_url) as other:
        by_hand = other.register(f"{names('requests')}-value", schema_json(Contract.REQUEST), COMPATIBILITY)
        assert register_contracts(registry, Settings.model_validate({"topics": topics})).request == by_hand


@pytest.fixture
def result() -> InferenceResult:
    return InferenceResult(
        request_id="3b241101-e2bb-4255-8caf-4136c566a962",
        status="OK",
        outputs=(PartOutput("photo", "image", "image_jpeg", "1", labels=(Label("water wheel", 0.75),)),),
        provenance=Provenance("requests", 3, 42, 1_700_000_000_000),
        timings=Timings(0.1, 5.0, 12.5),
        attempt=1,
        worker="worker-0",
        completed_ms=1_700_000_000_100,
    )


def test_java_consumer_reads_committed_results_and_not_aborted_ones(
    stack: Endpoints,
    make_topics: Callable[..., tuple[str, ...]],
    names: Callable[[str], str],
    tmp_path: Path,
    result: InferenceResult,
) -> None:
    (topic,) = make_topics("results", partitions=1)
    headers = result_headers(
        delivery_of((("correlation_id", b"order-7"),)), result.request_id, result.provenance, 0, "/t"
    )
    with ConfluentRegistry(stack.registry_url) as registry:
        schema_id = registry.register(f"{topic}-value", schema_json(Contract.RESULT), COMPATIBILITY)
    value = encode_result(result, schema_id)
    producer = Producer({"bootstrap.servers": stack.bootstrap_servers, "transactional.id": names("transactions")})
    producer.init_transactions(30)
    for key, commit in ((b"aborted", False), (b"committed", True), (b"aborted too", False), (b"last", True)):
        producer.begin_transaction()
        producer.produce(topic, value, key, headers=list(headers))
        producer.flush(30)
        producer.commit_transaction(30) if commit else producer.abort_transaction(30)

    everything = console_consumer(
        stack.bootstrap_servers, topic, tmp_path, max_records=4, isolation_level="read_uncommitted"
    )
    assert [record.key for record in everything] == [b"aborted", b"committed", b"aborted too", b"last"]

    records = console_consumer(stack.bootstrap_servers, topic, tmp_path, max_records=2)
    assert [record.key for record in records] == [b"committed", b"last"]
    assert all("correlation_id:order-7" in record.headers for record in records)
    assert all("ce_type:io.headrace.result" in record.headers for record in records)
    assert {schema_id_of(record.value) for record in records} == {schema_id}
    decoder = ResultDecoder()
    decoder.add_schema(schema_id, schema_json(Contract.RESULT))
    assert [decoder.decode(record.value) for record in records] == [result, result]
