"""Request and reply over the topics: one call, one answer."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Self, Unpack

from headrace.connectors.kafka.producer import DeliveryReport
from headrace.connectors.kafka.reader import CommittedReader, End
from headrace.pipeline.errors import ConfigError, FatalError, HeadraceError, RetriableError, UnavailableError
from headrace.pipeline.headers import CORRELATION_ID
from headrace.pipeline.outcomes import OutcomeDecoder, Unreadable
from headrace.pipeline.records import InferenceResult, SourceRecord
from headrace.sdk.calls import Answer, Call, Calls
from headrace.sdk.connect import Addresses, Config, open_registry, settings_of
from headrace.sdk.errors import (
    ClosedError,
    DeadLetteredError,
    InferenceTimeoutError,
    InvalidEventError,
    UnreadableRecordError,
)
from headrace.sdk.events import Event, EventOptions, event
from headrace.sdk.parts import PartLike
from headrace.sdk.producer import EventProducer
from headrace.sdk.received import Received, received

READ_SECONDS = 0.25
"""One wait for replies: how soon ``close`` is noticed."""
AGAIN_SECONDS = 0.2
STOP_SECONDS = 5.0
MAX_TIMEOUT_SECONDS = 7 * 86_400
DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"


class InferenceClient:
    """Sends events and hands each caller its own result.

    Replies are read from one partition of the reply topic, which every request asks for by its headers, from the end
    that it had when the client was made: no group, no rebalance, nothing missed. The dead-letter topic is read too, so
    that a request which cannot be processed is told as such. A request carries its time-out as a deadline: a worker
    refuses it when nobody waits any more (clocks of sender and workers must agree to well within the time-out).

    Thread-safe: one for all threads and tasks of a process. Any number of calls may be in flight; each ends once.

    Args:
        config: `Settings`, a ``pipeline.yaml``, or None for what the command ``headrace`` finds.
        timeout_seconds: of calls that give no other.
        topic: where requests go; default the first of ``topics.requests``.
        reply_topic: where replies come; default ``topics.results``. The route that answers must use it: as its own
            ``reply_topic``, or among its ``reply_topics_allowed``, or by having neither and this being
            ``topics.results``.
        reply_partition: which of its partitions; default one at random.
        addresses: see `Addresses`.

    Raises:
        ConfigError: on construction, for wrong settings or a partition that the reply topic does not have.
        UnavailableError: on construction, if no broker or no schema registry answers.
        FatalError: on construction, if a topic does not exist.
    """

    def __init__(
        self,
        config: Config = None,
        *,
        timeout_seconds: float = 30.0,
        topic: str | None = None,
        reply_topic: str | None = None,
        reply_partition: int | None = None,
        **addresses: Unpack[Addresses],
    ) -> None:
        settings = settings_of(config, addresses)
        self.timeout_seconds = timeout_seconds
        self.reply_topic = reply_topic or settings.topics.results
        self._dead_letters = settings.topics.dead_letters
        self._where = settings.kafka.bootstrap_servers
        if self.reply_topic == self._dead_letters:
            raise ConfigError(f"{self.reply_topic} is the dead-letter topic: give another reply_topic")
        topics, choose = (self.reply_topic, self._dead_letters), partial(self._choose, reply_partition)
        self._reader = CommittedReader(settings.kafka, topics, End(), choose=choose)
        try:
            self._producer = EventProducer(settings, topic=topic, linger_seconds=0.0)
        except BaseException:
            self._reader.close()
            raise
        self._registry = open_registry(settings)
        self._decoder = OutcomeDecoder(self._registry, self._dead_letters)
        self._trouble = ""
        self._closed = threading.Event()
        self._calls = Calls(self._expired)
        self._thread = threading.Thread(target=self._serve, name="headrace-replies", daemon=True)
        self._thread.start()

    @property
    def topic(self) -> str:
        """Where requests go."""
        return self._producer.topic

    @property
    def late_replies(self) -> int:
        """Replies dropped because their call had ended, by its time-out or by being cancelled."""
        return self._calls.late

    @property
    def in_flight(self) -> int:
        """Calls that wait for their reply."""
        return self._calls.in_flight

    # --- calls

    def infer(
        self, *parts: PartLike, timeout_seconds: float | None = None, **options: Unpack[EventOptions]
    ) -> InferenceResult:
        """Send an event and wait for its result.

        Args:
            parts: of the event, one or more.
            timeout_seconds: for all of it; default the client's.
            options: see `EventOptions`.

        Raises:
            InvalidEventError: a ValueError: no worker would take this. Nothing was sent.
            EventTooLargeError: the topic would refuse it. Nothing was sent.
            DeadLetteredError: it became a dead letter, which says why.
            InferenceTimeoutError: neither came in time.
            UnreadableRecordError: what came as its reply cannot be read.
            UnavailableError: no broker took it.
            ClosedError: the client was closed.
            FatalError: replies can no longer be read (not allowed, a topic is gone), now or at an earlier call.
        """
        future = self.submit(*parts, timeout_seconds=timeout_seconds, **options)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # interrupted: nobody waits any more
            raise

    def submit(
        self, *parts: PartLike, timeout_seconds: float | None = None, **options: Unpack[EventOptions]
    ) -> Future[InferenceResult]:
        """Send an event; the future has what ``infer`` returns or raises, and can be cancelled.

        What is wrong with the event is raised at once. Blocks only while the producer's queue is full. The future's
        callbacks run on the client's own threads, or on one that sends or closes: they must not block.
        """
        call = self._open(timeout_seconds)
        with self._sending(call):
            delivery = self._producer.send(self._request(call, parts, options), queue_seconds=call.left_seconds)
            delivery.add_done_callback(partial(self._delivered, call))
        return call.future

    async def infer_async(
        self, *parts: PartLike, timeout_seconds: float | None = None, **options: Unpack[EventOptions]
    ) -> InferenceResult:
        """As ``infer``, without blocking the event loop. Cancelling it gives the call up."""
        call = self._open(timeout_seconds)
        with self._sending(call):
            request = self._request(call, parts, options)
            delivery = await self._producer.send_async(request, queue_seconds=call.left_seconds)
            delivery.add_done_callback(partial(self._delivered, call))
        return await asyncio.wrap_future(call.future)

    # --- end

    def close(self) -> None:
        """End. Calls in flight fail with ClosedError, and so do later ones."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._calls.fail_all(ClosedError("the client was closed"))
        try:
            if threading.current_thread() is not self._thread:  # a future's callback may close the client
                self._thread.join(STOP_SECONDS)
        finally:
            self._producer.close()
            self._registry.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    # --- out

    def _open(self, timeout_seconds: float | None) -> Call:
        seconds = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        if not 0 < seconds <= MAX_TIMEOUT_SECONDS:
            raise InvalidEventError(f"timeout_seconds is {seconds}: more than 0, at most {MAX_TIMEOUT_SECONDS:,}")
        return self._calls.open(seconds)

    def _request(self, call: Call, parts: Sequence[PartLike], options: EventOptions) -> Event:
        return event(
            *parts,
            deadline_seconds=call.timeout_seconds,
            correlation_id=call.correlation_id,
            reply_topic=self.reply_topic,
            reply_partition=self.reply_partition,
            **options,
        )

    @contextlib.contextmanager
    def _sending(self, call: Call) -> Iterator[None]:
        """What keeps an event from being sent ends its call; what the brokers are to blame for, as its outcome."""
        try:
            yield
        except UnavailableError as error:
            self._calls.fail(call, error)
        except BaseException:
            call.future.cancel()
            raise

    def _delivered(self, call: Call, delivery: Future[DeliveryReport] | asyncio.Future[DeliveryReport]) -> None:
        if delivery.cancelled():  # its event loop has ended, and nobody waits for the call
            return
        error = delivery.exception()
        if error is None:
            self._calls.delivered(call, delivery.result())
        else:
            self._calls.fail(call, error if isinstance(error, HeadraceError) else FatalError(repr(error)))

    # --- in, on a thread of its own

    def _serve(self) -> None:
        try:
            with self._reader:
                while not self._closed.is_set():
                    for record in self._read():
                        self._reply(record)
        except HeadraceError as error:
            self._calls.fail_all(error)
        except Exception as error:  # noqa: BLE001 - raised by every call from now on
            failure = FatalError(f"replies can no longer be read: {error!r}")
            failure.__cause__ = error
            self._calls.fail_all(failure)

    def _read(self) -> list[SourceRecord]:
        try:
            return self._reader.read(READ_SECONDS)
        except RetriableError as error:
            self._wait_out(error)
            return []

    def _reply(self, record: SourceRecord) -> None:
        correlation_id = dict(record.headers).get(CORRELATION_ID)
        if correlation_id is None or not self._calls.is_ours(correlation_id):
            return
        while not self._closed.is_set():
            try:
                found = received(self._decoder, record)
            except RetriableError as error:  # the registry is away; time-outs go on beside this
                self._wait_out(error)
                continue
            content = found.content
            place = None if isinstance(content, Unreadable) else content.provenance
            if place is None or place.topic == self.topic:
                self._calls.answer(correlation_id, _answer_of(found), place)
            return

    def _wait_out(self, error: RetriableError) -> None:
        self._trouble = str(error)
        self._closed.wait(AGAIN_SECONDS)

    # --- how it may end

    def _choose(self, wanted: int | None, topic: str, partitions: Sequence[int]) -> Sequence[int]:
        """One partition of the reply topic, all of the dead-letter topic."""
        if topic != self.reply_topic:
            return partitions
        if wanted is not None and wanted not in partitions:
            raise ConfigError(f"reply_partition is {wanted}, but {topic} has partitions 0 to {len(partitions) - 1}")
        self.reply_partition = random.choice(partitions) if wanted is None else wanted
        return (self.reply_partition,)

    def _expired(self, call: Call) -> InferenceTimeoutError:
        within = f"within {call.timeout_seconds:g} s"
        trouble = f"; last trouble: {self._trouble}" if self._trouble else ""
        if call.sent is None:
            return InferenceTimeoutError(
                f"no broker at {self._where} confirmed the event for {self.topic} {within}: is Kafka running, and does "
                f"the topic exist?{trouble}"
            )
        return InferenceTimeoutError(
            f"no reply to {call.sent.topic}:{call.sent.partition}:{call.sent.offset} {within}, neither in "
            f"{self.reply_topic}:{self.reply_partition} nor in {self._dead_letters}: is a worker of {self.topic} "
            "running (`headrace status` shows the stack's), can it keep up, and does the event's route reply to "
            f"{self.reply_topic} (its reply_topic, topics.results if it has none, or its reply_topics_allowed)"
            f"?{trouble}"
        )


def _answer_of(found: Received) -> Answer:
    try:
        return found.result
    except DeadLetteredError as error:
        return _refused_as_late(error) if error.code == DEADLINE_EXCEEDED else error
    except UnreadableRecordError as error:
        return error


def _refused_as_late(error: DeadLetteredError) -> InferenceTimeoutError:
    """The worker says that time is up, a moment before this side does."""
    place = error.letter.provenance
    return InferenceTimeoutError(
        f"worker {error.letter.worker} refused {place.topic}:{place.partition}:{place.offset} as late: {error.message} "
        "(if this came long before the time-out, the clocks of this machine and the worker's differ)"
    )
