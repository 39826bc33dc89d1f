"""A producer that knows headrace by its topics only: the schema file, the registry's HTTP API, and Kafka.

Imports nothing of headrace and no Avro library: the handful of functions below is what any language has to do.

    python foreign_producer.py BOOTSTRAP_SERVERS REGISTRY_URL TOPIC SCHEMA_FILE

Sends one event with a text, one with an image and a tensor, and one with every optional field. Prints a line of JSON
for each: topic, partition, offset, id.
"""

from __future__ import annotations

import json
import struct
import sys
import time
import urllib.request
import uuid
from pathlib import Path

from confluent_kafka import KafkaError, Message, Producer

PNG = b"\x89PNG\r\n\x1a\n"
TEXT, IMAGE, TENSOR = 1, 2, 5  # positions among the symbols of Modality
NULL, BYTES, STRING, TENSOR_RECORD = 0, 1, 2, 3  # positions in the union of content


def long(number: int) -> bytes:
    """Zigzag, then 7 bits a byte, low first."""
    rest = (number << 1) ^ (number >> 63)
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def data(content: bytes) -> bytes:
    return long(len(content)) + content


def text(content: str) -> bytes:
    return data(content.encode())


def optional(content: str | None) -> bytes:
    return long(0) if content is None else long(1) + text(content)


def array(items: list[bytes]) -> bytes:
    return (long(len(items)) + b"".join(items) if items else b"") + long(0)


def part(name: str, modality: int, content_type: str, branch: int, content: bytes) -> bytes:
    return text(name) + long(modality) + text(content_type) + long(branch) + content


def tensor(datatype: str, shape: list[int], content: bytes) -> bytes:
    return text(datatype) + array([long(length) for length in shape]) + data(content)


def event(event_id: str, parts: list[bytes], parameters: list[bytes], optionals: dict[str, str]) -> bytes:
    """The fields in the order of the schema."""
    return b"".join(
        [
            text(event_id),
            text("org.example.foreign"),
            text("/foreign/producer"),
            long(int(time.time() * 1000)),
            optional(optionals.get("subject")),
            array(parts),
            array(parameters),
            optional(optionals.get("model")),
            optional(optionals.get("model_version")),
            optional(optionals.get("session")),
        ]
    )


def events() -> list[tuple[str, bytes]]:
    ids = [str(uuid.uuid4()) for _ in range(3)]
    sentence = part("sentence", TEXT, "text/plain", STRING, text("ein Fluß dreht die Mühle"))
    photo = part("photo", IMAGE, "image/png", BYTES, data(PNG))
    vector = part("vector", TENSOR, "", TENSOR_RECORD, tensor("FP32", [4], struct.pack("<4f", 1, 2, 3, 4)))
    parameters = [
        text("unit") + long(0) + text("metres"),
        text("top") + long(1) + long(3),
        text("threshold") + long(2) + struct.pack("<d", 0.5),
        text("strict") + long(3) + b"\x01",
    ]
    optionals = {"subject": "mill", "model": "text_embedding", "model_version": "1", "session": "s-1"}
    return [
        (ids[0], event(ids[0], [sentence], [], {})),
        (ids[1], event(ids[1], [photo, vector], [], {})),
        (ids[2], event(ids[2], [sentence], parameters, optionals)),
    ]


def register(registry_url: str, subject: str, schema: str) -> int:
    request = urllib.request.Request(
        f"{registry_url}/subjects/{subject}/versions",
        data=json.dumps({"schema": schema}).encode(),
        headers={"Content-Type": "application/vnd.schemaregistry.v1+json"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        schema_id: int = json.load(response)["id"]
    return schema_id


def main(bootstrap_servers: str, registry_url: str, topic: str, schema_file: str) -> None:
    schema_id = register(registry_url, f"{topic}-value", Path(schema_file).read_text(encoding="utf-8"))
    producer = Producer({"bootstrap.servers": bootstrap_servers, "message.timeout.ms": 20_000})
    for event_id, avro in events():

        def report(error: KafkaError | None, record: Message, event_id: str = event_id) -> None:
            if error is not None:
                sys.exit(f"not delivered: {error}")
            where = {"topic": record.topic(), "partition": record.partition(), "offset": record.offset()}
            print(json.dumps({**where, "id": event_id}), flush=True)

        headers: list[tuple[str, str | bytes | None]] = [
            ("ce_specversion", b"1.0"),
            ("ce_id", event_id.encode()),
            ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ("correlation_id", b"foreign-1"),
        ]
        producer.produce(topic, struct.pack(">bI", 0, schema_id) + avro, b"key", headers=headers, on_delivery=report)
    if producer.flush(30):
        sys.exit("not everything was delivered within 30 s")
    if strangers := [name for name in sys.modules if name.split(".")[0] in ("headrace", "fastavro")]:
        sys.exit(f"not independent: imported {strangers}")


if __name__ == "__main__":
    main(*sys.argv[1:])
