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
_STOP_SECONDS = 30.0
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
        self._workers: dict[int, _Worker] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None

    def start(self, count: int, config: Path | None = None) -> None:
        """Start workers in slots 0 to ``count`` - 1 with this ``pipeline.yaml``, and watch over them."""
        self._config = config.absolute() if config else None
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

    def stop(self) -> None:
        """End all of them politely: they drain, commit and leave the group."""
        self._end_watching()
        enders = [
            threading.Thread(target=worker.process.stop, args=(_STOP_SECONDS,)) for worker in self._workers.values()
        ]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()

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
        worker.process.spawn(command, environment, Path.cwd())

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
            self._spawn(worker)

    def _end_watching(self) -> None:
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join()
            self._watcher = None
