from __future__ import annotations

import contextlib
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.errors import PoisonError
from headrace.pipeline.headers import (
    Delivery,
    TraceContext,
    dead_letter_headers,
    delivery_of,
    random_trace,
    request_headers,
    result_headers,
    rfc3339,
    trace_of,
)
from headrace.pipeline.records import Headers, InferenceRequest, Modality, Part, Provenance
from tests.unit.strategies import EPOCH_MS, REQUESTS

REQUEST = InferenceRequest(
    id="3b241101-e2bb-4255-8caf-4136c566a962",
    type="com.example.text",
    source="/tests",
    time_ms=1_700_000_000_123,
    parts=(Part("text", Modality.TEXT, "text/plain", "a river turns the mill"),),
)
PROVENANCE = Provenance("requests", 3, 42, 0)
TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01".encode()
OURS = (
    "traceparent",
    "tracestate",
    "correlation_id",
    "reply_topic",
    "reply_partition",
    "deadline",
    "priority",
    "ce_id",
)
ANY_HEADERS: st.SearchStrategy[Headers] = st.lists(
    st.tuples(st.sampled_from(OURS), st.none() | st.binary(max_size=60) | st.just(TRACEPARENT)), max_size=8
).map(tuple)


def new_span_id() -> str:
    return "b7ad6b7169203331"


@given(ANY_HEADERS)
def test_any_headers_are_read_or_poison(headers: Headers) -> None:
    with contextlib.suppress(PoisonError):
        delivery = delivery_of(headers)
        assert 0 <= delivery.priority <= 9
        assert result_headers(delivery, REQUEST.id, PROVENANCE, 0, "/headrace")


@given(ANY_HEADERS, st.text(max_size=10), st.text(max_size=10), st.integers(-(2**63), 2**63 - 1))
def test_any_headers_give_a_dead_letter_headers(headers: Headers, stage: str, code: str, failed_ms: int) -> None:
    found = dict(dead_letter_headers(headers, stage, code, PROVENANCE, failed_ms, "/headrace"))
    assert found["ce_type"] == b"io.headrace.dead_letter"
    assert ("traceparent" in found) == (trace_of(headers) is not None)


@given(
    REQUESTS,
    st.builds(
        Delivery,
        correlation_id=st.none() | st.binary(min_size=1, max_size=1024),
        reply_topic=st.none() | st.from_regex(r"[A-Za-z0-9._-]{1,249}", fullmatch=True),
        reply_partition=st.none() | st.integers(0, 2**31 - 1),
        deadline_ms=st.none() | st.integers(0, 10**18 - 1),
        priority=st.integers(0, 9),
        trace=st.none() | st.just(TraceContext(TRACE_ID, SPAN_ID, "01", b"a=1")),
    ),
)
def test_delivery_comes_back_as_it_was_sent(request: InferenceRequest, delivery: Delivery) -> None:
    assert delivery_of(request_headers(request, delivery)) == delivery


def test_request_headers_are_a_cloud_event_in_binary_mode() -> None:
    assert dict(request_headers(REQUEST)) == {
        "ce_specversion": b"1.0",
        "ce_id": REQUEST.id.encode(),
        "ce_type": b"com.example.text",
        "ce_source": b"/tests",
        "ce_time": b"2023-11-14T22:13:20.123Z",
        "content-type": b"application/avro",
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("deadline", b"tomorrow"),
        ("deadline", b"2026-01-01T00:00:00Z"),
        ("deadline", b"-1"),
        ("deadline", b"1.5"),
        ("deadline", b""),
        ("deadline", b"9" * 19),
        ("deadline", "١٢٣".encode()),
        ("priority", b"10"),
        ("priority", b"high"),
        ("reply_partition", b"-1"),
        ("reply_partition", b"2147483648"),
        ("reply_topic", b""),
        ("reply_topic", b"no spaces"),
        ("reply_topic", b"x" * 250),
        ("reply_topic", b"\xff"),
        ("correlation_id", b"x" * 1025),
    ],
)
def test_malformed_header_is_poison_that_names_it(name: str, value: bytes) -> None:
    with pytest.raises(PoisonError, match=name) as caught:
        delivery_of(((name, value),))
    assert (caught.value.stage, caught.value.code) == ("decode", "BAD_HEADER")


