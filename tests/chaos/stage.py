"""All that a chaos run breaks: three brokers, registry, Triton, proxies before them, and workers as processes."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from headrace.connectors.embedded.ports import LOOPBACK, PortReservation
from headrace.connectors.embedded.registry import RegistryServer
from headrace.connectors.embedded.stack import Stack
from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.embedded.triton import TritonServer
from headrace.connectors.kafka.admin import ensure_topics
from headrace.pipeline.records import TopicSpec
from tests.chaos import stalls
from tests.chaos.clock import JumpingClock
from tests.chaos.cluster import KafkaCluster
from tests.chaos.load import pipeline_settings
from tests.chaos.proxy import FaultProxy
from tests.chaos.schedule import CLOCK_SLOT, SLOTS, STORM_SLOTS
from tests.chaos.tally import Topics
from tests.integration.harness import WorkerProcess, wait_until

GROUP = "chaos"
KAFKA = {"max_poll_interval_seconds": 20}
RESTART_SECONDS = 0.5
"""A worker that ended by itself is started again after so long, as a supervisor would."""
SHARED_SECONDS = 120.0
LOG_SHOWN = 4000


class Stage:
    """As a context manager everything is started, and killed at the end.

    Args:
        folder: for data and logs.
        slots: of the workers that are started.
        settings: sections of ``pipeline.yaml`` that differ from those of ``load.pipeline_settings``.
    """

    def __init__(self, folder: Path, slots: Sequence[int] = SLOTS, **settings: Any) -> None:
        self._folder = folder
        self._slots = slots
        self._resources = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._wanted: set[int] = set()
        self._watching = threading.Event()
        self._watcher = threading.Thread(target=self._supervise, name="supervisor")
        self.topics = Topics.of(GROUP)
        whole = pipeline_settings(self.topics, GROUP, replication_factor=3)
        whole["kafka"] |= KAFKA
        whole["user_code"] = {"modules": [stalls.__name__], "path": str(Path(stalls.__file__).parents[2])}
        for section, content in settings.items():
            whole[section] = {**whole.get(section, {}), **content} if isinstance(content, Mapping) else content
        self.config = folder / "pipeline.yaml"
        self.config.write_text(yaml.safe_dump(whole))
        self.exits: Counter[int] = Counter()
        """Workers that ended by themselves, by exit code."""
        self.last_words: list[str] = []
        """The last line of each one's log."""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:  # Ctrl-C too: leave nothing behind
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is not None:
            for worker in self.workers.values():
                print(f"--- the end of worker {worker.slot}'s log\n{worker.log[-LOG_SHOWN:]}", file=sys.stderr)
        self.close()

    def _start(self) -> None:
        installed = Stack().prepare()
        ports = PortReservation()
        self._resources.callback(ports.close)
        self.cluster = self._resources.enter_context(KafkaCluster(self._folder, installed.classpath, ports))
        ensure_topics(
            self.cluster.bootstrap_servers,
            [TopicSpec("kafkasql-journal", 1, replication_factor=3, config={"retention.ms": "-1"})],
        )
        self.registry = RegistryServer(
            self._folder / "registry", installed.registry_jar, ports.take(), self.cluster.bootstrap_servers
        )
        repository = self._folder / "models"
        repository.mkdir()
        (repository / "delay").symlink_to(installed.repository / "delay")
        self.triton = TritonServer(
            self._folder / "triton",
            installed.interpreter,
            repository,
            http_port=ports.take(),
            grpc_port=(grpc_port := ports.take()),
            metrics_port=ports.take(),
        )
        for server in (self.registry, self.triton):
            self._resources.callback(server.kill)
            server.start()
        self.triton_proxy = FaultProxy(ports.take(), grpc_port)
        self._resources.callback(self.triton_proxy.close)
        self.clock = self._resources.enter_context(JumpingClock(self._folder / "clock"))
        self.workers = {slot: self._worker(slot, ports.take()) for slot in (*SLOTS, *STORM_SLOTS)}
        self._resources.callback(self._kill_workers)
        self._watcher.start()
        for slot in self._slots:
            self.start_worker(slot)
        for slot in self._slots:
            self.workers[slot].wait_ready(SHARED_SECONDS)

    def environment(self, slot: int) -> dict[str, str]:
        """Of a worker: brokers and Triton through their proxies, and the file that stalls it."""
        endpoints = Endpoints(
            bootstrap_servers=self.cluster.proxied_bootstrap_servers,
            registry_url=self.registry.url,
            triton_grpc=f"{LOOPBACK}:{self.triton_proxy.port}",
            triton_http=self.triton.http,
            triton_metrics_url=self.triton.metrics_url,
        )
        return {**endpoints.environment(), stalls.FILE: str(self.stall_file(slot))}

    def _worker(self, slot: int, http_port: int) -> WorkerProcess:
        environment = self.environment(slot)
        if slot == CLOCK_SLOT:
            environment |= self.clock.environment
        return WorkerProcess(slot, self._folder, self.config, environment, http_port)

    def stall_file(self, slot: int) -> Path:
        """What is written here stalls the worker (see ``stalls``)."""
        return self._folder / f"stall-{slot}"

    # --- workers, which are supervised

    def start_worker(self, slot: int) -> None:
        """Start it, and start it again whenever it ends by itself."""
        with self._lock:
            self.workers[slot].start()
            self._wanted.add(slot)

    def kill_worker(self, slot: int) -> None:
        with self._lock:
            self._wanted.discard(slot)
            self.workers[slot].kill()

    def terminate_worker(self, slot: int, seconds: float) -> None:
        """SIGTERM, and SIGKILL if it has not drained in so many seconds."""
        with self._lock:
            self._wanted.discard(slot)
        self.workers[slot].stop(seconds)

    def _supervise(self) -> None:
        while not self._watching.wait(RESTART_SECONDS):
            with self._lock:
                for slot in self._wanted:
                    worker = self.workers[slot]
                    if not worker.running:
                        self.exits[worker.wait_ended(0)] += 1
                        last_line = worker.log.rstrip().rpartition("\n")[2]
                        self.last_words.append(f"worker {slot}: {last_line}")
                        worker.start()

    def settle(self) -> None:
        """Until every worker that should run is ready."""
        for slot in sorted(self._wanted):
            worker = self.workers[slot]
            wait_until(lambda worker=worker: worker.readyz()[0] == 200, SHARED_SECONDS, f"worker {slot} to be ready")  # type: ignore[misc]

    def _kill_workers(self) -> None:
        self._watching.set()
        if self._watcher.ident is not None:
            self._watcher.join()
        for worker in self.workers.values():
            worker.kill()

    def close(self) -> None:
        self._resources.close()
