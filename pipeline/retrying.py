"""Delay topics: what a record carries through them, how long it waits there, and where it goes next. Pure.

A record that is put off is written, key, value and headers as they were, to the topic of its delay, with one header
more. A worker of the same group reads that topic, and takes the record up again when it is due.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from headrace.pipeline.config import Settings
from headrace.pipeline.config_base import TOPIC_PATTERN
from headrace.pipeline.config_retries import MAX_DELAYS, delay_seconds
from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.records import Headers, OutputRecord, Provenance, SourceRecord
from headrace.pipeline.wire import Poison, poison

RETRY = "headrace_retry"
"""The last header of a record in a delay topic; its value is JSON. Only there does it mean anything."""
MAX_JITTER = 1.0


@dataclass(frozen=True, slots=True)
class Retry:
    """What has become of a record so far.

    Attributes:
        topic, partition, offset, timestamp_ms: where it was first.
        number: how often it has been put off since it was sent, or last redriven.
        attempts: infer attempts, in all.
        first_failed_ms: epoch milliseconds.
        due_ms: not to be tried before; epoch milliseconds.
        stage, code: of what made it fail the last time.
        redrives: how many redrives it has behind it.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    number: int
    attempts: int
    first_failed_ms: int
    due_ms: int
    stage: str
    code: str
    redrives: int = 0

    @property
    def provenance(self) -> Provenance:
        return Provenance(self.topic, self.partition, self.offset, self.timestamp_ms)


def delay_topics(settings: Settings) -> dict[str, float]:
    """Every topic of records that a worker or a redrive has put there, and how many seconds they wait in it."""
    delays = {delay for route in settings.routes for delay in route.retries.delays}
    waiting = {settings.delay_topic(delay): delay_seconds(delay) for delay in sorted(delays, key=delay_seconds)}
    return {settings.redriven_topic: 0.0, **waiting}


def consumed_topics(settings: Settings) -> tuple[str, ...]:
    """Every topic that a worker consumes, the request topics first."""
    return (*settings.topics.requests, *delay_topics(settings))


def resumed(record: SourceRecord) -> tuple[SourceRecord, Retry]:
    """A record of a delay topic as it was first, its position included, and what has become of it since.

    Raises:
        PoisonError: ``BAD_HEADER``: it is none that a worker has put there.
    """
    name, value = record.headers[-1] if record.headers else ("", None)
    if name != RETRY:
        raise poison(
            Poison.BAD_HEADER,
            f"its last header is not {RETRY}: nobody but workers may write to {record.provenance.topic}",
        )
    retry = _decoded(value)
    return replace(record, provenance=retry.provenance, headers=record.headers[:-1]), retry


def wait_seconds(record: SourceRecord, now_ms: int, delays: Mapping[str, float]) -> float:
    """How long a record is not to be touched yet; 0 if it is due, or is of no delay topic.

    Never longer than the longest that its topic lets records wait, nor than was left of that when it was written, by
    the clock of who wrote it: a wall clock that jumps or is behind must not hold it for days.
    """
    delay = delays.get(record.provenance.topic)
    if delay is None:
        return 0.0
    try:
        due_ms = resumed(record)[1].due_ms
    except PoisonError:
        return 0.0
    # The record's own timestamp is of the same clock as due_ms: no reader's clock has a part in their difference.
    left_ms = min(due_ms - now_ms, due_ms - record.provenance.timestamp_ms)
    return min(max(0.0, left_ms / 1000), delay * (1 + MAX_JITTER))


def put_off(
    record: SourceRecord,
    error: PoisonError,
    route: RouteSettings,
    settings: Settings,
    *,
    before: Retry | None,
    attempts: int,
    deadline_ms: int | None,
    now_ms: int,
    chance: float,
) -> OutputRecord | None:
    """The record for its next delay topic; None if there is none, or it would come back after its deadline.

    Args:
        record: as it was first (see ``resumed``).
        error: that it failed with now.
        route: whose delays.
        settings: name the topics.
        before: what has become of it until now; None if it has not been put off.
        attempts: infer attempts this time.
        deadline_ms: epoch milliseconds; None if it has none.
        now_ms: epoch milliseconds.
        chance: a random number in [0, 1), for the jitter.
    """
    number = before.number if before else 0
    if number >= len(route.retries.delays):
        return None
    delay = route.retries.delays[number]
    due_ms = now_ms + round(1000 * delay_seconds(delay) * (1 + route.retries.jitter * chance))
    if deadline_ms is not None and due_ms > deadline_ms:
        return None
    origin = record.provenance
    retry = Retry(
        *(origin.topic, origin.partition, origin.offset, origin.timestamp_ms),
        number=number + 1,
        attempts=attempts + (before.attempts if before else 0),
        first_failed_ms=before.first_failed_ms if before else now_ms,
        due_ms=due_ms,
        stage=error.stage,
        code=error.code,
        redrives=before.redrives if before else 0,
    )
    return OutputRecord(settings.delay_topic(delay), record.key, record.value, with_retry(record.headers, retry))


def with_retry(headers: Headers, retry: Retry) -> Headers:
    """The headers of a record that is put off."""
    return (*headers, (RETRY, json.dumps(asdict(retry), separators=(",", ":")).encode()))


def _decoded(value: bytes | None) -> Retry:
    try:
        found = json.loads(value or b"")
        fields: dict[str, Any] = {name: _number(found[name], allowed) for name, allowed in _NUMBERS.items()}
        return Retry(topic=_topic(found["topic"]), stage=_text(found["stage"]), code=_text(found["code"]), **fields)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise poison(Poison.BAD_HEADER, f"header {RETRY} is not one that a worker has written: {error!r}") from error


_NUMBERS = {
    "partition": range(2**31),
    "offset": range(2**63),
    "timestamp_ms": range(-1, 2**63),  # -1: the record has none
    "number": range(MAX_DELAYS + 1),
    "attempts": range(2**30),  # more are added, and the sum must fit the 32 bits of a result and a dead letter
    "first_failed_ms": range(2**63),
    "due_ms": range(2**63),
    "redrives": range(2**63),
}
"""What may stand in a header: whatever else did would fail where nobody expects it, and take the worker along."""


def _number(found: object, allowed: range) -> int:
    if type(found) is not int or found not in allowed:  # not True either, nor 1.0
        raise ValueError(f"{str(found)[:20]} is no number from {allowed.start} to {allowed.stop - 1}")
    return found


def _text(found: object) -> str:
    if not isinstance(found, str):
        raise TypeError(f"{type(found).__name__} where a text belongs")
    return found


def _topic(found: object) -> str:
    topic = _text(found)
    if not re.fullmatch(TOPIC_PATTERN, topic) or topic in (".", ".."):
        raise ValueError(f"no topic has the name {topic[:20]!r}")
    return topic
