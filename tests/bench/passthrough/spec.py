"""What a program under comparison is told, and the work that each of them does to a record.

Imported in every peer's environment: needs nothing but the standard library, fastavro and headrace's codec.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from headrace.pipeline.envelope import RequestDecoder, encode_result
from headrace.pipeline.records import InferenceResult, NamedTensor, PartOutput, Provenance, Tensor, Timings

SPEC_VARIABLE = "HEADRACE_BENCH_SPEC"
MODEL = "identity"
OUTPUT = "OUTPUT0"
FAST_CLIENT: Mapping[str, Any] = {
    "fetch.wait.max.ms": 100,
    "fetch.queue.backoff.ms": 2,
    "queued.min.messages": 20_000,
    "queued.max.messages.kbytes": 65_536,
}
"""What headrace sets of a consumer for speed, for the peers on librdkafka; librdkafka's defaults are slower for all."""
FAST_PRODUCER: Mapping[str, Any] = {"retry.backoff.ms": 1, "retry.backoff.max.ms": 100}
"""The same of a transactional producer."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What a program under comparison is told.

    Attributes:
        bootstrap_servers: of the one broker.
        requests: topic that it reads from the beginning.
        results: topic that it writes.
        group: its consumer group, and prefix of its other names; new in each run.
        partitions: of both topics.
        request_schema: Avro schema (JSON) of the requests.
        request_schema_id, result_schema_id: in the registry.
        report: file for what it counts itself, JSON.
        triton_url: host and port of Triton's gRPC; empty: there is none.
        model: to be called; empty: none.
        settings: of its arm.
    """

    bootstrap_servers: str
    requests: str
    results: str
    group: str
    partitions: int
    request_schema: str
    request_schema_id: int
    result_schema_id: int
    report: str
    triton_url: str
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def given(cls) -> Spec:
        """Of the file that the environment names."""
        return cls(**json.loads(Path(os.environ[SPEC_VARIABLE]).read_text()))


class Answering:
    """A record's value → its result's value, as a worker would with a model that gives back what it gets."""

    def __init__(self, spec: Spec) -> None:
        self._decoder = RequestDecoder()
        self._decoder.add_schema(spec.request_schema_id, spec.request_schema)
        self._schema_id = spec.result_schema_id
        self._worker = spec.group

    def answer(self, value: bytes | None, topic: str, partition: int, offset: int, timestamp_ms: int) -> bytes:
        """Raises PoisonError, which no record of the benchmark is."""
        request = self._decoder.decode(value)
        outputs = []
        for part in request.parts:
            assert isinstance(part.content, Tensor)
            outputs.append(PartOutput(part.name, MODEL, MODEL, "1", tensors=(NamedTensor(OUTPUT, part.content),)))
        result = InferenceResult(
            request_id=request.id,
            status="OK",
            outputs=tuple(outputs),
            provenance=Provenance(topic, partition, offset, timestamp_ms),
            timings=Timings(0.0, 0.0, 0.0),
            attempt=1,
            worker=self._worker,
            completed_ms=time.time_ns() // 1_000_000,
        )
        return encode_result(result, self._schema_id)
