"""The protocols through which the pipeline sees the outside. Connectors implement them; tests use stateful fakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.pipeline.records import OutputRecord, Parameter, RecordBatch, SourceRecord, TopicPartition

Array = NDArray[Any]


class Clock(Protocol):
    """Injected time, so that decisions are pure."""

    def monotonic(self) -> float:
        """Seconds, for durations; never goes back."""

    def epoch_ms(self) -> int:
        """Milliseconds since 1970 (UTC), for timestamps that leave the process."""


# --- Triton ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A model's input or output: ``shape`` without the batch dimension, -1 where it varies."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelSignature:
    """What a served model takes and gives. ``max_batch_size`` 0 means that it does not batch."""

    name: str
    version: str
    max_batch_size: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class InferCall:
    """One batched call: every array has the batch as its first dimension (object arrays of bytes for ``BYTES``)."""

    model: str
    version: str
    inputs: Mapping[str, Array]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InferReply:
    """Outputs by name, batch first, in the order of the call's rows."""

    model_version: str
    outputs: Mapping[str, Array]


class InferenceClient(Protocol):
    """A model server. One long-lived instance a process."""

    async def ready(self) -> bool:
        """True if the server answers and is ready, and with it all its models; never raises for one that is down."""

    async def live(self) -> bool:
        """True if the server answers, whether its models do or not; never raises for one that is down."""

    async def signature(self, model: str, version: str = "") -> ModelSignature:
        """Raises UnavailableError if the server is down, PoisonError (``MODEL_NOT_FOUND``) if it lacks the model."""

    async def infer(self, call: InferCall, timeout_seconds: float) -> InferReply:
        """Raises UnavailableError (not reachable), RetriableError (time-out, overload), PoisonError (bad input)."""

    async def close(self) -> None: ...


# --- Video ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """Which frames to take of a video, and what it may cost.

    Attributes:
        sample: ``rate``, ``count`` or ``scene``; the next three fields are each for one of them.
        frames_per_second: for ``rate``.
        count: for ``count``: frames in all, spread evenly.
        scene_threshold: for ``scene``: difference to the last frame taken, 0 to 1.
        max_frames: most frames, whatever the way.
        max_side_pixels: frames are scaled down to this.
        max_duration_seconds, max_pixels: a longer or larger video is refused.
        timeout_seconds: of the whole.
    """

    sample: str
    frames_per_second: float
    count: int
    scene_threshold: float
    max_frames: int
    max_side_pixels: int
    max_duration_seconds: float
    max_pixels: int
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of a video, one or more.

    Attributes:
        images: JPEG files, upright.
        seconds: when each is shown, from the start of the video; ascending.
        end_seconds: when the last one is over.
    """

    images: tuple[bytes, ...]
    seconds: tuple[float, ...]
    end_seconds: float


class FrameSampler(Protocol):
    """Takes frames out of videos, outside this process. One long-lived instance a process."""

    @property
    def processes(self) -> int:
        """How many videos are sampled at a time; more wait their turn."""

    async def sample(self, video: bytes, plan: SamplingPlan) -> Frames:
        """The frames of an MP4. Cancelling it ends the work at once.

        Raises:
            PoisonError: stage ``prepare``: the video is at fault (docs/errors.md has the codes).
            UnavailableError: no process could be started.
        """

    async def close(self) -> None:
        """End the processes; what is being sampled is cancelled."""


# --- Schema registry ------------------------------------------------------------------------------------------------


class SchemaRegistry(Protocol):
    """A Confluent-compatible registry. Calls block: the pipeline runs them off the event loop."""

    def schema(self, schema_id: int) -> str | None:
        """The Avro schema (JSON) of an id, None if there is no such id. Raises UnavailableError."""

    def register(self, subject: str, schema: str, compatibility: str) -> int:
        """Sets the subject's compatibility, registers (idempotent) and returns the id.

        Raises UnavailableError, or FatalError if the registry refuses the schema as incompatible.
        """


# --- Kafka ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartPosition:
    """Where consuming of an assigned partition starts: the committed offset and its metadata.

    ``offset`` is None if nothing was committed yet.
    """

    offset: int | None
    metadata: str


class AssignmentListener(Protocol):
    """Called on the event loop by the source, one call at a time; the source waits for each to return."""

    async def assigning(self) -> None:
        """Return when no transaction of an earlier assignment is open: only then may committed offsets be read."""

    async def assigned(self, generation: int, positions: Mapping[TopicPartition, StartPosition]) -> None: ...

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """Still owned until this returns: drain what can complete, commit it, drop the rest."""

    async def lost(self, partitions: frozenset[TopicPartition]) -> None:
        """Already owned by somebody else: drop at once."""

    def received(self, batches: Sequence[RecordBatch]) -> None: ...


@dataclass(frozen=True, slots=True)
class OffsetCommit:
    """An input partition's next offset to read, and what is already done above it (see ``ordering``)."""

    partition: TopicPartition
    offset: int
    metadata: str


@dataclass(frozen=True, slots=True)
class CommitUnit:
    """What one transaction holds: outputs of completed records and exactly those records' offsets."""

    outputs: tuple[OutputRecord, ...]
    offsets: tuple[OffsetCommit, ...]
    records: int
    still_owned: Callable[[], bool]
    """False once any of its partitions has been revoked or lost. Callable from any thread."""


class Transactions(Protocol):
    """Atomic commits: everything of a unit or nothing of it becomes visible to read_committed readers."""

    async def start(self) -> None:
        """Initialise the producers, waiting for the broker. Raises FatalError if fenced or misconfigured."""

    async def commit(self, unit: CommitUnit) -> bool:
        """True: the unit is committed. False: its partitions are no longer ours, and nothing of it is visible.

        Retriable, abortable and indefinite errors are dealt with inside.

        Raises:
            OutputRefusedError: nothing of the unit is visible, and one of its outputs can never be written.
            FatalError: fenced by another holder of the slot, or unrecoverable.
        """

    async def close(self) -> None: ...


class Changelog(Protocol):
    """What transactions have written of each partition of the request topics, read back when it is assigned."""

    async def restore(self, into: Mapping[TopicPartition, Callable[[SourceRecord], None]], newest: int) -> None:
        """Hand over what is committed for these partitions, in order, and at least the newest so many ids of each.

        If too few come it begins again, further back, so that records may come twice: the last time counts. A
        transaction that is open is waited for.

        Args:
            into: by the *request* partition, called from a thread.
            newest: ids of one partition; what is older may be left out.

        Raises:
            FatalError: it cannot be read, or not in time.
        """


class RecordSource(Protocol):
    """The consumer. Stops fetching, but goes on polling, while its budget is spent: backpressure without eviction."""

    async def start(self, listener: AssignmentListener) -> None: ...

    async def wait_ended(self) -> None:
        """Return when the source has ended; raise what ended it."""

    def hold(self, topics: frozenset[str]) -> None:
        """Deliver nothing of these topics, until called again without them."""

    async def stop(self) -> None:
        """Revoke what is assigned (the listener drains), leave the group and close."""


def dtype_of(datatype: str) -> np.dtype[Any]:
    """The numpy dtype of an Open Inference Protocol datatype.

    Raises:
        KeyError: for an unknown datatype.
    """
    return _DTYPES[datatype]


_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(np.object_),
}
