"""The journey of a record, top to bottom: decode → route → admit → (infer, see ``dispatch``) → encode → complete."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from headrace.pipeline import metrics
from headrace.pipeline.admission import check_deadline, deadline_ms
from headrace.pipeline.config import Ordering, RouteSettings, Settings
from headrace.pipeline.envelope import RequestDecoder, encode_dead_letter, encode_result, fit_dead_letter
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.flow import Flow, RecordRef
from headrace.pipeline.headers import Delivery, dead_letter_headers, delivery_of, result_headers, trace_of
from headrace.pipeline.journey import Journey, PartTask
from headrace.pipeline.ordering import Lane
from headrace.pipeline.ports import Clock
from headrace.pipeline.records import (
    DeadLetter,
    InferenceResult,
    OutputRecord,
    PartOutput,
    RecordBatch,
    SourceRecord,
    Stage,
    Timings,
)
from headrace.pipeline.routing import Assignment, Router, reply_topic
from headrace.pipeline.setup import DEAD_LETTER_HEADROOM_BYTES, ContractIds
from headrace.pipeline.turns import give_way
from headrace.pipeline.wire import Poison, poison

log = logging.getLogger(__name__)

HEADERS_ALLOWANCE_BYTES = 64 * 1024
"""Room left for key and headers beside a value, under a topic's ``max.message.bytes``."""


