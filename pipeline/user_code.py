"""The user's own code on a record's way: what it sees, what it may do, and how its faults stay its record's own.

Hooks and agents are added by ``InferenceApp`` (see ``agents``). What they emit through the record is written in the
transaction that holds its result, or not at all.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from headrace.pipeline import metrics
from headrace.pipeline.emit import Emitter, Value
from headrace.pipeline.envelope import check_request
from headrace.pipeline.errors import ExhaustedError, HeadraceError, PoisonError, RetriableError
from headrace.pipeline.records import (
    Headers,
    InferenceRequest,
    InferenceResult,
    OutputRecord,
    Provenance,
    SourceRecord,
    Stage,
)

log = logging.getLogger(__name__)

CONCURRENT_HOOKS = 64
"""Records whose ``before`` hooks run at once, if they wait for something."""
GRACE_SECONDS = 1.0
"""For user code to clean up when its time is up."""
_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}").fullmatch
_AS_RECORD = object()

T = TypeVar("T")


class RejectError(HeadraceError):
    """Raised by user code: this record cannot be processed, and becomes a dead letter at once.

    Args:
        code: a stable upper-case name of the reason, of which there are few: it is a label in the metrics.
        message: what is wrong, for a person.

    Raises:
        ValueError: the code is not of that form.
    """

    def __init__(self, code: str, message: str) -> None:
        if not _CODE(code):
            raise ValueError(f"code {code!r} must be of upper-case letters, digits and _, such as TOO_DARK")
        super().__init__(message)
        self.code = code


class Record:
    """One event, as user code sees it: from before its routing until its result is committed.

    Attributes:
        request: the decoded event.
        result: the answer; None before there is one.
    """

    def __init__(self, source: SourceRecord, request: InferenceRequest, emitter: Emitter) -> None:
        self.request = request
        self.result: InferenceResult | None = None
        self._source = source
        self._provenance = replace(source.provenance)  # nobody keeps user code from changing what it gets in place
        self._emitter = emitter
        self._outputs: list[OutputRecord] = []
        self._closed = False

    @property
    def key(self) -> bytes | None:
        return self._source.key

    @property
    def headers(self) -> Headers:
        """All of them, in order, as they are on the wire."""
        return self._source.headers

    @property
    def provenance(self) -> Provenance:
        """The record's position in its topic."""
        return self._provenance

    def answered(self, result: InferenceResult) -> None:
        """There is a result."""
        self.result = replace(result, provenance=replace(result.provenance))

    def header(self, name: str) -> bytes | None:
        """A header's value; of one that stands more than once the last, None if there is none."""
        return dict(self._source.headers).get(name)

    def emit(
        self,
        topic: str,
        value: Value,
        *,
        key: bytes | str | object | None = _AS_RECORD,
        headers: Headers = (),
        partition: int | None = None,
    ) -> None:
        """Write a record in the transaction that holds this event's result; not at all if that never comes.

        Args:
            topic: one of ``topics.emitted``.
            value: what that topic takes: an InferenceRequest, an InferenceResult, what JSON can hold, or bytes or text.
            key: default the event's.
            headers: name and value of each.
            partition: default by key, as Java's clients choose.

        Raises:
            ValueError: the topic is not declared, or does not take such a value.
            RuntimeError: the record has been completed: it is too late.
        """
        if self._closed:
            raise RuntimeError("this record is completed: emit while you hold it, before the agent takes the next one")
        chosen = self.key if key is _AS_RECORD else key
        if not isinstance(chosen, bytes | str | None):
            raise ValueError(f"a key is bytes or text, not {type(chosen).__name__}")
        encoded = chosen.encode() if isinstance(chosen, str) else chosen
        self._outputs.append(self._emitter.record(topic, value, encoded, headers, partition))

    def close(self) -> Sequence[OutputRecord]:
        """What was emitted; nothing can be from now on."""
        self._closed = True
        return self._outputs


class TimeUpError(Exception):
    """User code was ended because it took too long: not what it raises itself if something of its own does."""


BeforeHook = Callable[[Record], InferenceRequest | Awaitable[InferenceRequest | None] | None]
AfterHook = Callable[[Record], InferenceResult | Awaitable[InferenceResult | None] | None]
AgentCall = Callable[[Record], Awaitable[None]]


