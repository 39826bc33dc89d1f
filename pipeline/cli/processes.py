"""Work that would keep one processor busy for long, done by several processes: they end with this one, however it ends.

Ctrl-C reaches this process only, which ends the others as it leaves.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar

from headrace.pipeline.cli.child import ADVANCED, FAILED
from headrace.pipeline.errors import FatalError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MOST_PROCESSES = 4
"""Each has a hundred megabytes and more of libraries and of what it reads ahead."""
GONE_SECONDS = 5.0
"""From the end of its connection to the end of a process."""


class Job(Protocol[T_co]):
    """A piece of work that can be pickled, as can what comes of it."""

    def __call__(self, advance: Callable[[int], None]) -> T_co:
        """Do it, and tell ``advance`` how much more is done now and then."""


def usual_count() -> int:
    """As many processes as there are processors for this one, within bounds."""
    return min(len(os.sched_getaffinity(0)), MOST_PROCESSES)


class Processes:
    """Processes that do jobs, made when they are needed. To be closed.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._children: list[_Child] = []

    def close(self) -> None:
        """End them all, whatever they are doing. Others are made when they are needed."""
        while self._children:
            self._children.pop().end()

    def run(self, jobs: Sequence[Job[T]], advance: Callable[[int], None]) -> list[T]:
        """Do jobs at the same time, and at most ``count`` of them; a single one is done by this process.

        Args:
            jobs: each is one process's.
            advance: is told what the jobs tell.

        Returns:
            What comes of them, in their order.

        Raises:
            FatalError: a process could not be started, or has ended before its job has.
            Exception: what a job raises. The others' come to nothing: all processes are ended.
        """
        if len(jobs) == 1:
            return [jobs[0](advance)]
        try:
            return self._shared(jobs, advance)
        except BaseException:  # Ctrl-C too
            self.close()
            raise

    def _shared(self, jobs: Sequence[Job[T]], advance: Callable[[int], None]) -> list[T]:
        while len(self._children) < len(jobs):
            self._children.append(_Child())
        unfinished = {child.connection: number for number, child in enumerate(self._children[: len(jobs)])}
        for job, child in zip(jobs, self._children, strict=False):
            child.give(job)
        found: dict[int, T] = {}
        while unfinished:
            for connection in wait(list(unfinished)):
                assert isinstance(connection, Connection)
                kind, told = self._children[unfinished[connection]].answer()
                if kind == FAILED:
                    raise told
                if kind == ADVANCED:
                    advance(told)
                else:
                    found[unfinished.pop(connection)] = told
        return [found[number] for number in range(len(jobs))]


class _Child:
    """One process. Raises FatalError if it cannot be started."""

    def __init__(self) -> None:
        try:
            self.connection, theirs = multiprocessing.Pipe()
        except OSError as error:
            raise FatalError(f"no process can be started: {error}") from error
        with theirs:
            fd = theirs.fileno()
            command = [sys.executable, "-P", "-m", "headrace.pipeline.cli.child", str(fd), str(os.getpid())]
            try:
                # in a session of its own Ctrl-C does not reach it
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=(fd,), start_new_session=True
                )
            except OSError as error:
                self.connection.close()
                raise FatalError(f"no process can be started: {error}") from error

    def give(self, job: Job[Any]) -> None:
        """Raises FatalError if it has ended."""
        try:
            self.connection.send(job)
        except OSError as error:
            raise self._died() from error

    def answer(self) -> tuple[str, Any]:
        """What it says next. Raises FatalError if it has ended."""
        try:
            kind, told = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        return kind, told

    def end(self) -> None:
        """Kill it: what it has read and written is of no use without this process."""
        self._process.kill()
        self._process.wait()
        self.connection.close()

    def _died(self) -> FatalError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GONE_SECONDS)
        code = self._process.returncode
        if code is None or code >= 0:
            return FatalError(f"a process that reads records has ended (exit code {code})")
        hint = ": is there enough memory?" if -code == signal.SIGKILL else ""
        return FatalError(f"a process that reads records was ended by {signal.Signals(-code).name}{hint}")
