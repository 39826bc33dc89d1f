"""One server as a child process that cannot outlive this one."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from headrace.pipeline.errors import StackError

_GUARD = Path(__file__).with_name("guard.py")
_SPAWN_SECONDS = 20.0
_READY_POLL_SECONDS = 0.05
_LOG_TAIL_BYTES = 16_384
_LOG_TAIL_LINES = 15


def guarded(command: Sequence[str], report_fd: int, clean_prefix: str = "") -> list[str]:
    """The command line that runs ``command`` under a guard of this process (see ``guard.py``)."""
    owner = str(os.getpid())
    return [sys.executable, "-I", "-S", str(_GUARD), owner, str(report_fd), clean_prefix, "--", *command]


class ServerProcess:
    """Starts, watches and ends a server through a guard process (``guard.py``). Output goes to a log file.

    Args:
        name: what people call it, for messages.
        log_path: where output goes; the log of the previous start is kept beside it with the ending ``.1``.
        clean_prefix: path prefix of files to remove when the server is gone, however it went.
    """

    def __init__(self, name: str, log_path: Path, clean_prefix: str = "") -> None:
        self.name = name
        self.log_path = log_path
        self._clean_prefix = clean_prefix
        self._guard: subprocess.Popen[bytes] | None = None
        self._pid = 0

    @property
    def pid(self) -> int:
        """The server's own process id, 0 before the first start."""
        return self._pid

    @property
    def running(self) -> bool:
        return self._guard is not None and self._guard.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The last run's exit status (128 + signal if a signal ended it), None while running or never started."""
        return None if self._guard is None else self._guard.poll()

    def spawn(self, command: Sequence[str], environment: Mapping[str, str], directory: Path) -> None:
        """Start the server; does not wait until it is ready.

        Raises:
            StackError: if it runs already or the command cannot be run.
        """
        if self.running:
            raise StackError(f"{self.name} runs already (pid {self._pid})")
        rotate(self.log_path)
        read_end, write_end = os.pipe()
        try:
            with self.log_path.open("wb") as log:
                self._guard = subprocess.Popen(
                    guarded(command, write_end, self._clean_prefix),
                    env=dict(environment),
                    cwd=directory,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(write_end,),
                    start_new_session=True,
                )
            os.close(write_end)
            write_end = -1
            self._pid = self._reported_pid(read_end)
        finally:
            os.close(read_end)
            if write_end >= 0:
                os.close(write_end)

    def _reported_pid(self, read_end: int) -> int:
        readable, _, _ = select.select([read_end], [], [], _SPAWN_SECONDS)
        report = os.read(read_end, 4096).decode().strip() if readable else "its guard process did not answer"
        if report.isdecimal():
            return int(report)
        self.kill()
        raise StackError(f"{self.name} could not be started: {report or self.log_tail()}")

    def wait_until(self, ready: Callable[[], bool], timeout_seconds: float) -> None:
        """Wait until ``ready`` returns True.

        Raises:
            StackError: with the end of the log, if the server ended or the time is up; the server is dead then.
        """
        deadline = time.monotonic() + timeout_seconds
        while not ready():
            if not self.running:
                raise StackError(f"{self.name} ended while starting (exit {self.exit_code}); {self.log_tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise StackError(f"{self.name} was not ready in {timeout_seconds:.0f} s; {self.log_tail()}")
            time.sleep(_READY_POLL_SECONDS)

    def stop(self, grace_seconds: float) -> bool:
        """End it politely (SIGTERM), after ``grace_seconds`` by SIGKILL. True if it ended by itself in time."""
        if self._guard is None or not self._signal_guard(signal.SIGTERM):
            return True
        try:
            self._guard.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        return True

    def kill(self) -> None:
        """SIGKILL it with all its children, and wait until they are gone."""
        if self._guard is None or not self._signal_guard(signal.SIGUSR1):
            return
        try:
            self._guard.wait(_SPAWN_SECONDS)
        except subprocess.TimeoutExpired:
            self._guard.kill()  # the kernel then kills the server
            self._guard.wait()

    def _signal_guard(self, number: int) -> bool:
        assert self._guard is not None
        if self._guard.poll() is not None:
            return False
        with contextlib.suppress(ProcessLookupError):
            self._guard.send_signal(number)
        return True

    def log_tail(self) -> str:
        """The last lines of the log, with where to find the rest."""
        return f"log {self.log_path} ends with:\n{tail(self.log_path)}"


def rotate(log_path: Path) -> None:
    """Make room for a new log: the previous one gets the ending ``.1``. The folder is made if missing."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    if log_path.exists():
        log_path.replace(f"{log_path}.1")


def tail(path: Path) -> str:
    """The last lines of a file, each indented."""
    if not path.exists():
        return "  (no log)"
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - _LOG_TAIL_BYTES))
        lines = log.read().decode(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
    return "\n".join(f"  {line}" for line in lines) or "  (empty)"