class UserCode:
    """What a worker's user modules have added. ``timeout_seconds`` bounds each piece's work on one record."""

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self.before: list[BeforeHook] = []
        self.after: defaultdict[str, list[AfterHook]] = defaultdict(list)
        self.agents: defaultdict[str, list[AgentCall]] = defaultdict(list)

    @property
    def empty(self) -> bool:
        return not (self.before or self.after or self.agents)

    @property
    def waits(self) -> bool:
        """Whether a ``before`` hook is asynchronous, so that many records' hooks had better run at once."""
        return any(inspect.iscoroutinefunction(hook) for hook in self.before)

    def follows(self, route: str) -> bool:
        """Whether there is anything to do once an event of this route is answered."""
        return route in self.after or route in self.agents

    async def prepare(self, record: Record) -> None:
        """Run the ``before`` hooks.

        Raises:
            PoisonError: the record is rejected, or a hook failed.
        """
        request_id = record.request.id
        for hook in self.before:
            before = record.request
            record.request = await self._run("before", hook, record, InferenceRequest) or record.request
            if record.request.id != request_id:
                raise _failed(hook, "gave the event another id: results are found by it")
            if record.request is not before and (fault := _fault_of(record.request)):
                raise _failed(hook, f"gave an event that is not valid: {fault}")

    async def follow(self, record: Record, route: str) -> None:
        """Run the ``after`` hooks of a route, one after the other, then its agents, all at once.

        Raises:
            PoisonError: the record is rejected, or a hook or agent failed.
        """
        assert record.result is not None
        provenance = replace(record.result.provenance)
        for hook in self.after.get(route, ()):
            record.result = await self._run("after", hook, record, InferenceResult) or record.result
            if record.result.provenance != provenance:
                raise _failed(hook, "gave the result another provenance: results are found by it")
        if calls := [agent(record) for agent in self.agents.get(route, ())]:
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
            record.result = replace(record.result, provenance=provenance)  # whatever they have done to it

    async def _run(
        self, kind: str, hook: Callable[[Record], T | Awaitable[T | None] | None], record: Record, wanted: type[T]
    ) -> T | None:
        began = time.perf_counter()
        try:
            answer = hook(record)
            result = await in_time(answer, self.timeout_seconds) if inspect.isawaitable(answer) else answer
        except Exception as error:
            raise failure(hook, error, self.timeout_seconds) from error
        finally:
            metrics.USER_CODE_SECONDS.labels(kind).observe(time.perf_counter() - began)
        if result is not None and not isinstance(result, wanted):
            raise _failed(hook, f"returned {type(result).__name__}, not {wanted.__name__} or nothing")
        return result


def _fault_of(request: InferenceRequest) -> str | None:
    """What a worker would refuse, were the event sent as it is now."""
    try:
        check_request(request)
    except PoisonError as error:
        return error.message
    except Exception as error:  # noqa: BLE001 - fields of the wrong type fail in many ways
        return f"{type(error).__name__}: {error}"
    return None


async def in_time(work: Awaitable[T], seconds: float) -> T:
    """What it returns or raises. It is cancelled when its time is up, and left alone if it goes on in spite of that.

    Raises:
        TimeUpError: its time was up, whatever it made of that.
        CancelledError: this was cancelled; if only what it waited for was, that is a RuntimeError.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            await end(task)
            raise TimeUpError
    except asyncio.CancelledError:
        await end(task)
        raise
    finally:
        abandon(task, work)
    if task.cancelled():
        raise RuntimeError("what it waited for was cancelled")
    return task.result()


async def end(task: asyncio.Future[T]) -> None:
    """Cancel it, and give it time to clean up."""
    task.cancel()
    await asyncio.wait({task}, timeout=GRACE_SECONDS)


def abandon(task: asyncio.Future[T], work: Awaitable[T]) -> None:
    """Nobody waits for the task any more. If it is not done, its coroutine is ended where it stands."""
    if task.done():
        if not task.cancelled():
            task.exception()  # else asyncio complains that nobody asked
        return
    task.cancel()
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    if inspect.iscoroutine(work):
        try:
            work.close()  # a loop that swallows its cancellation does not swallow this
        except (RuntimeError, ValueError):
            log.warning("user code cannot be ended: it goes on beside the worker")


def failure(code: Callable[..., object], error: BaseException, timeout_seconds: float) -> PoisonError:
    """What an error of user code makes of its record."""
    if isinstance(error, RejectError):
        return PoisonError(Stage.USER_CODE, error.code, str(error)[:1000])
    if isinstance(error, RetriableError):
        return ExhaustedError(Stage.USER_CODE, "USER_CODE_RETRY", f"{_name(code)}: {error}"[:1000])
    if isinstance(error, TimeUpError):
        message = f"{_name(code)} took longer than user_code.timeout_seconds ({timeout_seconds:g})"
        return PoisonError(Stage.USER_CODE, "USER_CODE_TIMEOUT", message)
    log.error("user code %s failed", _name(code), exc_info=error)
    return _failed(code, f"failed: {type(error).__name__}: {error}")


def _failed(code: Callable[..., object], what: str) -> PoisonError:
    return PoisonError(Stage.USER_CODE, "USER_CODE_FAILED", f"{_name(code)} {what}"[:1000])


def _name(code: Callable[..., object]) -> str:
    return f"{getattr(code, '__module__', '?')}.{getattr(code, '__qualname__', code)}"
