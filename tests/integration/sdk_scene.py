"""The SDK's view of a scene, and a worker by hand."""

from __future__ import annotations

import uuid
from pathlib import Path

from confluent_kafka import Producer

from headrace import DeadLetter, InferenceResult, Provenance, Settings, Timings
from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.registry import ConfluentRegistry
from headrace.pipeline.envelope import encode_dead_letter, encode_result
from headrace.pipeline.settings_file import load_settings
from headrace.pipeline.setup import ContractIds, register_contracts
from tests.integration.avro_ends import DATA


def sdk_settings(folder: Path, endpoints: Endpoints) -> Settings:
    """The settings of the scene that was made in this folder, as a program that uses the SDK loads them."""
    return load_settings(folder / "pipeline.yaml", endpoints.environment())


def photo(name: str) -> Path:
    return DATA / "photos" / name


def speech(name: str) -> Path:
    return DATA / "speech" / name


SOMEWHERE = Provenance("in", 1, 7, 1)


class Writer:
    """Writes to the output topics what a worker would, or what it never would."""

    def __init__(self, settings: Settings) -> None:
        self._topics = settings.topics
        with ConfluentRegistry(settings.registry.url) as registry:
            self._ids: ContractIds = register_contracts(registry, settings)
        self._producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers})

    def results(self, *numbers: int, key: bytes | None = None) -> None:
        for number in numbers:
            self.write(self._topics.results, self.result(number), key)

    def result(self, number: int, place: Provenance | None = None) -> bytes:
        """A result with this number as its id, as it is on the wire: of the request at this place, or offset."""
        place = place or Provenance("in", 0, number, 1)
        content = InferenceResult(str(uuid.UUID(int=number)), "OK", (), place, Timings(0, 0, 0), 1, "w", 1)
        return encode_result(content, self._ids.result)

    def dead_letter(self, code: str = "BAD", correlation_id: bytes = b"c", place: Provenance = SOMEWHERE) -> None:
        letter = DeadLetter(None, b"value", (), place, "infer", code, "wrong", 1, 1, 1, "w")
        value = encode_dead_letter(letter, self._ids.dead_letter)
        self.write(self._topics.dead_letters, value, partition=0, correlation_id=correlation_id)

    def write(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        *,
        timestamp_ms: int = 0,
        partition: int = -1,
        correlation_id: bytes = b"c",
    ) -> None:
        headers: list[tuple[str, bytes | str | None]] = [("correlation_id", correlation_id)]
        self._producer.produce(topic, value, key, partition, headers=headers, timestamp=timestamp_ms)
        assert self._producer.flush(10) == 0
