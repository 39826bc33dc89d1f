"""Record headers: CloudEvents (Kafka binding, binary mode), W3C trace context, and how and by when to answer.

Of a header that stands more than once the last counts, as Java's ``lastHeader`` has it; one without a value counts
as absent. Everything here is pure, and total over whatever bytes the headers hold.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from headrace.pipeline.light import light_dataclass
from headrace.pipeline.records import Headers, InferenceRequest, Provenance
from headrace.pipeline.wire import Poison, poison

SPEC_VERSION = b"1.0"
CONTENT_TYPE = b"application/avro"
JSON_CONTENT_TYPE = b"application/json"
RESULT_TYPE = b"io.headrace.result"
SHADOW_TYPE = b"io.headrace.shadow"
DEAD_LETTER_TYPE = b"io.headrace.dead_letter"

CORRELATION_ID = "correlation_id"
REPLY_TOPIC = "reply_topic"
REPLY_PARTITION = "reply_partition"
DEADLINE = "deadline"
PRIORITY = "priority"
HOPS = "hops"
TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
DEAD_LETTER_STAGE = "dead_letter_stage"
DEAD_LETTER_CODE = "dead_letter_code"
DEAD_LETTER_REDRIVES = "dead_letter_redrives"

DEFAULT_PRIORITY = 4  # of 0 (last) to 9 (first), as in JMS
MAX_CORRELATION_ID_BYTES = 1024
MAX_TRACESTATE_BYTES = 512  # what the W3C asks everyone to pass on at least

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL).fullmatch
_TOPIC = re.compile(rb"[A-Za-z0-9._-]{1,249}").fullmatch
_DIGITS = re.compile(rb"[0-9]{1,18}").fullmatch
_SPEC_VERSION = ("ce_specversion", SPEC_VERSION)
_CONTENT_TYPE = ("content-type", CONTENT_TYPE)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LARGEST_PARTITION = 2**31 - 1


@light_dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a trace, as hexadecimal digits: trace id (32), span id (16), flags (2)."""

    trace_id: str
    span_id: str
    flags: str
    state: bytes | None = None

    @property
    def traceparent(self) -> bytes:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}".encode()

    def child(self, new_span_id: Callable[[], str]) -> TraceContext:
        """The same trace, one span further."""
        return TraceContext(self.trace_id, new_span_id(), self.flags, self.state)


@light_dataclass(frozen=True, slots=True)
class Delivery:
    """What a request's headers ask for. ``deadline_ms`` is epoch milliseconds; ``priority`` 0 (last) to 9 (first).

    ``hops`` is how many stages it has gone through (see ``also_to``).
    """

    correlation_id: bytes | None = None
    reply_topic: str | None = None
    reply_partition: int | None = None
    deadline_ms: int | None = None
    priority: int = DEFAULT_PRIORITY
    trace: TraceContext | None = None
    hops: int = 0

    @property
    def is_call(self) -> bool:
        """Whether it says where to answer, and so that somebody waits there."""
        return self.reply_topic is not None or self.reply_partition is not None


_NOTHING_ASKED = Delivery()


def random_span_id() -> str:
    return f"{random.getrandbits(64) or 1:016x}"


def random_trace() -> TraceContext:
    """The start of a new, sampled trace."""
    return TraceContext(f"{random.getrandbits(128) or 1:032x}", random_span_id(), "01")


def trace_of(headers: Headers) -> TraceContext | None:
    """The trace that a record belongs to; None without a valid ``traceparent``, which the W3C says to ignore."""
    return _trace(dict(headers))


def delivery_of(headers: Headers) -> Delivery:
    """Reads a request's headers.

    Raises:
        PoisonError: ``BAD_HEADER`` if one of ours is malformed.
    """
    if not headers:
        return _NOTHING_ASKED
    found = dict(headers)
    return Delivery(
        correlation_id=_correlation_id(found),
        reply_topic=_reply_topic(found),
        reply_partition=_integer(found, REPLY_PARTITION, _LARGEST_PARTITION),
        deadline_ms=_integer(found, DEADLINE, None),
        priority=DEFAULT_PRIORITY if (priority := _integer(found, PRIORITY, 9)) is None else priority,
        trace=_trace(found),
        hops=_integer(found, HOPS, None) or 0,
    )


