from __future__ import annotations

import math

import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from headrace.pipeline.cli.metrics import command
from headrace.pipeline.errors import UnavailableError
from headrace.pipeline.measured import Measured, measured


def served() -> str:
    registry = CollectorRegistry()
    calls = Counter("headrace_calls_total", "Calls.", ["route", "outcome"], registry=registry)
    calls.labels("text", "ok").inc(3)
    Gauge("headrace_in_flight", "In flight.", registry=registry).set(2.5)
    Gauge("python_gc", "Not ours.", registry=registry).set(1)
    seconds = Histogram("headrace_seconds", "Seconds.", ["route"], registry=registry, buckets=(1, 2, 5))
    for value in (0.5, 1.5, 1.5, 4.0):
        seconds.labels("text").observe(value)
    seconds.labels("slow").observe(60)
    seconds.labels("idle")
    return generate_latest(registry).decode()


def test_series_are_summed_up() -> None:
    assert measured(served()) == [
        Measured("headrace_calls_total", (("outcome", "ok"), ("route", "text")), None, 3.0),
        Measured("headrace_in_flight", (), None, 2.5),
        Measured("headrace_seconds", (("route", "text"),), 4, 1.875, 2.0, 5.0),
        Measured("headrace_seconds", (("route", "slow"),), 1, 60.0, math.inf, math.inf),
    ]


def test_pattern_chooses_by_name() -> None:
    assert {row.name for row in measured(served(), "second")} == {"headrace_seconds"}
    assert measured(served(), "nothing") == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "not a url"])
def test_worker_that_does_not_answer_is_named(url: str) -> None:
    result = CliRunner().invoke(command, ["--url", url])
    assert isinstance(result.exception, UnavailableError)
    assert url in str(result.exception)
