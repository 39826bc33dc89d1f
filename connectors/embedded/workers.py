"""Workers as child processes: started, watched, and started again with a growing pause when they end."""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from headrace.connectors.embedded.ports import LOOPBACK, PortReservation
from headrace.connectors.embedded.process import ServerProcess
from headrace.connectors.embedded.state import Endpoints, Member
from headrace.pipeline.errors import ConfigError, SlotTakenError, StackError

_WATCH_SECONDS = 0.2
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0
_STEADY_SECONDS = 30.0
"""A worker that ran this long starts over with the shortest pause."""
_DRAIN_SECONDS = 10.0
END_SECONDS = 20.0
"""For what a worker does beside draining when it stops: committing, leaving the group, ending."""
_HOPELESS = frozenset({ConfigError.exit_code, SlotTakenError.exit_code})
"""Exit codes that a restart cannot mend."""


@dataclass(slots=True)
class _Worker:
    slot: int
    process: ServerProcess
    http_port: int
    started_at: float = 0.0
    restart_at: float | None = None
    pause_seconds: float = _FIRST_PAUSE_SECONDS
    failed: bool = False
    trouble: str = ""


class Workers:
    """Worker processes, one a slot. Safe to use from several threads.

    Args:
        folder: their logs.
        endpoints: the servers they talk to.
        ports: where each one's HTTP port (metrics, health) is taken from.
    """

    def __init__(self, folder: Path, endpoints: Endpoints, ports: PortReservation) -> None:
        self._folder = folder
        self._endpoints = endpoints
        self._ports = ports
        self._config: Path | None = None
        self._directory = Path()
        self._stop_seconds = _DRAIN_SECONDS + END_SECONDS
        self._workers: dict[int, _Worker] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None

    def start(self, count: int, config: Path | None = None, drain_seconds: float = _DRAIN_SECONDS) -> None:
        """Start workers in slots 0 to ``count`` - 1, and watch over them.

        Args:
            count: how many.
            config: their ``pipeline.yaml``.
            drain_seconds: their ``worker.drain_timeout_seconds``, which ``stop`` grants them.
        """
        self._config = config.absolute() if config else None
        self._directory = Path.cwd()  # this process may go elsewhere before one has to be started again
        self._stop_seconds = drain_seconds + END_SECONDS
        self._stopping.clear()
        with self._lock:
            for slot in range(count):
                process = ServerProcess(f"worker {slot}", self._folder / f"worker-{slot}.log")
                worker = _Worker(slot, process, self._ports.take())
                self._workers[slot] = worker
                self._spawn(worker)
        self._watcher = threading.Thread(target=self._watch, name="worker-watcher", daemon=True)
        self._watcher.start()

    def kill(self, slot: int | None = None) -> None:
        """SIGKILL one worker, which is then started again, or all of them for good."""
        if slot is not None:
            self._workers[slot].process.kill()
            return
        self._end_watching()
        for worker in self._workers.values():
            worker.process.kill()

    def stop(self) -> dict[int, int]:
        """End all of them politely: they drain, commit and leave the group.

        Returns:
            Each slot's exit status: 0 if it ended as asked, 137 if it was killed because it took too long, and for one
            that had ended before, that of its last run.
        """
        self._end_watching()
        enders = [
            threading.Thread(target=worker.process.stop, args=(self._stop_seconds,))
            for worker in self._workers.values()
        ]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()
        codes = {slot: worker.process.exit_code for slot, worker in self._workers.items()}
        return {slot: code for slot, code in codes.items() if code is not None}

    def members(self) -> tuple[Member, ...]:
        """What each worker is doing now."""
        with self._lock:
            return tuple(self._member(worker) for worker in self._workers.values())

    def process(self, slot: int) -> ServerProcess:
        """The process in a slot. Raises StackError if there is none."""
        if slot not in self._workers:
            raise StackError(f"there is no worker in slot {slot}")
        return self._workers[slot].process

    @staticmethod
    def _member(worker: _Worker) -> Member:
        running = "running" if worker.process.running else "restarting"
        return Member(
            name=f"worker {worker.slot}",
            pid=worker.process.pid,
            state="failed" if worker.failed else running,
            endpoint=f"http://{LOOPBACK}:{worker.http_port}",
            log=str(worker.process.log_path),
            trouble=worker.trouble,
        )

    def _spawn(self, worker: _Worker) -> None:
        environment = {
            **os.environ,
            **self._endpoints.environment(),
            "HEADRACE_WORKER__SLOT": str(worker.slot),
            "HEADRACE_WORKER__HTTP_PORT": str(worker.http_port),
        }
        command = [sys.executable, "-m", "headrace", "worker", "--slot", str(worker.slot)]
        if self._config is not None:
            command += ["-c", str(self._config)]
        worker.restart_at = None
        worker.started_at = time.monotonic()
        worker.process.spawn(command, environment, self._directory)
        worker.trouble = ""

    def _watch(self) -> None:
        while not self._stopping.wait(_WATCH_SECONDS):
            with self._lock:
                for worker in self._workers.values():
                    if not worker.failed and not worker.process.running:
                        self._revive(worker, time.monotonic())

    def _revive(self, worker: _Worker, now: float) -> None:
        if worker.process.exit_code in _HOPELESS:
            worker.failed = True
        elif worker.restart_at is None:
            steady = now - worker.started_at > _STEADY_SECONDS
            worker.pause_seconds = _FIRST_PAUSE_SECONDS if steady else worker.pause_seconds
            worker.restart_at = now + worker.pause_seconds
            worker.pause_seconds = min(2 * worker.pause_seconds, _LONGEST_PAUSE_SECONDS)
        elif now >= worker.restart_at:
            try:
                self._spawn(worker)
            except (OSError, StackError) as error:  # tried again after a pause, as one that ended is
                worker.trouble = f"cannot be started: {error}"

    def _end_watching(self) -> None:
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join()
            self._watcher = None