def test_last_of_repeated_headers_counts_and_one_without_value_is_absent() -> None:
    headers: Headers = (("deadline", b"soon"), ("deadline", b"17"), ("priority", None), ("correlation_id", None))
    assert delivery_of(headers) == Delivery(deadline_ms=17)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        TRACEPARENT.upper(),
        TRACEPARENT[:-1],
        TRACEPARENT + b"-more",
        TRACEPARENT + b"\n",
        b"ff" + TRACEPARENT[2:],
        b"01" + TRACEPARENT[2:] + b"more",
        f"00-{'0' * 32}-{SPAN_ID}-01".encode(),
        f"00-{TRACE_ID}-{'0' * 16}-01".encode(),
    ],
)
def test_invalid_traceparent_is_ignored(value: bytes) -> None:
    assert delivery_of((("traceparent", value), ("tracestate", b"a=1"))) == Delivery()


def test_traceparent_of_a_later_version_is_understood_and_passed_on_as_version_00() -> None:
    trace = trace_of((("traceparent", b"cc" + TRACEPARENT[2:] + b"-what-the-future-brings"),))
    assert trace == TraceContext(TRACE_ID, SPAN_ID, "01")
    assert trace.traceparent == TRACEPARENT


def test_result_carries_the_requests_trace_one_span_further() -> None:
    delivery = delivery_of((("traceparent", TRACEPARENT), ("tracestate", b"vendor=1")))
    found = dict(result_headers(delivery, REQUEST.id, PROVENANCE, 0, "/headrace", new_span_id))
    assert found["traceparent"] == f"00-{TRACE_ID}-{new_span_id()}-01".encode()
    assert found["tracestate"] == b"vendor=1"


def test_new_trace_is_a_valid_one() -> None:
    trace = random_trace()
    assert trace_of((("traceparent", trace.traceparent),)) == trace


def test_result_is_an_event_of_its_own_with_an_id_that_a_replay_repeats() -> None:
    found = dict(result_headers(Delivery(), REQUEST.id, PROVENANCE, 5, "/headrace"))
    assert found == {
        "ce_specversion": b"1.0",
        "ce_id": b"requests-3-42",
        "ce_type": b"io.headrace.result",
        "ce_source": b"/headrace",
        "ce_time": b"1970-01-01T00:00:00.005Z",
        "content-type": b"application/avro",
        "correlation_id": REQUEST.id.encode(),
    }


@pytest.mark.parametrize("correlation_id", [b"order-7", b"\x00\xff"])
def test_correlation_id_is_carried_untouched_to_result_and_dead_letter(correlation_id: bytes) -> None:
    headers: Headers = (("correlation_id", correlation_id),)
    result = dict(result_headers(delivery_of(headers), REQUEST.id, PROVENANCE, 0, "/headrace"))
    letter = dict(dead_letter_headers(headers, "infer", "BAD_IMAGE", PROVENANCE, 0, "/headrace", REQUEST.id))
    assert result["correlation_id"] == letter["correlation_id"] == correlation_id


def test_dead_letter_headers_tell_stage_and_code_and_drop_what_is_malformed() -> None:
    headers: Headers = (("correlation_id", b"x" * 5000), ("traceparent", b"junk"), ("deadline", b"soon"))
    found = dict(dead_letter_headers(headers, "decode", "BAD_HEADER", PROVENANCE, 0, "/headrace"))
    assert (found["dead_letter_stage"], found["dead_letter_code"]) == (b"decode", b"BAD_HEADER")
    assert not {"correlation_id", "traceparent", "deadline"} & set(found)


@given(EPOCH_MS)
def test_rfc3339_means_the_same_moment(epoch_ms: int) -> None:
    epoch = datetime.fromisoformat("1970-01-01T00:00:00Z")
    since = datetime.fromisoformat(rfc3339(epoch_ms)) - epoch
    assert since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000 == epoch_ms
