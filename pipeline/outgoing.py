"""Events → the value and headers of their records, checked as a worker would check them."""

from __future__ import annotations

from headrace.pipeline.compose import Event
from headrace.pipeline.envelope import encode_request
from headrace.pipeline.headers import Delivery, delivery_of, random_trace, request_headers
from headrace.pipeline.records import Headers


def headers_of(event: Event) -> Headers:
    """Those that every request has, with the event's own in the place of those of the same name.

    Raises:
        PoisonError: ``BAD_HEADER``, as a worker would refuse it.
    """
    own = {name for name, _ in event.headers}
    usual = request_headers(event.request, Delivery(trace=random_trace()))
    headers = (*((name, value) for name, value in usual if name not in own), *event.headers)
    delivery_of(headers)
    return headers


def record_of(event: Event, schema_id: int) -> tuple[bytes, Headers]:
    """Value and headers of its record.

    Raises:
        PoisonError: a worker would refuse it.
    """
    return encode_request(event.request, schema_id), headers_of(event)
