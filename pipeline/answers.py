"""What comes of a record: its result or its dead letter, as records to be produced."""

from __future__ import annotations

import logging

from headrace.pipeline import metrics
from headrace.pipeline.config import Settings
from headrace.pipeline.envelope import encode_dead_letter, encode_result, fit_dead_letter
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.headers import RESULT_TYPE, dead_letter_headers, result_headers, trace_of
from headrace.pipeline.journey import Journey
from headrace.pipeline.ports import Clock
from headrace.pipeline.records import DeadLetter, InferenceResult, OutputRecord, SourceRecord, Stage, Timings
from headrace.pipeline.retrying import Retry
from headrace.pipeline.setup import DEAD_LETTER_HEADROOM_BYTES, HEADERS_ALLOWANCE_BYTES, ContractIds

log = logging.getLogger(__name__)


class Answers:
    """Makes results and dead letters.

    Args:
        worker: its name, which they carry.
    """

    def __init__(self, settings: Settings, worker: str, ids: ContractIds, clock: Clock) -> None:
        self._settings = settings
        self._limit_bytes = settings.topics.max_message_bytes - HEADERS_ALLOWANCE_BYTES
        self._worker = worker
        self._ids = ids
        self._clock = clock

    def result(self, journey: Journey) -> InferenceResult:
        """The result of a journey all of whose parts are answered; of a shadow's, those that are."""
        return InferenceResult(
            request_id=journey.request.id,
            status="OK",
            outputs=tuple([output for output in journey.outputs if output is not None]),
            provenance=journey.record.provenance,
            timings=Timings(
                journey.decode_seconds * 1000, journey.waited_seconds * 1000, journey.inferred_seconds * 1000
            ),
            attempt=journey.attempts + (journey.retry.attempts if journey.retry else 0),
            worker=self._worker,
            completed_ms=self._clock.epoch_ms(),
        )

    def result_record(self, journey: Journey, result: InferenceResult, event_type: bytes = RESULT_TYPE) -> OutputRecord:
        """The record that answers.

        Args:
            journey: says where to.
            result: of it.
            event_type: its ``ce_type``.

        Raises:
            PoisonError: ``RESULT_TOO_LARGE``, or a value that does not fit its field.
        """
        topic, partition = journey.reply_to
        value = encode_result(result, self._ids.result)
        key = journey.record.key
        if len(value) + len(key or b"") > self._limit_bytes:
            raise PoisonError(
                Stage.ENCODE,
                "RESULT_TOO_LARGE",
                f"the result has {len(value)} bytes, more than the {self._limit_bytes} that fit {topic}: "
                "raise topics.max_message_bytes, or let the model return less",
            )
        headers = result_headers(
            journey.delivery,
            result.request_id,
            result.provenance,
            result.completed_ms,
            self._settings.name,
            event_type=event_type,
        )
        return OutputRecord(topic, key, value, headers, partition)

    def dead_letter(
        self,
        record: SourceRecord,
        error: PoisonError,
        request_id: str | None = None,
        route: str | None = None,
        model: str | None = None,
        attempts: int = 0,
        before: Retry | None = None,
    ) -> OutputRecord:
        """The record that says why there is no result. Never fails, whatever the record was.

        Args:
            record: as it was first.
            error: why.
            request_id: None if it could not be decoded.
            route: None if it has not been routed.
            model: of that route.
            attempts: infer attempts since it was last put off.
            before: what has become of it until then, if it was.
        """
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
            attempts=attempts + (before.attempts if before else 0),
            first_failed_ms=before.first_failed_ms if before else now_ms,
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
            record.headers,
            error.stage,
            error.code,
            record.provenance,
            now_ms,
            self._settings.name,
            request_id,
            redrives=before.redrives if before else 0,
        )
        return OutputRecord(topics.dead_letters, letter.key, value, headers)
