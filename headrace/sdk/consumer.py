"""Results and dead letters as they are committed, for any number of readers."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Literal, Protocol, Self, TypeVar, Unpack

from headrace.connectors.kafka.client_thread import ClientThread
from headrace.connectors.kafka.group_reader import GroupReader
from headrace.connectors.kafka.reader import Beginning, CommittedReader, End, Since
from headrace.connectors.kafka.reader import Start as Place
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.outcomes import OutcomeDecoder
from headrace.pipeline.records import SourceRecord
from headrace.pipeline.setup import reply_topics
from headrace.sdk.connect import Addresses, Config, open_registry, settings_of
from headrace.sdk.errors import ClosedError
from headrace.sdk.received import Received, received

T = TypeVar("T")

Start = Literal["beginning", "end"] | dt.datetime
"""Where to begin: at what is retained, after what is there now, or at a moment (with its time zone)."""

SLICE_SECONDS = 0.25
"""Longest single wait for a record: how soon ``close`` in another thread is noticed."""
STUCK_SECONDS = 120.0
"""A commit answers within 60 s (the client's own limit), a wait for records within a slice."""


class ResultConsumer:
    """Reads what workers committed (``read_committed``): nothing of an open or aborted transaction.

    With ``group`` the topics' partitions are shared among the group's members, and ``commit`` notes how far it has
    come. Nothing is committed by itself. Commit after processing, and each record is processed at least once: what
    was processed and not committed is read again after a crash or a rebalance (with ``start="end"``, in a partition of
    which the group has committed something). Exactly once takes a reader that
    stores ``position`` together with its effects, and leaves out what it has stored already.

    Without ``group`` every consumer reads all partitions, from ``start`` on.

    Iteration (``for``, ``async for``) waits for more and ends when the consumer is closed. Whatever lies in the topics
    is handed over: a record that cannot be read too, see `Received.result`. An error raised by one step loses no
    record: the next step goes on where it was. One consumer is for one thread, or one task, at a time; ``close`` may
    be called from any.

    Args:
        config: `Settings`, a ``pipeline.yaml``, or None for what the command ``headrace`` finds.
        topics: reply topics to read; default all that the settings name.
        group: the consumer group; None for none.
        start: where to begin; with a group, in partitions of which it has committed nothing.
        dead_letters: read the dead-letter topic too.
        addresses: see `Addresses`.

    Raises:
        ConfigError: on construction, for wrong settings or arguments.
        UnavailableError: on construction, if no broker answers.
        FatalError: on construction, if a topic does not exist.
    """

    def __init__(
        self,
        config: Config = None,
        *,
        topics: Sequence[str] | None = None,
        group: str | None = None,
        start: Start = "beginning",
        dead_letters: bool = False,
        **addresses: Unpack[Addresses],
    ) -> None:
        place = _place(start, group)
        settings = settings_of(config, addresses)
        wanted = _topics(reply_topics(settings) if topics is None else topics)
        if dead_letters:
            wanted = _topics([*wanted, settings.topics.dead_letters])
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._handing_on = threading.Lock()
        """No call is handed to the thread once ``close`` has begun: the thread would not live to make it."""
        self._thread: ClientThread | None = None
        self._group_reader: GroupReader | None = None
        self._records: _Records
        self._registry = open_registry(settings)  # first: if it cannot be, no reader is left behind
        if group is None:
            self._records = _Whole(CommittedReader(settings.kafka, wanted, place))
        else:
            from_beginning = isinstance(place, Beginning)
            self._group_reader = GroupReader(settings.kafka, wanted, group, from_beginning=from_beginning)
            self._records = self._group_reader
        self._decoder = OutcomeDecoder(self._registry, settings.topics.dead_letters)

    # --- one at a time

    def receive(self, timeout_seconds: float = 1.0) -> Received | None:
        """The next record, waiting at most this long for it; None if none came.

        Raises:
            UnavailableError: the schema registry is needed and does not answer; the record is handed over later.
            FatalError: not allowed, or a topic is gone.
            ClosedError: the consumer was closed.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            found = self._fetch(_slice(deadline))
            if found is not None:
                self._records.take()
            if found is not None or time.monotonic() >= deadline:
                return found

    async def receive_async(self, timeout_seconds: float = 1.0) -> Received | None:
        """As ``receive``, without blocking the event loop. Cancelling it loses no record."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            found = await self._in_thread("poll", lambda: self._fetch(_slice(deadline)))
            if found is not None:
                self._records.take()  # not before: what a cancelled call has read is for the next
            if found is not None or time.monotonic() >= deadline:
                return found

    # --- one after the other

    def __iter__(self) -> Self:
        """Every record; waits for more. Ends when the consumer is closed."""
        return self

    def __next__(self) -> Received:
        while True:
            try:
                found = self.receive(SLICE_SECONDS)
            except ClosedError:
                raise StopIteration from None
            if found is not None:
                return found

    def until_idle(self, idle_seconds: float) -> Iterator[Received]:
        """Every record, until none came for so long."""
        while (found := self.receive(idle_seconds)) is not None:
            yield found

    def __aiter__(self) -> Self:
        """Every record; waits for more without blocking the event loop. Ends when the consumer is closed."""
        return self

    async def __anext__(self) -> Received:
        while True:
            try:
                found = await self.receive_async(SLICE_SECONDS)
            except ClosedError:
                raise StopAsyncIteration from None
            if found is not None:
                return found

    # --- how far the group has come

    def commit(self) -> None:
        """Commit the position after every record handed over so far: the group goes on there.

        Partitions that were given to another member meanwhile are left out: it reads their records again.

        Raises:
            ConfigError: there is no group to commit for.
            RetriableError: not committed: the partitions are being shared out anew, or no broker answers.
            FatalError: not allowed.
            ClosedError: the consumer was closed.
        """
        if self._group_reader is None:
            raise ConfigError("there is nothing to commit without a group: give group= to the consumer")
        with self._lock:
            self._check_open()
            self._group_reader.commit()

    async def commit_async(self) -> None:
        """As ``commit``, without blocking the event loop."""
        await self._in_thread("commit", self.commit)

    # --- end

    def close(self) -> None:
        """Leave the group and end. Commits nothing. From any thread, more than once if need be."""
        with self._handing_on:
            if self._closing.is_set():
                return
            self._closing.set()
        with self._lock:
            self._records.close()
            self._registry.close()
            if self._thread is not None:
                self._thread.stop()

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

    # --- inside

    def _fetch(self, timeout_seconds: float) -> Received | None:
        """The next record, decoded and not taken yet."""
        with self._lock:
            self._check_open()
            record = self._records.read(timeout_seconds)
            return None if record is None else received(self._decoder, record)

    async def _in_thread(self, name: str, call: Callable[[], T]) -> T:
        """What the call returns or raises. Raises FatalError if it does not return."""
        with self._handing_on:
            self._check_open()
            thread = self._thread = self._thread or ClientThread("headrace-consumer", STUCK_SECONDS)
            answer = thread.run(lambda: _watched(thread, name, call))
        return await answer

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise ClosedError("the consumer is closed")


class _Records(Protocol):
    """Records one after the other; each is read again until it is taken."""

    def read(self, timeout_seconds: float) -> SourceRecord | None: ...

    def take(self) -> None: ...

    def close(self) -> None: ...


class _Whole:
    """All partitions, without a group."""

    def __init__(self, reader: CommittedReader) -> None:
        self._reader = reader
        self._fetched: deque[SourceRecord] = deque()

    def read(self, timeout_seconds: float) -> SourceRecord | None:
        if not self._fetched:
            self._fetched.extend(self._reader.read(timeout_seconds))
        return self._fetched[0] if self._fetched else None

    def take(self) -> None:
        self._fetched.popleft()

    def close(self) -> None:
        self._reader.close()


def _watched(thread: ClientThread, name: str, call: Callable[[], T]) -> T:
    with thread.watched(name):
        return call()


def _slice(deadline: float) -> float:
    return min(max(0.0, deadline - time.monotonic()), SLICE_SECONDS)


def _topics(named: Sequence[str]) -> list[str]:
    """Each once, as the client library wants it."""
    if isinstance(named, str):
        raise ConfigError(f"topics={named!r}: give a list of names, [{named!r}]")
    if not named:
        raise ConfigError("topics is empty: name one or more, or leave it out for all reply topics")
    return list(dict.fromkeys(named))


def _place(start: Start, group: str | None) -> Place:
    if group == "":
        raise ConfigError("group is empty: name the consumer group, or leave it out for none")
    match start:
        case "beginning":
            return Beginning()
        case "end":
            return End()
        case dt.datetime():
            if start.tzinfo is None:
                raise ConfigError(f"start={start} has no time zone: give it one, dt.UTC for instance")
            if group is not None:
                raise ConfigError("a group begins at its committed position, or at start='beginning' or 'end'")
            return Since(max(0, round(start.timestamp() * 1000)))
    raise ConfigError(f"start={start!r}: 'beginning', 'end' or a datetime")
