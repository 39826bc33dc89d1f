"""Shadows: a candidate model answers a share of live events as well, for nobody to see but who compares.

What it answers is one more record in the transaction that holds the event's result. It stands between the processor
and the flow: an event that is answered is completed when its shadow is there too, or has not come in time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from headrace.pipeline import metrics
from headrace.pipeline.answers import Answers
from headrace.pipeline.budget import Budget
from headrace.pipeline.config import Settings
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.flow import Flow, RecordRef
from headrace.pipeline.headers import SHADOW_TYPE
from headrace.pipeline.journey import Journey, PartTask
from headrace.pipeline.ordering import Completion, Instead
from headrace.pipeline.ports import Clock
from headrace.pipeline.records import OutputRecord, PartOutput, TopicPartition
from headrace.pipeline.replay.chosen import sampled
from headrace.pipeline.routing import Assignment
from headrace.pipeline.shadow_feed import MakeDispatcher, ShadowFeed

log = logging.getLogger(__name__)

BUDGET_SHARE = 4
"""Shadows have this part of what a worker may have in flight."""


@dataclass(slots=True, eq=False)
class _Shadow:
    """What candidates say of one event, while it is in flight.

    Attributes:
        journey: the event's, as far as candidates answer it.
        patience_seconds: how long the event may wait for it; of several parts' the longest.
        pending: parts that are neither answered nor given up.
        held: what live has made of the event, once it is answered.
    """

    journey: Journey
    patience_seconds: float = 0.0
    pending: set[PartTask] = field(default_factory=set)
    held: Completion | None = None
    held_at: float = 0.0
    timer: asyncio.TimerHandle | None = None


class Shadows:
    """The shadows of a worker's routes.

    Args:
        answers: makes the records.
        flow: where events are completed.
        in_flight: of the worker. While nothing more of its topic may be taken, no event waits for its shadow.
        make_dispatcher: makes each shadow's dispatcher.
    """

    def __init__(
        self,
        settings: Settings,
        answers: Answers,
        flow: Flow,
        in_flight: Budget,
        clock: Clock,
        make_dispatcher: MakeDispatcher,
    ) -> None:
        self._topic = settings.topics.shadow
        self._answers = answers
        self._flow = flow
        self._in_flight = in_flight
        self._clock = clock
        worker = settings.worker
        budget = Budget(
            max(1, worker.max_in_flight_records // BUDGET_SHARE), worker.max_in_flight_bytes // BUDGET_SHARE
        )
        self.feeds: Mapping[str, ShadowFeed] = {
            route.name: ShadowFeed(route, budget, clock, make_dispatcher, self._told)
            for route in settings.routes
            if route.shadow is not None
        }
        self._open: dict[RecordRef, _Shadow] = {}
        self._waiting: dict[RecordRef, _Shadow] = {}
        """Those of them whose event is answered."""
        flow.leaving = self._leave

    def begin(self, journey: Journey, plan: Sequence[Assignment], tasks: Sequence[PartTask]) -> None:
        """Have candidates answer the parts of an event that are to be, if it is in their sample.

        An event that names another version than the route's is not: its answer is none that a candidate would replace.

        Args:
            journey: of the event, which has just been opened.
            plan: what answers its parts live.
            tasks: the same parts, as they are answered live.
        """
        ref, event_id = journey.ref, journey.request.id
        self.make_room()
        if not self._flow.wants(ref.partition, ref.generation):
            return  # nobody would end it: its partition has gone while this batch was opened
        sample = [
            (task, assignment.route.shadow)
            for assignment, task in zip(plan, tasks, strict=True)
            if assignment.route.shadow is not None
            and assignment.version == assignment.route.version
            and sampled(event_id, assignment.route.shadow.share)
        ]
        if not sample:
            return
        shadow = _Shadow(replace(journey, reply_to=(self._topic, None), outputs=[None] * len(plan), view=None))
        for live, settings in sample:
            feed = self.feeds[live.route]
            task = PartTask(shadow.journey, live.index, feed.model, feed.version, live.route, live.deadline_ms)
            if feed.offer(task):
                shadow.pending.add(task)
                shadow.patience_seconds = max(shadow.patience_seconds, settings.patience_seconds)
            else:
                _count(live.route, "skipped")
        if shadow.pending:
            self._open[ref] = shadow

    def complete(self, ref: RecordRef, outputs: Sequence[OutputRecord], instead: Instead | None = None) -> None:
        """As ``Flow.complete``, but an event that is answered waits for its shadow as long as the settings say."""
        shadow = self._open.get(ref)
        if shadow is None:
            self._flow.complete(ref, outputs, instead)
        elif instead is None:  # a dead letter
            self.drop(ref)
            self._flow.complete(ref, outputs)
        else:
            shadow.held, shadow.held_at = Completion(outputs, instead), self._clock.monotonic()
            if shadow.pending:
                self._waiting[ref] = shadow
                loop = asyncio.get_running_loop()
                shadow.timer = loop.call_later(shadow.patience_seconds, self._end, shadow, "late", True)
            else:
                self._release(shadow)
        self.make_room()

    def drop(self, ref: RecordRef) -> None:
        """The event is put off, or a dead letter: there is nothing to compare a shadow with."""
        if shadow := self._open.get(ref):
            self._end(shadow, "dropped")

    # --- what ends a shadow's waiting

    def _told(self, task: PartTask, outcome: PartOutput | PoisonError) -> None:
        """One part's outcome."""
        journey = task.journey
        shadow = self._open.get(journey.ref)
        if shadow is None:
            return  # given up before
        shadow.pending.discard(task)
        if isinstance(outcome, PartOutput):
            journey.note(task, replace(outcome, route=task.route))
        else:
            _count(task.route, "failed")
        if not shadow.pending and shadow.held is not None:
            self._release(shadow)

    def make_room(self) -> None:
        """Of a topic of which the worker can take no more nothing waits: behind one in its order may be all of that."""
        if self._in_flight.crowded:
            for ref, shadow in tuple(self._waiting.items()):
                if self._in_flight.is_full(ref.partition.topic):
                    self._end(shadow, "late")

    def _leave(self, partitions: frozenset[TopicPartition]) -> None:
        """No drain waits for a shadow."""
        for shadow in [each for ref, each in self._open.items() if ref.partition in partitions]:
            self._end(shadow, "dropped")

    def _end(self, shadow: _Shadow, outcome: str, waited_out: bool = False) -> None:
        """Give up what is pending. An event that is answered goes with what there is of its shadow, another with none.

        ``outcome`` is that of the pending parts; ``waited_out`` says that they have had all of the event's patience.
        """
        for task in shadow.pending:
            _count(task.route, outcome)
            self.feeds[task.route].give_up(task, waited_out)
        shadow.pending.clear()
        if shadow.held is not None:
            self._release(shadow)
            return
        del self._open[shadow.journey.ref]
        for output in shadow.journey.outputs:
            if output is not None:
                _count(output.route, "dropped")

    def _release(self, shadow: _Shadow) -> None:
        held, journey = shadow.held, shadow.journey
        assert held is not None
        assert held.instead is not None
        del self._open[journey.ref]
        self._waiting.pop(journey.ref, None)
        if shadow.timer is not None:
            shadow.timer.cancel()
        metrics.SHADOW_WAITING_SECONDS.observe(self._clock.monotonic() - shadow.held_at)
        record = self._record(journey)
        if record is None:
            self._flow.complete(journey.ref, held.outputs, held.instead)
        else:
            self._flow.complete(journey.ref, [*held.outputs, record], partial(_instead, held, held.instead))

    def _record(self, journey: Journey) -> OutputRecord | None:
        """What is written of a shadow; None if that is nothing. Whatever is wrong with it costs no result."""
        routes = [output.route for output in journey.outputs if output is not None]
        if not routes:
            return None
        record, outcome = None, "failed"
        try:
            record = self._answers.result_record(journey, self._answers.result(journey), SHADOW_TYPE)
            outcome = "answered"
        except PoisonError as error:
            log.warning("%s[%d]@%d goes without its shadow: %s", *journey.ref.partition, journey.ref.offset, error)
        except Exception:
            log.exception("the shadow of %s[%d]@%d cannot be written", *journey.ref.partition, journey.ref.offset)
        for route in routes:
            _count(route, outcome)
        return record


def _instead(held: Completion, instead: Instead, place: int, reason: str) -> Completion:
    """The shadow, which is last, is left out if its topic refuses it; else what would be without one."""
    if place < len(held.outputs):
        return instead(place, reason)
    log.warning("an event goes without its shadow: %s", reason)
    return held


def _count(route: str, outcome: str) -> None:
    metrics.SHADOW.labels(route, outcome).inc()
