"""The journey of a record, top to bottom: decode → route → admit → (infer, see ``dispatch``) → encode → complete.

User code (see ``user_code``) comes between decode and route, and between infer and encode.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from headrace.pipeline import metrics
from headrace.pipeline.admission import check_deadline, deadline_ms
from headrace.pipeline.also_to import Answered, also_outputs
from headrace.pipeline.answers import Answers
from headrace.pipeline.config import Settings
from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.duplicates import Duplicates
from headrace.pipeline.emit import Emitter
from headrace.pipeline.envelope import RequestDecoder
from headrace.pipeline.errors import ExhaustedError, PoisonError
from headrace.pipeline.flow import Flow, RecordRef
from headrace.pipeline.headers import Delivery, delivery_of
from headrace.pipeline.idempotency import Arrival
from headrace.pipeline.journey import Decoded, Journey, PartTask
from headrace.pipeline.ordering import Completion
from headrace.pipeline.ports import Clock
from headrace.pipeline.records import (
    InferenceResult,
    OutputRecord,
    PartOutput,
    RecordBatch,
    SourceRecord,
    Stage,
)
from headrace.pipeline.replay.rules import ReplayRules
from headrace.pipeline.retrying import Retry, delay_topics, put_off, resumed
from headrace.pipeline.routing import Assignment, Router, lanes_of, reply_topic
from headrace.pipeline.setup import ContractIds
from headrace.pipeline.shadow import Shadows
from headrace.pipeline.turns import Turn
from headrace.pipeline.user_code import CONCURRENT_HOOKS, Record, UserCode
from headrace.pipeline.wire import Poison, poison

log = logging.getLogger(__name__)


class Processor:
    """Turns record batches into part tasks, and finished journeys into the outputs of a transaction.

    Args:
        worker: its name, for results and dead letters.
        ids: of the contracts' schemas.
        partitions: of each topic that is written to, to check what a record asks for against.
        user_code: what user modules have added.
        rules: of a replay, if this is one.
        shadows: of the routes, if any has one.
        duplicates: knows them, if a route has idempotency.
    """

    def __init__(
        self,
        settings: Settings,
        worker: str,
        decoder: RequestDecoder,
        ids: ContractIds,
        partitions: Mapping[str, int],
        flow: Flow,
        clock: Clock,
        user_code: UserCode,
        rules: ReplayRules | None = None,
        shadows: Shadows | None = None,
        duplicates: Duplicates | None = None,
    ) -> None:
        self._settings = settings
        self._rules = rules
        self._decoder = decoder
        self._partitions = partitions
        self._flow = flow
        self._shadows = shadows
        self._duplicates = duplicates
        self._complete = flow.complete if shadows is None else shadows.complete
        self._clock = clock
        self._user_code = user_code
        self._router = Router(settings.routes)
        self._routes = {route.name: route for route in settings.routes}
        self._answers = Answers(settings, worker, ids, clock)
        self._results = {route.name: metrics.RESULTS.labels(route.name) for route in settings.routes}
        self._emitter = Emitter(settings, ids, partitions)
        self._delays = delay_topics(settings)
        self._following: set[asyncio.Task[None]] = set()

    # --- in: decode → (user code) → route → admit

    async def open_batch(self, batch: RecordBatch) -> dict[str, list[PartTask]]:
        """Tasks by route for the records of a batch, in offset order. What fails on the way is completed at once.

        The batch's writer schemas must be known to the decoder (see ``envelope.RequestDecoder.missing``). The batches
        of a partition must be opened one after the other: this gives way between records. If the partition goes
        meanwhile, the rest is dropped where any work for an earlier assignment is.
        """
        decoded: list[Decoded] = []
        turn = Turn(self._clock)
        for consumed in batch.records:
            ref = RecordRef(batch.partition, batch.generation, consumed.provenance.offset)
            record, retry = consumed, None
            try:
                if batch.partition.topic in self._delays:
                    record, retry = resumed(consumed)
                decoded.append(self._decode(ref, record, retry))
            except Exception as error:  # noqa: BLE001 - becomes the record's outcome
                self._refuse(ref, record, error, retry)
            if turn.is_over:
                await turn.give_way()
        if self._user_code.before:
            await self._run_hooks(decoded)
            decoded = [each for each in decoded if each.hooked and self._flow.holds(each.ref)]
        tasks: dict[str, list[PartTask]] = {}
        turn = Turn(self._clock)
        for each in decoded:
            try:
                opened = self._open(each)
            except Exception as error:  # noqa: BLE001 - becomes the record's outcome
                self._refuse(each.ref, each.record, error, each.retry, each.request.id)
            else:
                for task in opened:
                    tasks.setdefault(task.route, []).append(task)
            if turn.is_over:
                await turn.give_way()
        return tasks

    def _refuse(
        self,
        ref: RecordRef,
        record: SourceRecord,
        error: Exception,
        retry: Retry | None,
        request_id: str | None = None,
    ) -> None:
        if not isinstance(error, PoisonError):
            log.error("%s[%d]@%d could not be opened", *ref.partition, ref.offset, exc_info=error)
            error = PoisonError(Stage.DECODE, "UNEXPECTED", f"{type(error).__name__}: {error}"[:1000])
        self._complete(ref, [self._answers.dead_letter(record, error, request_id, before=retry)])
        error.__traceback__ = None  # it holds the frames that hold the record, and one of those may hold the error

    def _decode(self, ref: RecordRef, record: SourceRecord, retry: Retry | None) -> Decoded:
        began = self._clock.monotonic()
        if not record.headers_readable:
            raise poison(Poison.BAD_HEADER, "a header's name is not UTF-8 text, so none of its headers can be read")
        request = self._decoder.decode(record.value)
        view = None if self._user_code.empty else Record(record, request, self._emitter)
        return Decoded(ref, record, request, self._clock.monotonic() - began, retry, view)

    async def _run_hooks(self, decoded: Sequence[Decoded]) -> None:
        """The ``before`` hooks: for many records at once if they wait for something, else one after the other."""
        if self._user_code.waits:
            free = asyncio.Semaphore(CONCURRENT_HOOKS)

            async def run(each: Decoded) -> None:
                async with free:
                    await self._run_hooks_for(each)

            await asyncio.gather(*(run(each) for each in decoded))
            return
        turn = Turn(self._clock)
        for each in decoded:
            await self._run_hooks_for(each)
            if turn.is_over:
                await turn.give_way()

    async def _run_hooks_for(self, each: Decoded) -> None:
        assert each.view is not None
        if not self._flow.wants(each.ref.partition, each.ref.generation):
            return
        each.hooked = True
        try:
            await self._user_code.prepare(each.view)
        except PoisonError as error:
            each.rejected = error.with_traceback(None)
        each.request = each.view.request

    def _open(self, decoded: Decoded) -> list[PartTask]:
        if decoded.rejected and not isinstance(decoded.rejected, ExhaustedError):
            raise decoded.rejected
        began = self._clock.monotonic()
        record = decoded.record
        delivery = delivery_of(record.headers)
        plan = self._router.plan(decoded.request, record.headers, record.provenance.topic)
        if self._rules is not None:
            decoded.request, plan = self._rules.apply(decoded.request, plan)
            if not plan:
                self._complete(decoded.ref, [])
                return []
            delivery = replace(delivery, deadline_ms=None)
        decoded.decode_seconds += self._clock.monotonic() - began
        arrival = Arrival.FIRST
        if self._duplicates is not None and decoded.retry is None and not delivery.is_call:
            resume = partial(self._resume, decoded, delivery, plan)
            arrival = self._duplicates.arrive(decoded.ref, record, decoded.request.id, plan[0].route, resume)
        if arrival is Arrival.PARKED:
            self._flow.enter(decoded.ref, lanes_of(record, plan))  # in offset order, whenever it is resumed
        if self._shadows is not None and arrival is not Arrival.FIRST:
            self._shadows.make_room()  # what fills the worker may be parked behind one that waits for its shadow
        return self._begin(decoded, delivery, plan) if arrival is Arrival.FIRST else []

    def _resume(self, decoded: Decoded, delivery: Delivery, plan: tuple[Assignment, ...]) -> list[PartTask]:
        """A record that was parked is no duplicate after all."""
        try:
            return self._begin(decoded, delivery, plan, entered=True)
        except Exception as error:  # noqa: BLE001 - becomes the record's outcome
            self._refuse(decoded.ref, decoded.record, error, None, decoded.request.id)
            return []

    def _begin(
        self, decoded: Decoded, delivery: Delivery, plan: tuple[Assignment, ...], entered: bool = False
    ) -> list[PartTask]:
        """``entered`` says that it is in its order lanes already."""
        record, lead = decoded.record, plan[0].route
        if isinstance(decoded.rejected, ExhaustedError):
            self._give_up(decoded, lead, delivery, decoded.rejected)
            return []
        journey = Journey(
            ref=decoded.ref,
            record=record,
            request=decoded.request,
            delivery=delivery,
            lead=lead,
            reply_to=self._reply_to(lead, delivery),
            decode_seconds=decoded.decode_seconds,
            outputs=[None] * len(plan),
            view=decoded.view,
            retry=decoded.retry,
        )
        tasks = [self._admit(journey, assignment) for assignment in plan]
        if not entered:
            self._flow.enter(decoded.ref, lanes_of(record, plan))
        if self._shadows is not None:
            self._shadows.begin(journey, plan, tasks)
        return tasks

    def _give_up(self, decoded: Decoded, lead: RouteSettings, delivery: Delivery, error: ExhaustedError) -> None:
        """A ``before`` hook has failed, for now: as often as the route of the event's first part says, it may again."""
        record, retry = decoded.record, decoded.retry
        deadline = deadline_ms(delivery.deadline_ms, record.provenance.timestamp_ms, lead)
        self._end(
            decoded.ref,
            self._put_off(record, error, lead, retry, 0, deadline),
            lambda: self._answers.dead_letter(record, error, decoded.request.id, lead.name, before=retry),
        )

    def _admit(self, journey: Journey, assignment: Assignment) -> PartTask:
        deadline = deadline_ms(journey.delivery.deadline_ms, journey.record.provenance.timestamp_ms, assignment.route)
        check_deadline(deadline, self._clock.epoch_ms())
        route = assignment.route
        return PartTask(journey, assignment.part_index, assignment.model, assignment.version, route.name, deadline)

    def _reply_to(self, route: RouteSettings, delivery: Delivery) -> tuple[str, int | None]:
        """Topic and partition of the result. The partition that a record asks for goes with the topic it asks for."""
        topic = reply_topic(route, delivery.reply_topic, self._settings.topics.results)
        wanted = delivery.reply_partition if topic == delivery.reply_topic else None
        if wanted is not None and wanted >= self._partitions[topic]:
            raise PoisonError(
                Stage.ROUTE,
                "BAD_HEADER",
                f"header reply_partition is {wanted}, but {topic} has partitions 0 to {self._partitions[topic] - 1}",
            )
        return topic, wanted

    # --- out: encode → complete

    def finish(self, task: PartTask, outcome: PartOutput | PoisonError) -> None:
        """One part's outcome. The journey ends when all its parts are answered, or with the first that fails."""
        journey = task.journey
        if journey.ended:
            return  # another part has failed: this event is a dead letter already
        if isinstance(outcome, PoisonError):
            self._fail(task, outcome)
            return
        journey.note(task, outcome)
        if task.index == 0:
            journey.first = task
        if None not in journey.outputs:
            first, journey.first = journey.first, None
            assert first is not None
            self._succeed(first)  # not the part that happened to be the last: what follows is the lead's

    def _succeed(self, task: PartTask) -> None:
        journey = task.journey
        journey.ended = True
        result = self._answers.result(journey)
        if journey.view is None or not self._user_code.follows(journey.lead.name):
            self._answer(task, result)
            return
        journey.view.answered(result)
        if not self._flow.hold(journey.ref):
            return
        following = asyncio.create_task(self._follow(task, journey.view), name=f"user code {journey.lead.name}")
        self._following.add(following)
        following.add_done_callback(self._following.discard)

    async def _follow(self, task: PartTask, view: Record) -> None:
        """User code between infer and encode. A drain waits for it, as for an infer call."""
        try:
            await self._user_code.follow(view, task.journey.lead.name)
        except PoisonError as error:
            self._fail(task, error)
        except Exception as error:
            log.exception("user code of route %s", task.route)
            self._fail(task, PoisonError(Stage.USER_CODE, "UNEXPECTED", f"{type(error).__name__}: {error}"[:1000]))
        else:
            assert view.result is not None
            self._answer(task, view.result)
        finally:
            self._flow.end_call(task.journey.ref)

    def _answer(self, task: PartTask, result: InferenceResult) -> None:
        journey = task.journey
        try:
            outputs = [self._answers.result_record(journey, result)]
            if journey.lead.also_to and self._rules is None:
                answered = Answered(journey.record, journey.request, journey.delivery, result)
                outputs += also_outputs(journey.lead, answered, self._emitter, self._settings.name)
        except PoisonError as error:
            self._fail(task, error)
            return
        except Exception as error:  # of what user code has made of the result
            log.exception("the result of %s[%d]@%d cannot be written", *journey.ref.partition, journey.ref.offset)
            self._fail(task, PoisonError(Stage.ENCODE, "UNEXPECTED", f"{type(error).__name__}: {error}"[:1000]))
            return
        if journey.view is not None:
            emitted = journey.view.close()
            outputs += emitted if self._rules is None else ()
        if self._duplicates is not None and (remembered := self._duplicates.remembered(journey)) is not None:
            outputs.append(remembered)
        self._results[task.route].inc()
        self._complete(journey.ref, outputs, partial(self._refused, task))

    def _refused(self, task: PartTask, place: int, reason: str) -> Completion:
        """The dead letter of an event whose result, or what goes with it, its topic does not take."""
        return Completion([self._letter(task, PoisonError(Stage.ENCODE, "RESULT_TOO_LARGE", reason))])

    def _fail(self, task: PartTask, error: PoisonError) -> None:
        journey = task.journey
        journey.ended, journey.first = True, None
        if journey.view is not None:
            journey.view.close()
        later = None
        if isinstance(error, ExhaustedError):
            route, attempts = self._routes[task.route], max(task.attempts, journey.attempts)
            later = self._put_off(journey.record, error, route, journey.retry, attempts, task.deadline_ms)
        self._end(journey.ref, later, lambda: self._letter(task, error))

    def _end(self, ref: RecordRef, later: OutputRecord | None, letter: Callable[[], OutputRecord]) -> None:
        """A record has failed: it is put off, or a dead letter."""
        if later is None:
            self._complete(ref, [letter()])
            return
        if self._shadows is not None:
            self._shadows.drop(ref)
        self._complete(ref, [later], lambda *_: Completion([letter()]))

    def _put_off(
        self,
        record: SourceRecord,
        error: ExhaustedError,
        route: RouteSettings,
        before: Retry | None,
        attempts: int,
        deadline_ms: int | None,
    ) -> OutputRecord | None:
        """The record for its next delay topic, if there is one (see ``retrying.put_off``)."""
        later = put_off(
            record,
            error,
            route,
            self._settings,
            before=before,
            attempts=attempts,
            deadline_ms=deadline_ms,
            now_ms=self._clock.epoch_ms(),
            chance=random.random(),
        )
        if later is not None:
            metrics.RETRIES.labels(route.name, later.topic).inc()
        return later

    def _letter(self, task: PartTask, error: PoisonError) -> OutputRecord:
        journey, attempts = task.journey, max(task.attempts, task.journey.attempts)
        return self._answers.dead_letter(
            journey.record, error, journey.request.id, task.route, task.model, attempts, journey.retry
        )

    async def close(self) -> None:
        """End user code that is still at work: what it was for is not committed, and will be processed again."""
        for following in self._following:
            following.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
