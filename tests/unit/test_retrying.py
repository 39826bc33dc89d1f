"""Delay topics: what a record carries through them, how long it waits there, and where it goes next."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.config import Settings
from headrace.pipeline.config_retries import RetrySettings, delay_seconds
from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.errors import ExhaustedError, PoisonError
from headrace.pipeline.records import Headers, OutputRecord, Provenance, SourceRecord
from headrace.pipeline.retrying import RETRY, Retry, delay_topics, put_off, resumed, wait_seconds, with_retry
from headrace.pipeline.setup import topic_specs

NOW_MS = 1_800_000_000_000
TWO_DAYS_MS = 172_800_000
ROUTE = {"name": "text", "model": "echo", "retries": {"delays": ["5s", "10m"], "jitter": 0.5}}
SETTINGS = Settings.model_validate({"routes": [ROUTE, {"name": "other", "model": "m", "retries": {"delays": ["1h"]}}]})
DELAYS = delay_topics(SETTINGS)
RECORD = SourceRecord(Provenance("requests", 3, 41, NOW_MS - 1000), b"k", b"value", (("a", b"1"), ("a", None)))
ERROR = ExhaustedError("infer", "RETRIES_EXHAUSTED", "4 attempts failed")
BIGGEST = {
    "partition": 2**31 - 1,
    "offset": 2**63 - 1,
    "timestamp_ms": 2**63 - 1,
    "number": 16,
    "attempts": 2**30 - 1,
    "first_failed_ms": 2**63 - 1,
    "due_ms": 2**63 - 1,
    "redrives": 2**63 - 1,
}


def put(record: SourceRecord = RECORD, before: Retry | None = None, **changed: Any) -> OutputRecord | None:
    asked: dict[str, Any] = {"attempts": 4, "deadline_ms": None, "now_ms": NOW_MS, "chance": 0.0, **changed}
    return put_off(record, ERROR, SETTINGS.routes[0], SETTINGS, before=before, **asked)


def consumed(output: OutputRecord | None, offset: int = 7, timestamp_ms: int = NOW_MS) -> SourceRecord:
    """What a worker reads of it."""
    assert output is not None
    return SourceRecord(Provenance(output.topic, 0, offset, timestamp_ms), output.key, output.value, output.headers)


def in_delay_topic(headers: Headers, topic: str = "headrace.retry.5s") -> SourceRecord:
    return SourceRecord(Provenance(topic, 0, 7, NOW_MS), b"k", b"value", headers)


NO_NUMBERS: list[object] = [10**30, 10**400, -2, math.inf, math.nan, 1.0, True, "1", None, []]
NO_TEXTS: list[object] = [1, None, ["t"]]
GOOD = Retry("t", 0, 0, -1, 1, 1, 0, 0, "", "")
BAD_FIELDS: list[tuple[str, object]] = [
    *((name, bad) for name in BIGGEST for bad in NO_NUMBERS),
    *((name, most + 1) for name, most in BIGGEST.items()),
    *((name, bad) for name in ("topic", "stage", "code") for bad in NO_TEXTS),
    *(("topic", bad) for bad in ("", ".", "..", "a b", "t\n", "\ud800", "t" * 250)),
    ("number", -5),
    ("offset", -1),
    ("due_ms", -1),
]


def changed_header(name: str, value: object) -> Headers:
    return ((RETRY, json.dumps({**asdict(GOOD), name: value}).encode()),)


def test_delays_of_all_routes_each_have_a_topic_that_takes_one_header_more() -> None:
    assert DELAYS == {
        "headrace.redriven": 0.0,
        "headrace.retry.5s": 5.0,
        "headrace.retry.10m": 600.0,
        "headrace.retry.1h": 3600.0,
    }
    sizes = {spec.name: int(spec.config["max.message.bytes"]) for spec in topic_specs(SETTINGS)}
    assert all(sizes[topic] > sizes["inference.requests"] for topic in DELAYS)


def test_delay_topics_keep_records_for_longer_than_they_wait_and_a_week_at_least() -> None:
    route = {"name": "text", "model": "echo", "retries": {"delays": ["36h", "37h", "9999h"]}}
    specs = {spec.name: spec for spec in topic_specs(Settings.model_validate({"routes": [route]}))}
    kept = {name: spec.min_retention_ms for name, spec in specs.items() if spec.min_retention_ms is not None}
    day_ms, hour_ms = 86_400_000, 3_600_000
    assert kept == {
        "headrace.redriven": 7 * day_ms,
        "headrace.retry.36h": 7 * day_ms,
        "headrace.retry.37h": 2 * 2 * 37 * hour_ms + day_ms,
        "headrace.retry.9999h": 2 * 2 * 9999 * hour_ms + day_ms,
    }
    for name, retention_ms in kept.items():
        config = specs[name].config
        assert (config["cleanup.policy"], config["retention.ms"]) == ("delete", str(retention_ms))


@given(st.lists(st.tuples(st.text(), st.none() | st.binary()), max_size=4).map(tuple))
def test_record_comes_back_as_it_was(headers: Headers) -> None:
    record = replace(RECORD, headers=headers)
    assert resumed(consumed(put(record)))[0] == record


def test_record_that_is_put_off_carries_what_has_become_of_it() -> None:
    first = put(chance=0.5)
    assert first is not None
    assert (first.topic, first.key, first.value) == ("headrace.retry.5s", b"k", b"value")
    _, retry = resumed(consumed(first))
    expected = Retry("requests", 3, 41, NOW_MS - 1000, 1, 4, NOW_MS, NOW_MS + 6250, "infer", "RETRIES_EXHAUSTED")
    assert retry == expected

    again = put(before=retry, attempts=2, now_ms=NOW_MS + 9000)
    assert again is not None
    assert again.topic == "headrace.retry.10m"
    assert resumed(consumed(again))[1] == replace(expected, number=2, attempts=6, due_ms=NOW_MS + 609_000)

    assert put(before=replace(retry, number=2)) is None


def test_record_that_would_come_back_after_its_deadline_is_not_put_off() -> None:
    assert put(deadline_ms=NOW_MS + 5000) is not None
    assert put(deadline_ms=NOW_MS + 4999) is None


def test_route_without_delays_puts_nothing_off() -> None:
    assert (
        put_off(
            RECORD,
            ERROR,
            RouteSettings(name="r", model="m"),
            SETTINGS,
            before=None,
            attempts=1,
            deadline_ms=None,
            now_ms=0,
            chance=0.0,
        )
        is None
    )


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("a", b"1"),),
        ((RETRY, None),),
        ((RETRY, b"{}"),),
        ((RETRY, b"[]"),),
        ((RETRY, b"\xff"),),
        (*with_retry((), GOOD), ("after", b"1")),
        ((RETRY, b"[" * 100_000),),
        ((RETRY, b'{"topic": ' * 100_000),),
        *(changed_header(name, value) for name, value in BAD_FIELDS),
    ],
)
def test_record_that_no_worker_put_there_is_poison_and_does_not_wait(headers: Headers) -> None:
    record = in_delay_topic(headers)
    with pytest.raises(PoisonError, match=RETRY):
        resumed(record)
    assert wait_seconds(record, NOW_MS, DELAYS) == 0


@pytest.mark.parametrize(("name", "most"), BIGGEST.items())
def test_largest_numbers_are_taken_and_break_nothing(name: str, most: int) -> None:
    record = in_delay_topic(changed_header(name, most))
    event, retry = resumed(record)
    assert getattr(retry, name) == most
    assert 0 <= wait_seconds(record, NOW_MS, DELAYS) <= 10
    later = put(event, retry)
    assert (later is None) == (name == "number")


def test_only_records_of_delay_topics_wait_and_only_until_they_are_due() -> None:
    record = consumed(put())
    assert wait_seconds(record, NOW_MS, DELAYS) == 5
    assert wait_seconds(record, NOW_MS + 4999, DELAYS) == pytest.approx(0.001)
    assert wait_seconds(record, NOW_MS + 5000, DELAYS) == 0
    assert wait_seconds(record, NOW_MS + 99_000, DELAYS) == 0
    elsewhere = replace(record, provenance=Provenance("requests", 0, 7, NOW_MS))
    assert wait_seconds(elsewhere, NOW_MS, DELAYS) == 0


def test_clock_that_has_jumped_back_holds_no_record_for_days() -> None:
    record = consumed(put(chance=0.5))
    assert wait_seconds(record, NOW_MS - TWO_DAYS_MS, DELAYS) == 6.25  # what was left of it when it was written


def test_record_waits_no_longer_than_twice_its_delay_whatever_its_header_or_its_timestamp_says() -> None:
    record = consumed(put(now_ms=NOW_MS + TWO_DAYS_MS))
    assert wait_seconds(record, NOW_MS, DELAYS) == 10
    bare = consumed(put(), timestamp_ms=-1)
    assert wait_seconds(bare, NOW_MS, DELAYS) == 5
    assert wait_seconds(bare, NOW_MS - TWO_DAYS_MS, DELAYS) == 10


@pytest.mark.parametrize(("delay", "seconds"), [("5s", 5), ("10m", 600), ("2h", 7200)])
def test_delay_in_seconds(delay: str, seconds: float) -> None:
    assert delay_seconds(delay) == seconds


@pytest.mark.parametrize("delays", [["1m", "5s"], ["0s"], ["5"], ["5d"], ["-5s"]])
def test_delays_that_are_none_or_become_shorter_are_refused(delays: list[str]) -> None:
    with pytest.raises(ValueError, match="delays"):
        RetrySettings.model_validate({"delays": delays})


def test_delay_topic_is_nothing_else() -> None:
    with pytest.raises(ValueError, match=r"headrace\.retry\.5s is topics\.retry, for 5s, and nothing else's"):
        Settings.model_validate({"routes": [ROUTE], "topics": {"requests": ["headrace.retry.5s"]}})
