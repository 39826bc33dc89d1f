"""What Kafka and the model server say of themselves, for commands that only look."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from headrace.pipeline.ports import ModelSignature

# --- Kafka ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as it is. By partition: ``starts``, offsets of the oldest record retained, and ``ends``, of the next.

    ``cleanup_policy`` and ``retention_ms`` (-1: for ever) are Kafka's own; ``config`` has all, by Kafka's names.
    """

    partitions: int
    replication_factor: int
    max_message_bytes: int
    starts: Mapping[int, int]
    ends: Mapping[int, int]
    cleanup_policy: str = "delete"
    retention_ms: int = -1
    config: Mapping[str, str] = field(default_factory=dict)

    @property
    def offsets_retained(self) -> int:
        """As many records at most: transactions' markers and compacted records take offsets too."""
        return sum(end - self.starts[partition] for partition, end in self.ends.items())


@dataclass(frozen=True, slots=True)
class CommittedOffset:
    """What a group has committed for one partition."""

    offset: int
    metadata: str


@dataclass(frozen=True, slots=True)
class GroupProgress:
    """How far a group is with a topic: ``committed`` offsets by partition, where it has any; ``lag`` in offsets."""

    committed: Mapping[int, int]
    lag: int


# --- Triton ---------------------------------------------------------------------------------------------------------


class Scheduling(enum.StrEnum):
    """How Triton brings requests to a model."""

    NONE = "none"
    DYNAMIC = "dynamic"
    SEQUENCE = "sequence"
    ENSEMBLE = "ensemble"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A version of a model in the server's repository. ``version`` is empty for one that was never loaded."""

    name: str
    version: str
    ready: bool
    state: str
    """The server's word: ``READY``, ``UNAVAILABLE``, ``LOADING``, ``UNLOADING``, or empty."""
    reason: str


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """How a model is set up. ``signature.version`` is the one that was asked about."""

    signature: ModelSignature
    platform: str
    decoupled: bool
    scheduling: Scheduling
    preferred_batch_sizes: tuple[int, ...]
    max_queue_delay_seconds: float
    instances: tuple[str, ...]
    """Each instance group: ``2 on CPU``."""


@dataclass(frozen=True, slots=True)
class ModelCounts:
    """Since the model was loaded: rows inferred, calls of the model that took them, and when the last came."""

    inferences: int
    executions: int
    failures: int
    last_inference_ms: int
    queue_seconds: float
    compute_seconds: float

    @property
    def mean_batch(self) -> float:
        """Rows a call."""
        return self.inferences / self.executions if self.executions else 0.0


class ModelCatalog(Protocol):
    """What a model server has. Every call raises UnavailableError, RetriableError or FatalError as the server does."""

    async def index(self) -> tuple[ServedModel, ...]:
        """Every version of every model, ready or not, by name and version."""

    async def model_config(self, model: str, version: str = "") -> ModelConfig:
        """Raises PoisonError (``MODEL_NOT_FOUND``) or UnavailableError for a model that is not ready."""

    async def counts(self) -> Mapping[tuple[str, str], ModelCounts]:
        """By model and version; empty if the server keeps none."""
