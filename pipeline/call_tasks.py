"""The tasks of one route's infer calls, and how many of them the model may have at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

TURNS_TO_SEND = 2
"""Of the event loop, until a call that was started is on its way: the task's own, and one that gRPC's client takes."""


class CallTasks:
    """A task has one of the route's places from its start until it gives it up, or ends.

    Args:
        name: of the tasks.
        places: how many there are.
        on_end: called when a task has ended.
    """

    def __init__(self, name: str, places: int, on_end: Callable[[], None]) -> None:
        self._name = name
        self._places = places
        self._on_end = on_end
        self._tasks: set[asyncio.Task[None]] = set()
        self._placed: set[asyncio.Task[None] | None] = set()

    @property
    def full(self) -> bool:
        return len(self._placed) >= self._places

    @property
    def idle(self) -> bool:
        """No task has a place."""
        return not self._placed

    def start(self, call: Coroutine[None, None, None]) -> None:
        """In a place that is free."""
        task = asyncio.create_task(call, name=self._name)
        task.add_done_callback(self._ended)
        self._tasks.add(task)
        self._placed.add(task)

    def give_up_place(self) -> None:
        """That of the task which calls this: it needs the model no more, and goes on."""
        self._placed.discard(asyncio.current_task())

    async def sent(self) -> None:
        """Until calls that were started are on their way."""
        for _ in range(TURNS_TO_SEND):
            await asyncio.sleep(0)

    def collect(self) -> None:
        """Forget those that have ended; raises what one of them raised."""
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.discard(task)
            task.result()

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._placed.discard(task)
        self._on_end()
