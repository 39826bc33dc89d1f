"""Events: parts, what they are about, and how their outcome is to come back."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypedDict, Unpack

from headrace.pipeline.compose import named_apart
from headrace.pipeline.envelope import encode_request
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.headers import (
    CORRELATION_ID,
    DEADLINE,
    DEFAULT_PRIORITY,
    HOPS,
    PRIORITY,
    REPLY_PARTITION,
    REPLY_TOPIC,
    TRACEPARENT,
    TRACESTATE,
    Delivery,
    TraceContext,
    delivery_of,
    random_trace,
    request_headers,
    trace_of,
)
from headrace.pipeline.records import Headers, InferenceRequest, Parameter
from headrace.sdk.errors import InvalidEventError, check_known
from headrace.sdk.parts import PartLike, part_of

DEFAULT_TYPE = "headrace.sdk"
DEFAULT_SOURCE = "headrace/sdk"

_OURS = frozenset(
    {CORRELATION_ID, REPLY_TOPIC, REPLY_PARTITION, DEADLINE, PRIORITY, HOPS, TRACEPARENT, TRACESTATE, "content-type"}
)
_CLOUD_EVENTS = "ce_"
_INT64 = range(-(2**63), 2**63)


class EventOptions(TypedDict, total=False):
    """What may be said of an event, beside its parts.

    ``type`` and ``source`` are what routes can match; ``subject`` is what the event is about within its source.
    ``parameters`` go to the model. ``model`` and ``model_version`` choose it; by default the routes do. Results of one
    ``key`` (text is sent as UTF-8) come in order. ``headers`` are the sender's own. ``id`` is a UUID, new by default:
    the same id means the same event. ``session`` names the conversation that the event belongs to. ``time_ms`` is when
    it happened, in milliseconds since 1970 (UTC); default now. ``priority`` goes from 0 (last) to 9 (first), default
    4. ``traceparent`` and ``tracestate`` are W3C trace context; default: a new trace.
    """

    type: str
    source: str
    subject: str | None
    parameters: Mapping[str, Parameter]
    model: str | None
    model_version: str | None
    key: str | bytes | None
    headers: Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes | None]]
    id: str | uuid.UUID
    session: str | None
    time_ms: int
    priority: int
    traceparent: str
    tracestate: str


@dataclass(frozen=True, slots=True)
class Event:
    """A request that was checked as a worker would check it, and how its record is to be written."""

    request: InferenceRequest
    key: bytes | None
    headers: Headers
    """All of them: CloudEvents, those that say how to answer, and the sender's own."""

    @property
    def id(self) -> str:
        """The request's UUID."""
        return self.request.id


def event(
    *parts: PartLike,
    deadline_seconds: float | None = None,
    correlation_id: str | bytes | None = None,
    reply_topic: str | None = None,
    reply_partition: int | None = None,
    **options: Unpack[EventOptions],
) -> Event:
    """An event, ready to be sent.

    Args:
        parts: one or more. Of parts with the same name the second becomes ``name-2`` and so on.
        deadline_seconds: how long from now it is worth an answer; then workers refuse it.
        correlation_id: comes back with its outcome; default its id. At most 1,024 bytes.
        reply_topic: where its result is to go, if its route allows that.
        reply_partition: of that topic.
        options: see `EventOptions`.

    Raises:
        InvalidEventError: a ValueError: no worker would take this.
        OSError: a part's file cannot be read.
        TypeError: for an option that is none.
    """
    check_known(options, EventOptions)
    deadline_ms = _deadline_ms(deadline_seconds)  # before files are read: who asks waits for that too
    request = _request(parts, options)
    try:
        encode_request(request, 0)
    except PoisonError as error:
        raise InvalidEventError(error.message) from error
    ours = request_headers(
        request,
        Delivery(
            correlation_id=_bytes("correlation_id", correlation_id),
            reply_topic=reply_topic,
            reply_partition=reply_partition,
            deadline_ms=deadline_ms,
            priority=options.get("priority", DEFAULT_PRIORITY),
            trace=_trace(options),
        ),
    )
    try:
        delivery_of(ours)
    except PoisonError as error:
        raise InvalidEventError(error.message) from error
    return Event(request, _bytes("key", options.get("key")), (*ours, *_own_headers(options)))


def _request(parts: tuple[PartLike, ...], options: EventOptions) -> InferenceRequest:
    model, version, own_id = options.get("model"), options.get("model_version"), options.get("id")
    if version and model is None:
        raise InvalidEventError(f"model_version {version!r} without a model: name the model too, or neither")
    return InferenceRequest(
        id=str(uuid.uuid4() if own_id is None else own_id),
        type=options.get("type", DEFAULT_TYPE),
        source=options.get("source", DEFAULT_SOURCE),
        time_ms=options.get("time_ms", _now_ms()),
        parts=named_apart([part_of(part) for part in parts]),
        subject=options.get("subject"),
        parameters=_parameters(options.get("parameters", {})),
        model=model,
        model_version=version,
        session=options.get("session"),
    )


def _parameters(given: Mapping[str, Parameter]) -> dict[str, Parameter]:
    for name, value in given.items():
        if not isinstance(value, str | int | float):
            raise InvalidEventError(
                f"parameter {name} is of type {type(value).__name__}: text, numbers and booleans are allowed"
            )
        if isinstance(value, int) and value not in _INT64:
            raise InvalidEventError(f"parameter {name} is beyond 64 bits: {value}")
    return dict(given)


def _deadline_ms(seconds: float | None) -> int | None:
    if seconds is None:
        return None
    if not math.isfinite(seconds):
        raise InvalidEventError(f"deadline_seconds is {seconds}: give seconds from now, or None for none")
    return _now_ms() + round(seconds * 1000)


def _trace(options: EventOptions) -> TraceContext:
    if (parent := options.get("traceparent")) is None:
        return random_trace()
    state = options.get("tracestate")
    trace = trace_of(((TRACEPARENT, _bytes(TRACEPARENT, parent)), (TRACESTATE, _bytes(TRACESTATE, state))))
    if trace is None:
        raise InvalidEventError(f"traceparent {parent!r} is none as W3C trace context has it: 00-<32>-<16>-<2 digits>")
    return trace


def _own_headers(options: EventOptions) -> Headers:
    given = options.get("headers", ())
    pairs = given.items() if isinstance(given, Mapping) else given
    headers = tuple((name, _bytes(f"header {name!r}", value)) for name, value in pairs)
    for name, _ in headers:
        _bytes("a header's name", name)
        if name in _OURS or name.startswith(_CLOUD_EVENTS):
            raise InvalidEventError(f"header {name} is headrace's own: say it by the argument of that name, or not")
    return headers


def _bytes(what: str, value: str | bytes | None) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise InvalidEventError(f"{what} is text or bytes, not of type {type(value).__name__}")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise InvalidEventError(f"{what} is not Unicode text: {error.reason}") from error


def _now_ms() -> int:
    return round(time.time() * 1000)
