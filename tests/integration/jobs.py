"""Jobs for other processes, which import this."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

from headrace.pipeline.errors import ConfigError

Advance = Callable[[int], None]


def told_twice(number: int, advance: Advance) -> tuple[int, int]:
    """The number, and which process has done this."""
    advance(number)
    advance(number)
    return number, os.getpid()


def refused(_: Advance) -> None:
    raise ConfigError("line 2: no label")


def unwritable(_: Advance) -> None:
    raise FileNotFoundError(2, "No such file or directory", "here")


def mistaken(_: Advance) -> None:
    raise ValueError("a mistake")


def killed(_: Advance) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def gone(_: Advance) -> None:
    os._exit(3)


def endless(advance: Advance) -> None:
    """Tells its process."""
    advance(os.getpid())
    threading.Event().wait()