class Processor:
    """Turns record batches into part tasks, and finished journeys into the outputs of a transaction.

    Args:
        partitions: of each topic that results may go to, to check the ``reply_partition`` header against.
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
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._decoder = decoder
        self._ids = ids
        self._partitions = partitions
        self._flow = flow
        self._clock = clock
        self._router = Router(settings.routes)

    # --- in: decode → route → admit

    async def open_batch(self, batch: RecordBatch) -> dict[str, list[PartTask]]:
        """Tasks by route for the records of a batch, in offset order. What fails on the way is completed at once.

        The batch's writer schemas must be known to the decoder (see ``envelope.RequestDecoder.missing``). The batches
        of a partition must be opened one after the other: this gives way between records. If the partition goes
        meanwhile, the rest is dropped where any work for an earlier assignment is.
        """
        tasks: dict[str, list[PartTask]] = {}
        turn_began = self._clock.monotonic()
        for record in batch.records:
            for task in self._open_or_complete(batch, record):
                tasks.setdefault(task.route, []).append(task)
            turn_began = await give_way(self._clock, turn_began)
        return tasks

    def _open_or_complete(self, batch: RecordBatch, record: SourceRecord) -> list[PartTask]:
        ref = RecordRef(batch.partition, batch.generation, record.provenance.offset)
        try:
            return self._open(ref, record)
        except PoisonError as error:
            self._flow.complete(ref, [self._dead_letter(record, error)])
        except Exception as error:
            log.exception("%s[%d]@%d could not be opened", *batch.partition, ref.offset)
            poison = PoisonError(Stage.DECODE, "UNEXPECTED", f"{type(error).__name__}: {error}"[:1000])
            self._flow.complete(ref, [self._dead_letter(record, poison)])
        return []

    def _open(self, ref: RecordRef, record: SourceRecord) -> list[PartTask]:
        began = self._clock.monotonic()
        if not record.headers_readable:
            raise poison(Poison.BAD_HEADER, "a header's name is not UTF-8 text, so none of its headers can be read")
        request = self._decoder.decode(record.value)
        try:
            delivery = delivery_of(record.headers)
            plan = self._router.plan(request, record.headers)
            journey = Journey(
                ref,
                record,
                request,
                delivery,
                self._reply_to(plan[0].route, delivery),
                self._clock.monotonic() - began,
                [None] * len(plan),
            )
            tasks = [self._admit(journey, assignment) for assignment in plan]
        except PoisonError as error:
            self._flow.complete(ref, [self._dead_letter(record, error, request_id=request.id)])
            return []
        self._flow.enter(ref, list(_lanes(record, plan)))
        return tasks

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
        journey.outputs[task.index] = outcome
        journey.waited_seconds = max(journey.waited_seconds, task.waited_seconds)
        journey.inferred_seconds = max(journey.inferred_seconds, task.inferred_seconds)
        journey.attempts = max(journey.attempts, task.attempts)
        if None not in journey.outputs:
            self._succeed(task)

    def _succeed(self, task: PartTask) -> None:
        journey = task.journey
        try:
            output = self._result(journey)
        except PoisonError as error:
            self._fail(task, error)
            return
        journey.ended = True
        metrics.RESULTS.labels(task.route).inc()
        self._flow.complete(journey.ref, [output])

    def _fail(self, task: PartTask, error: PoisonError) -> None:
        journey = task.journey
        journey.ended = True
        letter = self._dead_letter(
            journey.record, error, journey.request.id, task.route, task.model, attempts=task.attempts
        )
        self._flow.complete(journey.ref, [letter])

    def _result(self, journey: Journey) -> OutputRecord:
        completed_ms = self._clock.epoch_ms()
        result = InferenceResult(
            request_id=journey.request.id,
            status="OK",
            outputs=tuple(output for output in journey.outputs if output is not None),
            provenance=journey.record.provenance,
            timings=Timings(
                journey.decode_seconds * 1000, journey.waited_seconds * 1000, journey.inferred_seconds * 1000
            ),
            attempt=journey.attempts,
            worker=self._worker,
            completed_ms=completed_ms,
        )
        topic, partition = journey.reply_to
        value = encode_result(result, self._ids.result)
        key = journey.record.key
        limit = self._settings.topics.max_message_bytes - HEADERS_ALLOWANCE_BYTES
        if len(value) + len(key or b"") > limit:
            raise PoisonError(
                Stage.ENCODE,
                "RESULT_TOO_LARGE",
                f"the result has {len(value)} bytes, more than the {limit} that fit {topic}: "
                "raise topics.max_message_bytes, or let the model return less",
            )
        headers = result_headers(
            journey.delivery, result.request_id, result.provenance, completed_ms, self._settings.name
        )
        return OutputRecord(topic, key, value, headers, partition)

    def _dead_letter(
        self,
        record: SourceRecord,
        error: PoisonError,
        request_id: str | None = None,
        route: str | None = None,
        model: str | None = None,
        attempts: int = 0,
    ) -> OutputRecord:
        now_ms = self._clock.epoch_ms()
        trace = trace_of(record.headers)
        topics = self._settings.topics
        limit = topics.max_message_bytes + DEAD_LETTER_HEADROOM_BYTES - HEADERS_ALLOWANCE_BYTES
        whole = DeadLetter(
            key=record.key,
            value=record.value,
            headers=record.headers,
            provenance=record.provenance,
            stage=error.stage,
            code=error.code,
            message=error.message,
            attempts=attempts,
            first_failed_ms=now_ms,
            last_failed_ms=now_ms,
            worker=self._worker,
            request_id=request_id,
            route=route,
            model=model,
            trace_id=trace.trace_id if trace else None,
        )
        letter = fit_dead_letter(whole, limit)
        value = encode_dead_letter(letter, self._ids.dead_letter)
        metrics.DEAD_LETTERS.labels(error.stage, error.code).inc()
        log.warning(
            "dead letter %s[%d]@%d: %s at %s: %s",
            record.provenance.topic,
            record.provenance.partition,
            record.provenance.offset,
            error.code,
            error.stage,
            error.message,
        )
        headers = dead_letter_headers(
            record.headers, error.stage, error.code, record.provenance, now_ms, self._settings.name, request_id
        )
        return OutputRecord(topics.dead_letters, letter.key, value, headers)


def _lanes(record: SourceRecord, plan: tuple[Assignment, ...]) -> Iterable[Lane]:
    """What this record's completion must stay in order with, for each route it takes. No key, no order by key."""
    for assignment in plan:
        route = assignment.route
        if route.ordering is Ordering.PARTITION:
            yield route.name
        elif route.ordering is Ordering.KEY and record.key is not None:
            yield route.name, record.key
