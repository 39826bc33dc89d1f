"""Events → a request topic, each with a delivery report."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import Future, wait
from types import TracebackType
from typing import Self, Unpack

from headrace.connectors.kafka.producer import DeliveryReport, EventSender, record_size_bytes
from headrace.pipeline.config import Settings
from headrace.pipeline.envelope import encode_request
from headrace.pipeline.errors import ConfigError, HeadraceError, PoisonError, UnavailableError
from headrace.sdk.connect import Addresses, Config, open_registry, request_schema_id, settings_of
from headrace.sdk.errors import ClosedError, InvalidEventError
from headrace.sdk.events import Event
from headrace.sdk.room import Room

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
"""How long the thread that serves delivery reports waits for one: also how soon it notices that it is to end."""
STOP_SECONDS = 5.0
LEAST_TIMEOUT_SECONDS = 0.001
"""The client takes 0 ms for: never."""
QUEUE_MARGIN = 2
"""The client counts a record until its report was served, so a little longer than the room does."""


class EventProducer:
    """An idempotent producer of one request topic: acks from all replicas, no doubles by its own retries.

    Thread-safe: one for all threads and tasks of a process. As a context manager it flushes on a clean exit; when an
    exception leaves the block, what is not confirmed yet is given up, and its futures say so.

    Args:
        config: `Settings`, a ``pipeline.yaml``, or None for what the command ``headrace`` finds.
        topic: where to; default the first of ``topics.requests``.
        delivery_timeout_seconds: what no broker took by then has failed.
        linger_seconds: how long an event may wait for others to share a request with.
        max_queued_events: most events sent and not yet confirmed; then ``send`` waits.
        max_queued_bytes: most bytes of those.
        addresses: see `Addresses`.

    Raises:
        ConfigError: on construction, for wrong settings.
        UnavailableError: on construction, if the schema registry does not answer.
        FatalError: on construction, if it refuses the request schema.
    """

    def __init__(
        self,
        config: Config = None,
        *,
        topic: str | None = None,
        delivery_timeout_seconds: float = 30.0,
        linger_seconds: float = 0.005,
        max_queued_events: int = 10_000,
        max_queued_bytes: int = 64 * 1024 * 1024,
        **addresses: Unpack[Addresses],
    ) -> None:
        if not delivery_timeout_seconds >= LEAST_TIMEOUT_SECONDS:
            raise ConfigError(
                f"delivery_timeout_seconds is {delivery_timeout_seconds}: {LEAST_TIMEOUT_SECONDS} or more"
            )
        settings = settings_of(config, addresses)
        self.topic = topic or settings.topics.requests[0]
        self._where = settings.kafka.bootstrap_servers
        self._timeout_seconds = delivery_timeout_seconds
        self._room = Room(max_queued_events, max_queued_bytes)
        self._lock = threading.Lock()
        self._unconfirmed: set[Future[DeliveryReport]] = set()
        self._failures = 0
        self._first_failure: HeadraceError | None = None
        self._closed = threading.Event()
        with open_registry(settings) as registry:
            self._schema_id = request_schema_id(registry, self.topic)
        self._sender = _sender(settings, delivery_timeout_seconds, linger_seconds, max_queued_events)
        self._thread = threading.Thread(target=self._serve, name="headrace-producer", daemon=True)
        self._thread.start()

    def send(self, event: Event, *, queue_seconds: float | None = None) -> Future[DeliveryReport]:
        """Queue an event. The future has its position, or why it was not delivered.

        The future's callbacks run on the producer's own thread or on one that sends: they must not block, nor send.

        Args:
            event: made by `event`.
            queue_seconds: how long to block while the queue is full; default the delivery time-out.

        Raises:
            InvalidEventError: it is not made by `event`.
            EventTooLargeError: the topic would refuse it.
            UnavailableError: the queue stayed full.
            ClosedError: the producer was closed.
        """
        value, size_bytes = self._ready(event)
        seconds = self._timeout_seconds if queue_seconds is None else queue_seconds
        if not self._room.enter(size_bytes, seconds):
            raise self._full(seconds)
        return self._produce(event, value, size_bytes)

    async def send_async(self, event: Event, *, queue_seconds: float | None = None) -> asyncio.Future[DeliveryReport]:
        """As ``send``, but the queue is waited for without blocking the event loop.

        It returns when the event is queued; awaiting what it returns waits for the delivery.
        """
        value, size_bytes = self._ready(event)
        seconds = self._timeout_seconds if queue_seconds is None else queue_seconds
        if not await self._room.enter_async(size_bytes, seconds):
            raise self._full(seconds)
        return asyncio.wrap_future(self._produce(event, value, size_bytes))

    def flush(self, timeout_seconds: float | None = None) -> None:
        """Wait until every event sent so far is delivered or has failed, at most the delivery time-out by default.

        Raises:
            HeadraceError: the first failure since the last flush, whether its future told of it or not.
            UnavailableError: some are not confirmed yet.
        """
        seconds = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        with self._lock:
            sent = [*self._unconfirmed]  # not those that other threads send meanwhile: they might never end
        left = len(wait(sent, seconds).not_done)
        with self._lock:
            failure, count = self._first_failure, self._failures
            self._first_failure, self._failures = None, 0
        if failure is not None:
            raise type(failure)(f"{count} of the events were not delivered; the first: {failure}") from failure
        if left:
            raise UnavailableError(f"{left} events were not confirmed by a broker at {self._where} in {seconds:g} s")

    async def flush_async(self, timeout_seconds: float | None = None) -> None:
        """As ``flush``, without blocking the event loop."""
        await asyncio.to_thread(self.flush, timeout_seconds)

    def close(self) -> None:
        """Give up what is not confirmed, and end. Whoever cares calls ``flush`` first, or leaves a ``with`` block."""
        if self._closed.is_set():
            return
        self._closed.set()
        try:
            if threading.current_thread() is not self._thread:  # a future's callback may close the producer
                self._thread.join(STOP_SECONDS)
        finally:
            self._sender.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, tb)

    def _ready(self, event: Event) -> tuple[bytes, int]:
        """The record's value, and its size."""
        if not isinstance(event, Event):
            raise InvalidEventError(f"what is sent is made by event(…), and is not of type {type(event).__name__}")
        self._check_open()
        try:
            value = encode_request(event.request, self._schema_id)
        except PoisonError as error:
            raise InvalidEventError(error.message) from error
        self._sender.check_size(self.topic, value, key=event.key, headers=event.headers)
        return value, record_size_bytes(event.key, value, event.headers)

    def _produce(self, event: Event, value: bytes, size_bytes: int) -> Future[DeliveryReport]:
        """With room taken for it."""
        delivery: Future[DeliveryReport] = Future()
        delivery.set_running_or_notify_cancel()  # what is sent cannot be taken back
        with self._lock:
            self._unconfirmed.add(delivery)

        def delivered(report: DeliveryReport) -> None:
            delivery.set_result(report)
            self._ended(delivery, size_bytes)

        def failed(error: HeadraceError) -> None:
            if self._closed.is_set():
                cause, error = error, ClosedError(f"the producer was closed before a broker confirmed event {event.id}")
                error.__cause__ = cause
            with self._lock:
                self._failures += 1
                self._first_failure = self._first_failure or error
            delivery.set_exception(error)
            self._ended(delivery, size_bytes)

        try:
            self._check_open()
            self._sender.send(
                self.topic, value, key=event.key, headers=event.headers, on_delivery=delivered, on_failure=failed
            )
        except BaseException:
            self._ended(delivery, size_bytes)
            raise
        if self._closed.is_set():  # since the check: nobody else would end what came after it
            self._sender.close()
        return delivery

    def _ended(self, delivery: Future[DeliveryReport], size_bytes: int) -> None:
        with self._lock:
            if delivery not in self._unconfirmed:  # ``send`` was interrupted after it had queued the event
                return
            self._unconfirmed.remove(delivery)
        self._room.leave(size_bytes)

    def _serve(self) -> None:
        while not self._closed.is_set():
            try:
                self._sender.poll(POLL_SECONDS)
            except Exception:  # one report's: without this thread no other would be served
                log.exception("a delivery report could not be read: its event's future will not end")
                self._closed.wait(POLL_SECONDS)

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise ClosedError("the producer is closed")

    def _full(self, seconds: float) -> UnavailableError:
        return UnavailableError(
            f"the queue stayed full for {seconds:g} s: brokers at {self._where} take events more slowly "
            "than they are sent, or not at all"
        )


def _sender(settings: Settings, timeout_seconds: float, linger_seconds: float, max_queued_events: int) -> EventSender:
    return EventSender(
        settings.kafka,
        settings.topics.max_message_bytes,
        timeout_seconds,
        linger_seconds=linger_seconds,
        max_queued_records=QUEUE_MARGIN * max_queued_events,
    )