def next_delivery(delivery: Delivery, request_id: str, new_span_id: Callable[[], str] = random_span_id) -> Delivery:
    """What an event made of another's outcome asks for: the same, but no reply to the first event's sender."""
    return Delivery(
        correlation_id=delivery.correlation_id or request_id.encode(),
        deadline_ms=delivery.deadline_ms,
        priority=delivery.priority,
        trace=delivery.trace and delivery.trace.child(new_span_id),
        hops=delivery.hops + 1,
    )


def request_headers(request: InferenceRequest, delivery: Delivery | None = None) -> Headers:
    """The headers that a sender gives a request."""
    asked = delivery or Delivery()
    optional: tuple[tuple[str, str | int | bytes | None], ...] = (
        ("ce_subject", request.subject),
        (CORRELATION_ID, asked.correlation_id),
        (REPLY_TOPIC, asked.reply_topic),
        (REPLY_PARTITION, asked.reply_partition),
        (DEADLINE, asked.deadline_ms),
        (PRIORITY, None if asked.priority == DEFAULT_PRIORITY else asked.priority),
        (HOPS, asked.hops or None),
    )
    return (
        *_event(request.id, request.type.encode(), request.source, request.time_ms),
        *((name, _bytes(value)) for name, value in optional if value is not None),
        *_trace_headers(asked.trace),
    )


def result_headers(
    delivery: Delivery,
    request_id: str,
    provenance: Provenance,
    completed_ms: int,
    source: str,
    new_span_id: Callable[[], str] = random_span_id,
    event_type: bytes = RESULT_TYPE,
) -> Headers:
    """The headers of a result: the request's trace, one span further, and its correlation id (default: its id).

    Args:
        delivery: what the request's headers asked for.
        request_id: the request's id.
        provenance: the request's position. ``ce_id`` is made of it, so that it is the same if the request is replayed.
        completed_ms: epoch milliseconds.
        source: ``ce_source``: the pipeline that answers.
        new_span_id: makes the 16 hexadecimal digits of the result's span.
        event_type: ``ce_type``: ``SHADOW_TYPE`` for what a shadow answered.
    """
    return _answer_headers(
        _event(_position(provenance), event_type, source, completed_ms), delivery, request_id, new_span_id
    )


def mapped_headers(
    delivery: Delivery,
    request_id: str,
    provenance: Provenance,
    completed_ms: int,
    source: str,
    event_type: str,
    new_span_id: Callable[[], str] = random_span_id,
) -> Headers:
    """The headers of a JSON record made of a result: as the result's (see there), but for type and content type."""
    event = _event(_position(provenance), event_type.encode(errors="replace"), source, completed_ms, JSON_CONTENT_TYPE)
    return _answer_headers(event, delivery, request_id, new_span_id)


def _answer_headers(event: Headers, delivery: Delivery, request_id: str, new_span_id: Callable[[], str]) -> Headers:
    return (
        *event,
        (CORRELATION_ID, delivery.correlation_id or request_id.encode()),
        *_trace_headers(delivery.trace and delivery.trace.child(new_span_id)),
    )


