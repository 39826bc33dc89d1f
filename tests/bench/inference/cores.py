"""Which processors a process and all that it has started may use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path


def pin(pid: int, cores: Collection[int]) -> None:
    """All threads of a process and of those that it has started; later ones are born so."""
    with contextlib.suppress(OSError):  # what ends meanwhile is not there to be told
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores)
            for child in (thread / "children").read_text().split():
                pin(int(child), cores)


@contextlib.contextmanager
def apart(pid: int) -> Iterator[None]:
    """A process that this one has started has a core to itself, and all else that is started here shares another."""
    all_cores = os.sched_getaffinity(0)
    first, *_, last = sorted(all_cores)
    pin(os.getpid(), {first})
    pin(pid, {last})
    try:
        yield
    finally:
        pin(os.getpid(), all_cores)
