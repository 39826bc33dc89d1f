"""Ctrl-C, a termination and a hang-up end the demo, but never its cleaning up."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Makes the first signal a KeyboardInterrupt, inside ``allowed`` only. One that comes elsewhere is kept for later.

    So whatever has to be undone can be made, and is undone, undisturbed. What is still kept at the end is raised there.

    Args:
        announce: called at the end, if a signal has come.
    """

    def __init__(self, announce: Callable[[], None]) -> None:
        self._announce = announce
        self._before: dict[signal.Signals, Any] = {}  # a handler, or what stands for one
        self._allowed = False
        self._came = False

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.signal(number, self._interrupt) for number in WATCHED}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if not self._came:
            return
        if kind is None:
            self._announce()
            raise KeyboardInterrupt
        if issubclass(kind, KeyboardInterrupt):
            self._announce()

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """Where a signal may interrupt; once only."""
        self._allowed = True
        try:
            if self._came:
                raise KeyboardInterrupt
            yield
        finally:
            self._allowed = False

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._came = True
        if self._allowed:
            self._allowed = False
            raise KeyboardInterrupt