def dead_letter_headers(
    headers: Headers,
    stage: str,
    code: str,
    provenance: Provenance,
    failed_ms: int,
    source: str,
    request_id: str | None = None,
    new_span_id: Callable[[], str] = random_span_id,
    redrives: int = 0,
) -> Headers:
    """A dead letter's own headers: enough to find it by correlation id or trace. Never fails.

    The record's own headers, ``headers`` here, travel untouched inside the dead letter. ``redrives`` is how many
    redrives it has behind it.
    """
    found = dict(headers)
    correlation_id = found.get(CORRELATION_ID)
    if not correlation_id or len(correlation_id) > MAX_CORRELATION_ID_BYTES:
        correlation_id = _bytes(request_id) if request_id else None
    trace = _trace(found)
    return (
        *_event(_position(provenance), DEAD_LETTER_TYPE, source, failed_ms),
        (DEAD_LETTER_STAGE, _bytes(stage)),
        (DEAD_LETTER_CODE, _bytes(code)),
        *(((DEAD_LETTER_REDRIVES, _bytes(redrives)),) if redrives else ()),
        *(((CORRELATION_ID, correlation_id),) if correlation_id else ()),
        *_trace_headers(trace and trace.child(new_span_id)),
    )


def redrives_of(headers: Headers) -> int:
    """How many redrives a dead letter has behind it, by its own headers; 0 if they do not say."""
    value = dict(headers).get(DEAD_LETTER_REDRIVES) or b""
    return int(value) if _DIGITS(value) else 0


def rfc3339(epoch_ms: int) -> str:
    """UTC with milliseconds; times outside the years 1 to 9999 become the nearest one inside."""
    clamped = min(max(epoch_ms, -62_135_596_800_000), 253_402_300_799_999)
    return (_EPOCH + timedelta(milliseconds=clamped)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _event(event_id: str, event_type: bytes, source: str, time_ms: int, content_type: bytes = CONTENT_TYPE) -> Headers:
    return (
        _SPEC_VERSION,
        ("ce_id", event_id.encode()),
        ("ce_type", event_type),
        ("ce_source", source.encode()),
        _time(time_ms),
        _CONTENT_TYPE if content_type is CONTENT_TYPE else ("content-type", content_type),
    )


@functools.lru_cache(maxsize=256)  # the records of a batch complete together
def _time(epoch_ms: int) -> tuple[str, bytes]:
    return "ce_time", rfc3339(epoch_ms).encode()


def _position(provenance: Provenance) -> str:
    return f"{provenance.topic}-{provenance.partition}-{provenance.offset}"


def _trace_headers(trace: TraceContext | None) -> Headers:
    if trace is None:
        return ()
    return ((TRACEPARENT, trace.traceparent), *(((TRACESTATE, trace.state),) if trace.state else ()))


def _bytes(value: str | int | bytes) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


def _trace(found: dict[str, bytes | None]) -> TraceContext | None:
    match = _TRACEPARENT(found.get(TRACEPARENT) or b"")
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    if not trace_id.strip(b"0") or not span_id.strip(b"0"):
        return None
    state = found.get(TRACESTATE)
    kept = state if state and len(state) <= MAX_TRACESTATE_BYTES else None
    return TraceContext(trace_id.decode(), span_id.decode(), flags.decode(), kept)


def _correlation_id(found: dict[str, bytes | None]) -> bytes | None:
    value = found.get(CORRELATION_ID)
    if value and len(value) > MAX_CORRELATION_ID_BYTES:
        raise poison(
            Poison.BAD_HEADER,
            f"header {CORRELATION_ID} has {len(value)} bytes, more than {MAX_CORRELATION_ID_BYTES}",
        )
    return value or None


def _reply_topic(found: dict[str, bytes | None]) -> str | None:
    value = found.get(REPLY_TOPIC)
    if value is None:
        return None
    if not _TOPIC(value):
        raise poison(Poison.BAD_HEADER, f"header {REPLY_TOPIC} {value[:80]!r} is no topic name")
    return value.decode()


def _integer(found: dict[str, bytes | None], name: str, largest: int | None) -> int | None:
    value = found.get(name)
    if value is None:
        return None
    number = int(value) if _DIGITS(value) else -1
    if number < 0 or (largest is not None and number > largest):
        what = f"an integer from 0 to {largest}" if largest is not None else "milliseconds since 1970"
        raise poison(Poison.BAD_HEADER, f"header {name} {value[:80]!r} is not {what}, in decimal digits")
    return number
