"""One record's journey, while it is in flight."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.pipeline.admission import check_deadline
from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.flow import Calls, RecordRef
from headrace.pipeline.headers import Delivery
from headrace.pipeline.records import InferenceRequest, Part, PartOutput, SourceRecord
from headrace.pipeline.retrying import Retry
from headrace.pipeline.user_code import Record

_LONG_AGO_MS = 0


@dataclass(slots=True, eq=False)
class Decoded:
    """A record between decode and route. ``hooked`` says that its ``before`` hooks have run.

    Where they have not, its partition is going, and it will be processed again.
    """

    ref: RecordRef
    record: SourceRecord
    request: InferenceRequest
    decode_seconds: float
    retry: Retry | None
    view: Record | None = None
    rejected: PoisonError | None = None
    hooked: bool = False


@dataclass(slots=True, eq=False)
class Journey:
    """A decoded and routed record. Ends once: with a result when all its parts are answered, or as a dead letter.

    ``lead`` is the route of its first part, and ``first`` that part's task while it is answered and others are not (for
    longer they would be a cycle, which only a collection of garbage frees); ``view`` is what user code sees of it, if
    there is any, and ``retry`` what has become of it before, if it has been put off.
    """

    ref: RecordRef
    record: SourceRecord
    request: InferenceRequest
    delivery: Delivery
    lead: RouteSettings
    reply_to: tuple[str, int | None]
    decode_seconds: float
    outputs: list[PartOutput | None]
    view: Record | None = None
    retry: Retry | None = None
    first: PartTask | None = None
    ended: bool = False
    waited_seconds: float = 0.0
    inferred_seconds: float = 0.0
    attempts: int = 0

    def note(self, task: PartTask, output: PartOutput) -> None:
        """One of its parts is answered."""
        self.outputs[task.index] = output
        self.waited_seconds = max(self.waited_seconds, task.waited_seconds)
        self.inferred_seconds = max(self.inferred_seconds, task.inferred_seconds)
        self.attempts = max(self.attempts, task.attempts)


@dataclass(slots=True, eq=False)
class PartTask:
    """One part of a journey on its way through its route."""

    journey: Journey
    index: int
    model: str
    version: str
    route: str
    deadline_ms: int | None
    admitted_at: float = 0.0
    waited_seconds: float = 0.0
    inferred_seconds: float = 0.0
    attempts: int = 0
    renewed: bool = False
    """Whether its model's signature has been asked for again on its account."""

    @property
    def part(self) -> Part:
        return self.journey.request.parts[self.index]

    @property
    def given_up(self) -> bool:
        return self.deadline_ms == _LONG_AGO_MS

    def give_up(self) -> None:
        """Nobody wants its outcome any more: it ends like one that is past its deadline, wherever it is."""
        self.deadline_ms = _LONG_AGO_MS


def wanted(task: PartTask, flow: Calls, now_ms: int) -> bool:
    """False if work on a part is in vain, because its partition is gone or going.

    Raises:
        PoisonError: ``DEADLINE_EXCEEDED``.
    """
    check_deadline(task.deadline_ms, now_ms)
    return flow.wants(task.journey.ref.partition, task.journey.ref.generation)
