"""The producer's futures, flush and close, with a sender that confirms when it is told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from headrace import ClosedError, ConfigError, DeliveryReport, EventProducer, FatalError, InvalidEventError, event
from headrace.pipeline.errors import HeadraceError

WAIT_SECONDS = 10.0
SOON_SECONDS = 0.05
REPORT = DeliveryReport("requests", 0, 7, 1)


class FakeSender:
    """Keeps what is sent until a test reports on it, or it is purged."""

    def __init__(self) -> None:
        self.queued: list[tuple[Callable[[DeliveryReport], None], Callable[[HeadraceError], None]]] = []
        self.before_send: Callable[[], None] = lambda: None
        self.after_send: Callable[[], None] = lambda: None
        self.polls: list[Exception] = []
        self.polled = threading.Semaphore(0)

    def check_size(self, *_: Any, **__: Any) -> None:
        pass

    def send(self, *_: Any, on_delivery: Any, on_failure: Any, **__: Any) -> None:
        self.before_send()
        self.queued.append((on_delivery, on_failure))
        self.after_send()

    def poll(self, timeout_seconds: float) -> None:
        if self.polls:
            raise self.polls.pop()
        time.sleep(timeout_seconds / 10)
        self.polled.release()

    def confirm(self) -> None:
        self.queued.pop(0)[0](REPORT)

    def close(self) -> None:
        while self.queued:
            self.queued.pop(0)[1](FatalError("purged"))


@pytest.fixture
def sender(monkeypatch: pytest.MonkeyPatch) -> FakeSender:
    sender = FakeSender()
    monkeypatch.setattr("headrace.sdk.producer.EventSender", lambda *_, **__: sender)
    monkeypatch.setattr("headrace.sdk.producer.request_schema_id", lambda *_: 1)
    return sender


@pytest.fixture
def producer(sender: FakeSender) -> Iterator[EventProducer]:
    producer = EventProducer(bootstrap_servers="nowhere:9092", max_queued_events=1)
    yield producer
    producer.close()


def test_flush_waits_for_what_was_sent_before_it_and_no_more(sender: FakeSender) -> None:
    """Another thread that goes on sending keeps the queue from ever being empty."""
    producer = EventProducer(bootstrap_servers="nowhere:9092")
    first = producer.send(event("first"))
    later = []

    def go_on(_: object) -> None:
        later.append(producer.send(event("later")))

    first.add_done_callback(go_on)
    confirming = threading.Timer(SOON_SECONDS, sender.confirm)
    confirming.start()
    producer.flush(WAIT_SECONDS / 10)
    confirming.join(WAIT_SECONDS)
    assert [future.done() for future in (first, *later)] == [True, False]
    producer.close()


def test_send_interrupted_after_queueing_gives_its_room_back_once(sender: FakeSender, producer: EventProducer) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    sender.after_send = interrupt
    with pytest.raises(KeyboardInterrupt):
        producer.send(event("words"))
    sender.after_send = lambda: None
    sender.confirm()
    producer.flush(0)
    producer.send(event("in the only place"))
    with pytest.raises(HeadraceError, match="queue stayed full"):
        producer.send(event("one too many"), queue_seconds=SOON_SECONDS)


def test_event_that_comes_in_as_the_producer_closes_ends(sender: FakeSender, producer: EventProducer) -> None:
    """Its sender has passed the check, and is overtaken by ``close``."""
    sender.before_send = producer.close
    future = producer.send(event("words"))
    with pytest.raises(ClosedError, match="before a broker confirmed event"):
        future.result(SOON_SECONDS)


def test_failure_while_closing_keeps_its_cause(sender: FakeSender, producer: EventProducer) -> None:
    future = producer.send(event("words"))
    producer.close()
    error = future.exception(WAIT_SECONDS)
    assert isinstance(error, ClosedError)
    assert str(error.__cause__) == "purged"


def test_unreadable_report_does_not_end_the_thread_that_serves_the_others(
    sender: FakeSender, producer: EventProducer
) -> None:
    sender.polls.append(RuntimeError("a report without a position"))
    while sender.polls:
        assert sender.polled.acquire(timeout=WAIT_SECONDS)
    while sender.polled.acquire(blocking=False):
        pass
    assert sender.polled.acquire(timeout=WAIT_SECONDS)


def test_what_is_no_event_is_told(producer: EventProducer) -> None:
    words: Any = "words"
    with pytest.raises(InvalidEventError, match=r"made by event\(…\), and is not of type str"):
        producer.send(words)


@pytest.mark.usefixtures("sender")
@pytest.mark.parametrize("seconds", [0, 0.0001, -1, float("nan")])
def test_delivery_time_out_that_the_client_takes_for_never_is_refused(seconds: float) -> None:
    with pytest.raises(ConfigError, match="delivery_timeout_seconds"):
        EventProducer(delivery_timeout_seconds=seconds)
