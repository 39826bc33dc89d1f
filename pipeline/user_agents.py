"""Runs a user's agent over a stream of records: each is done when the agent asks for the next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from headrace.pipeline import metrics
from headrace.pipeline.errors import FatalError
from headrace.pipeline.user_code import GRACE_SECONDS, Record, TimeUpError, abandon, end, failure

AgentFunction = Callable[["RecordStream"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Handed:
    """A record on its way to an agent, and what is told when the agent is done with it."""

    record: Record
    done: asyncio.Future[None]


class RecordStream:
    """What an agent iterates over: ``async for record in records``. Asking for the next says the last is done."""

    def __init__(self, agent: AgentFunction, source: AsyncIterator[Handed], turn: asyncio.Lock, seconds: float) -> None:
        self._agent = agent
        self._source = source
        self._turn = turn
        self._seconds = seconds
        self._current: Handed | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._began = 0.0
        self.expire: Callable[[], object] = lambda: None
        """Ends the agent's work; called when its time for one record is up."""
        self.expired = False
        self.given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done if the agent goes on with a record although its time is up and it was cancelled."""
        self.taken = 0
        self.ended = False
        """The worker is stopping: no more will come."""

    def __aiter__(self) -> RecordStream:
        return self

    async def __anext__(self) -> Record:
        self.finish()
        async with self._turn:  # several hands of one agent share the stream
            try:
                handed = await anext(self._source)
            except StopAsyncIteration:
                self.ended = True
                raise
        self.taken += 1
        self._current = handed
        self._began = time.perf_counter()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)
        return handed.record

    def _expire(self) -> None:
        self.expired = True
        self.expire()
        self._timer = asyncio.get_running_loop().call_later(GRACE_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if not self.given_up.done():
            self.given_up.set_result(None)

    @property
    def busy(self) -> bool:
        """Whether the agent has a record."""
        return self._current is not None

    def finish(self, error: BaseException | None = None) -> None:
        """The record that the agent has is done: well, or with an error."""
        handed, self._current = self._current, None
        if self._timer:
            self._timer.cancel()
        if handed is None:
            return
        metrics.USER_CODE_SECONDS.labels("agent").observe(time.perf_counter() - self._began)
        if self.expired:  # also if the agent caught its cancellation and went on
            self.expired, error = False, TimeUpError()
        if handed.done.done():
            return  # nobody waits any more
        if error is None:
            handed.done.set_result(None)
        else:
            handed.done.set_exception(failure(self._agent, error, self._seconds))


async def host(agent: AgentFunction, stream: AsyncIterable[Handed], hands: int, timeout_seconds: float) -> None:
    """Run an agent until the stream ends. What it raises is the outcome of the record it had; then it is called again.

    Args:
        agent: the user's.
        stream: of records, each told when it is done.
        hands: how many records it works on at a time: so many calls of it share the stream.
        timeout_seconds: of its work on one record. Past that, its call is cancelled.

    Raises:
        FatalError: it returned without having taken a record, or raised without having one.
    """
    source, turn = aiter(stream), asyncio.Lock()
    async with asyncio.TaskGroup() as group:
        for _ in range(hands):
            group.create_task(_hand(agent, source, turn, timeout_seconds))


async def _hand(agent: AgentFunction, source: AsyncIterator[Handed], turn: asyncio.Lock, seconds: float) -> None:
    while True:
        records = RecordStream(agent, source, turn, seconds)
        work = agent(records)
        call = asyncio.ensure_future(work)
        records.expire = call.cancel
        try:
            await asyncio.wait({call, records.given_up}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # the worker ends
            await end(call)
            raise
        finally:
            abandon(call, work)
        if not call.done() or call.cancelled():
            error: BaseException | None = RuntimeError("what it waited for was cancelled")
        else:
            error = call.exception()
        if records.ended and error is None:
            records.finish()
            return
        if not records.busy and not records.taken and error is None:
            raise FatalError(f"agent {_name(agent)} returned without taking a record: loop over them with async for")
        if not records.busy and error is not None:
            raise FatalError(f"agent {_name(agent)} failed outside any record: {error!r}") from error
        records.finish(error)


def _name(agent: AgentFunction) -> str:
    return f"{getattr(agent, '__module__', '?')}.{getattr(agent, '__qualname__', agent)}"
