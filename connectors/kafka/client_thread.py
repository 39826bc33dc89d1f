"""A thread for a client library's blocking calls that notices when one of them never returns."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from headrace.pipeline.errors import FatalError

T = TypeVar("T")

LOOK_SECONDS = 0.5


class ClientThread:
    """Runs calls one after another. A daemon: a call that is stuck does not keep the process from ending.

    Args:
        name: of the thread.
        stuck_seconds: a ``watched`` call that lasts longer is taken for one that never returns.
    """

    def __init__(self, name: str, stuck_seconds: float) -> None:
        self._stuck_seconds = stuck_seconds
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._watched: tuple[str, float] | None = None
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def run(self, call: Callable[[], T]) -> Coroutine[Any, Any, T]:
        """Queue the call, at once; awaiting what this returns gives what the call returns or raises.

        Not to be called after ``stop``.

        Raises:
            FatalError: when awaited: it, or one before it, is stuck.
        """
        outcome: Future[T] = Future()
        self._calls.put(lambda: _carry_out(call, outcome))
        return self._wait(outcome)

    async def _wait(self, outcome: Future[T]) -> T:
        answer = asyncio.wrap_future(outcome)
        try:
            while not (await asyncio.wait([answer], timeout=LOOK_SECONDS))[0]:
                self._check()
        except BaseException:
            answer.cancel()
            raise
        return answer.result()

    @contextlib.contextmanager
    def watched(self, name: str) -> Iterator[None]:
        """On the thread, around one blocking call that has a time-out of its own."""
        self._watched = (name, time.monotonic())
        try:
            yield
        finally:
            self._watched = None

    def stop(self) -> None:
        """End the thread after the calls that wait for it."""
        self._calls.put(None)

    def _check(self) -> None:
        if (watched := self._watched) and time.monotonic() - watched[1] > self._stuck_seconds:
            raise FatalError(
                f"the Kafka client's {watched[0]} has not returned in {self._stuck_seconds:.0f} s, in spite of its "
                "time-out: only a new process can go on"
            )

    def _serve(self) -> None:
        while (carry_out := self._calls.get()) is not None:
            carry_out()


def _carry_out(call: Callable[[], T], outcome: Future[T]) -> None:
    if not outcome.set_running_or_notify_cancel():
        return
    try:
        outcome.set_result(call())
    except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
        outcome.set_exception(error)
    finally:
        del call, outcome  # the error's frames hold them, and the outcome the error
