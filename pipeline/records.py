"""Frozen dataclasses that cross module boundaries (see ``light``)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import field
from typing import NamedTuple

from headrace.pipeline.light import light_dataclass

Headers = tuple[tuple[str, bytes | None], ...]
"""Kafka record headers, in order, duplicates allowed, exactly as on the wire."""


class TopicPartition(NamedTuple):
    topic: str
    partition: int


class Modality(enum.StrEnum):
    TEXT = "TEXT"
    IMAGE = "IMAGE"
    AUDIO = "AUDIO"
    VIDEO = "VIDEO"
    TENSOR = "TENSOR"


class Stage(enum.StrEnum):
    """Where on its journey a record failed."""

    DECODE = "decode"
    ROUTE = "route"
    ADMIT = "admit"
    PREPARE = "prepare"
    INFER = "infer"
    USER_CODE = "user_code"
    ENCODE = "encode"


@light_dataclass(frozen=True, slots=True)
class Provenance:
    """A record's original position: stays the same through retries and redrives."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


@light_dataclass(frozen=True, slots=True)
class SourceRecord:
    """One consumed record, undecoded. ``provenance`` is where it was consumed from."""

    provenance: Provenance
    key: bytes | None
    value: bytes | None
    headers: Headers
    headers_readable: bool = True
    """False if it has headers that the client library cannot hand over; ``headers`` is empty then."""

    @property
    def size_bytes(self) -> int:
        size_bytes = len(self.value or b"") + len(self.key or b"")
        for name, content in self.headers:
            size_bytes += len(name) + len(content or b"")
        return size_bytes


@light_dataclass(frozen=True, slots=True)
class RecordBatch:
    """Consecutive records of one partition of one assignment: what a Faust agent receives as one event."""

    partition: TopicPartition
    generation: int
    records: tuple[SourceRecord, ...]


@light_dataclass(frozen=True, slots=True)
class OutputRecord:
    """A record to be produced inside a transaction. ``partition`` None means by key (murmur2, as Java's clients)."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None

    @property
    def size_bytes(self) -> int:
        """Of key and value."""
        return len(self.value or b"") + len(self.key or b"")


@light_dataclass(frozen=True, slots=True)
class Tensor:
    """An Open Inference Protocol tensor.

    Attributes:
        datatype: ``BOOL``, ``UINT8`` … ``FP64``, ``BF16`` or ``BYTES``.
        shape: without a batch dimension.
        data: little-endian, row-major; for ``BYTES`` each element is a 4-byte little-endian length and its bytes.
    """

    datatype: str
    shape: tuple[int, ...]
    data: bytes


@light_dataclass(frozen=True, slots=True)
class Reference:
    """Content kept elsewhere (claim check)."""

    uri: str
    size_bytes: int
    sha256: bytes


Content = bytes | str | Tensor | Reference
Parameter = str | int | float | bool


@light_dataclass(frozen=True, slots=True)
class Part:
    """One modality's piece of an event."""

    name: str
    modality: Modality
    content_type: str
    content: Content


@light_dataclass(frozen=True, slots=True)
class InferenceRequest:
    """A decoded event. ``time_ms`` is event time (epoch milliseconds, UTC)."""

    id: str
    type: str
    source: str
    time_ms: int
    parts: tuple[Part, ...]
    subject: str | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    model: str | None = None
    model_version: str | None = None
    session: str | None = None


@light_dataclass(frozen=True, slots=True)
class Label:
    name: str
    score: float


@light_dataclass(frozen=True, slots=True)
class Segment:
    """A span of time in the part, in seconds from its start; what is in it, as far as the model says.

    Attributes:
        label: class of what is in the span.
        score: of the label.
        text: what is said or written in the span.
    """

    start_seconds: float
    end_seconds: float
    label: str | None = None
    score: float | None = None
    text: str | None = None


@light_dataclass(frozen=True, slots=True)
class NamedTensor:
    name: str
    tensor: Tensor


@light_dataclass(frozen=True, slots=True)
class PartOutput:
    """What one model said of one part. Any of the kinds may be empty."""

    part: str
    route: str
    model: str
    model_version: str
    tensors: tuple[NamedTensor, ...] = ()
    labels: tuple[Label, ...] = ()
    segments: tuple[Segment, ...] = ()
    text: str | None = None
    batch_size: int = 1


@light_dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds in each stage. ``waiting`` is admission and batching, ``inference`` the model server's call."""

    decode_ms: float
    waiting_ms: float
    inference_ms: float


@light_dataclass(frozen=True, slots=True)
class InferenceResult:
    """All parts of one event answered. ``status`` is ``OK``: an event that fails becomes a dead letter instead."""

    request_id: str
    status: str
    outputs: tuple[PartOutput, ...]
    provenance: Provenance
    timings: Timings
    attempt: int
    worker: str
    completed_ms: int


@light_dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be processed: its bytes untouched, and why.

    ``omitted_bytes`` counts what was left out of value, headers and key because it would not have fitted the topic.
    """

    key: bytes | None
    value: bytes | None
    headers: Headers
    provenance: Provenance
    stage: str
    code: str
    message: str
    attempts: int
    first_failed_ms: int
    last_failed_ms: int
    worker: str
    request_id: str | None = None
    route: str | None = None
    model: str | None = None
    trace_id: str | None = None
    omitted_bytes: int = 0


@light_dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it has to be: ``config`` holds Kafka's own names (``max.message.bytes``, ``cleanup.policy``).

    ``as_wide_as`` names a topic that it must have as many partitions as, or more, whatever ``partitions`` says.
    ``min_retention_ms`` is for changelogs, which must be compacted, and for topics whose ``cleanup.policy`` is
    ``delete``, which must not be: what is younger must be kept.
    """

    name: str
    partitions: int
    replication_factor: int = 1
    config: Mapping[str, str] = field(default_factory=dict)
    as_wide_as: str | None = None
    min_retention_ms: int | None = None
