"""Which processors a process and all that it has started may use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def pin(pid: int, core: int) -> None:
    """All threads of a process and of those that it has started; later ones are born so."""
    with contextlib.suppress(OSError):  # what ends meanwhile is not there to be told
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})
            for child in (thread / "children").read_text().split():
                pin(int(child), core)


@contextlib.contextmanager
def apart() -> Iterator[int]:
    """All that this process starts meanwhile is on one core, and so is itself; the value is another, for Triton."""
    mine = os.sched_getaffinity(0)
    first, *_, last = sorted(mine)
    pin(os.getpid(), first)
    try:
        yield last
    finally:
        for thread in Path(f"/proc/{os.getpid()}/task").iterdir():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(thread.name), mine)
