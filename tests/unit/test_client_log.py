"""What librdkafka repeats is logged once in half a minute."""

from __future__ import annotations

import logging

from headrace.connectors.kafka.client_log import KEPT_LINES, REPEAT_SECONDS, Unrepeated, client_log


def line(text: str) -> logging.LogRecord:
    return logging.LogRecord(
        "librdkafka.test", logging.ERROR, __file__, 1, "%s [%s] %s", ("FAIL", "rdkafka#1", text), None
    )


def test_a_line_is_let_through_once_whatever_its_times_and_counts() -> None:
    now = 0.0
    unrepeated = Unrepeated(lambda: now)
    assert unrepeated.filter(line("broker 1: Connection refused (after 0ms in state CONNECT)"))
    assert not unrepeated.filter(line("broker 1: Connection refused (after 17ms in state CONNECT)"))
    assert unrepeated.filter(line("broker 2: Connection refused (after 0ms in state CONNECT)"))
    now = REPEAT_SECONDS - 0.1
    assert not unrepeated.filter(line("broker 1: Connection refused (after 0ms in state CONNECT)"))
    now = REPEAT_SECONDS
    assert unrepeated.filter(line("broker 1: Connection refused (after 0ms in state CONNECT)"))


def test_it_remembers_no_more_than_it_should() -> None:
    unrepeated = Unrepeated(lambda: 0.0)
    assert all(unrepeated.filter(line(f"line {number}")) for number in range(KEPT_LINES + 1))
    assert unrepeated.filter(line("line 0"))
    assert not unrepeated.filter(line(f"line {KEPT_LINES}"))


def test_a_log_has_one_filter_however_often_it_is_asked_for() -> None:
    assert client_log("of-this-test") is client_log("of-this-test")
    assert len(client_log("of-this-test").filters) == 1
