from __future__ import annotations

import math
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from headrace.pipeline.cli import cli
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
    result = CliRunner().invoke(cli, ["metrics", "--url", url])
    assert isinstance(result.exception, UnavailableError)
    assert url in str(result.exception)


def test_histogram_without_bounds_is_not_of_the_format() -> None:
    with pytest.raises(ValueError, match="float"):
        measured("# TYPE headrace_a histogram\nheadrace_a_bucket 1\n")


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Host and port of what answers one request with this."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield "{}:{}".format(*server.getsockname())
        thread.join()


@pytest.mark.parametrize("answer", [b"hello\r\n", b"HTTP/1.1 200 OK\r\n\r\n<html>\n", b"HTTP/1.1 200 OK\r\n\r\n\xff"])
def test_what_is_no_worker_is_told_so(answer: bytes) -> None:
    with answering(answer) as place:
        result = CliRunner().invoke(cli, ["metrics", "--url", f"http://{place}/metrics"])
    assert isinstance(result.exception, UnavailableError)
    assert f"no worker answers at http://{place}" in str(result.exception)


def test_address_needs_no_scheme() -> None:
    with answering(b"HTTP/1.1 200 OK\r\n\r\n" + served().encode()) as place:
        result = CliRunner().invoke(cli, ["metrics", "--url", place, "in_flight"])
    assert result.output == f"{place}\n  headrace_in_flight  2.5\n"


def test_worker_that_does_not_answer_leaves_the_others_their_say() -> None:
    with answering(b"HTTP/1.1 200 OK\r\n\r\n" + served().encode()) as place:
        result = CliRunner().invoke(cli, ["metrics", "--url", "http://127.0.0.1:1", "--url", place, "in_flight"])
    assert "headrace_in_flight  2.5" in result.output
    assert str(result.exception).startswith("no worker answers at http://127.0.0.1:1: ")
