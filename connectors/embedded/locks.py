"""A lock between processes, released by the kernel when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from headrace.pipeline.errors import StackError

_POLL_SECONDS = 0.1


@contextlib.contextmanager
def file_lock(path: Path, timeout_seconds: float, purpose: str) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` (made if missing).

    Raises:
        StackError: if another process still holds it after ``timeout_seconds``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + timeout_seconds
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise StackError(
                    f"another headrace process has been busy with {purpose} for {timeout_seconds:.0f} s "
                    f"(it holds {path}): wait for it or end it, then try again"
                )
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
