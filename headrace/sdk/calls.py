"""Calls in flight: each ends once, by an answer, an error, its time-out or its caller."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from headrace.connectors.kafka.producer import UNKNOWN_OFFSET, DeliveryReport
from headrace.pipeline.errors import HeadraceError
from headrace.pipeline.records import InferenceResult, Provenance
from headrace.sdk.errors import again

SPARE_DEADLINES = 1000
"""Most deadlines kept of calls that have ended, beside as many as are in flight."""
Answer = InferenceResult | HeadraceError


@dataclass(slots=True)
class Call:
    """A request that waits for its answer.

    Attributes:
        correlation_id: unique to the call.
        timeout_seconds: what its caller gave it.
        deadline: monotonic seconds.
        sent: where its record lies, once the broker has confirmed it.
        early: outcomes that came before that, with the positions that they are of.
        future: what its caller waits for.
    """

    correlation_id: bytes
    timeout_seconds: float
    deadline: float
    sent: DeliveryReport | None = None
    early: list[tuple[Provenance, Answer]] = field(default_factory=list)
    future: Future[InferenceResult] = field(default_factory=Future)

    @property
    def left_seconds(self) -> float:
        """Until its deadline, at least 0."""
        return max(0.0, self.deadline - time.monotonic())


class Calls:
    """The calls of one client. Thread-safe; one thread of its own ends those whose time is up.

    Args:
        expired: makes the error of a call whose time is up.
    """

    def __init__(self, expired: Callable[[Call], HeadraceError]) -> None:
        self._expired = expired
        self._prefix = f"{uuid.uuid4().hex}-".encode()
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._open: dict[bytes, Call] = {}
        self._deadlines: list[tuple[float, bytes]] = []
        """A heap; calls that have ended are left in it until their time, or until they are too many."""
        self._failure: HeadraceError | None = None
        self._late = 0
        threading.Thread(target=self._watch, name="headrace-timeouts", daemon=True).start()

    @property
    def late(self) -> int:
        """Answers dropped because their call had ended."""
        return self._late

    @property
    def in_flight(self) -> int:
        """Calls that wait for their answer."""
        return len(self._open)

    def open(self, timeout_seconds: float) -> Call:
        """A new call. Raises, again, what ``fail_all`` was given."""
        correlation_id = self._prefix + str(next(self._numbers)).encode()
        call = Call(correlation_id, timeout_seconds, time.monotonic() + timeout_seconds)
        with self._changed:
            if self._failure is not None:
                raise again(self._failure)
            self._open[correlation_id] = call
            if len(self._deadlines) > 2 * len(self._open) + SPARE_DEADLINES:
                self._deadlines = [each for each in self._deadlines if each[1] in self._open]
                heapq.heapify(self._deadlines)
            heapq.heappush(self._deadlines, (call.deadline, correlation_id))
            if self._deadlines[0][1] == correlation_id:
                self._changed.notify()
        call.future.add_done_callback(lambda future: self._taken(correlation_id) if future.cancelled() else None)
        return call

    def is_ours(self, correlation_id: bytes) -> bool:
        """Whether it is that of a call of this client, in flight or not."""
        return correlation_id.startswith(self._prefix)

    def delivered(self, call: Call, sent: DeliveryReport) -> None:
        """The broker has confirmed the record of a call. What came before may be its answer."""
        with self._changed:
            call.sent = sent
            answers = [outcome for place, outcome in call.early if _is_of(place, sent)]
            call.early.clear()
        for outcome in answers:
            self._answer(call.correlation_id, outcome)

    def answer(self, correlation_id: bytes, outcome: Answer, place: Provenance | None = None) -> None:
        """An outcome that was read, for the call if it is of its record. If the call had ended, it is counted as late.

        A correlation id alone is not enough: the events that ``also_to`` makes of an event have the same, and may
        become dead letters before the event's result is read.

        Args:
            correlation_id: of the call.
            outcome: the result, or what the call fails with.
            place: the position that it is an outcome of; None if that cannot be told.
        """
        with self._changed:
            call = self._open.get(correlation_id)
            if call is not None and place is not None:
                if call.sent is None:
                    call.early.append((place, outcome))
                    return
                if not _is_of(place, call.sent):
                    return
        self._answer(correlation_id, outcome)

    def _answer(self, correlation_id: bytes, outcome: Answer) -> None:
        call = self._taken(correlation_id)
        if call is not None and _end(call, outcome):
            return
        with self._changed:
            self._late += 1

    def fail(self, call: Call, error: HeadraceError) -> None:
        """The call cannot be answered, if it has not ended."""
        if self._taken(call.correlation_id) is not None:
            _end(call, _last_word(call, error))

    def fail_all(self, error: HeadraceError) -> None:
        """No call can be answered any more: neither those in flight nor later ones. The first error counts."""
        with self._changed:
            if self._failure is None:
                self._failure = error
            calls = [*self._open.values()]
            self._open.clear()
            self._deadlines.clear()
            self._changed.notify()
        for call in calls:
            _end(call, again(error))

    def _taken(self, correlation_id: bytes) -> Call | None:
        """Whoever takes a call out ends it: nobody else can."""
        with self._changed:
            return self._open.pop(correlation_id, None)

    def _watch(self) -> None:
        while True:
            with self._changed:
                if self._failure is not None:
                    return
                now = time.monotonic()
                due = []
                while self._deadlines and self._deadlines[0][0] <= now:
                    call = self._open.pop(heapq.heappop(self._deadlines)[1], None)
                    if call is not None:
                        due.append(call)
                if not due:
                    self._changed.wait(self._deadlines[0][0] - now if self._deadlines else None)
            for call in due:
                _end(call, _last_word(call, self._expired(call)))


def _is_of(place: Provenance, sent: DeliveryReport) -> bool:
    """Whether an outcome of this position is one of the record that was sent."""
    offsets = (place.offset, UNKNOWN_OFFSET)  # the broker does not say where a record is that it had already
    return (place.topic, place.partition) == (sent.topic, sent.partition) and sent.offset in offsets


def _last_word(call: Call, error: HeadraceError) -> Answer:
    """What came may be the answer after all, if the broker's confirmation never does: rather that than an error."""
    return call.early[-1][1] if call.early else error


def _end(call: Call, outcome: Answer) -> bool:
    """False if its caller has cancelled it."""
    if not call.future.set_running_or_notify_cancel():
        return False
    if isinstance(outcome, HeadraceError):
        call.future.set_exception(outcome)
    else:
        call.future.set_result(outcome)
    return True
