"""The whole stack in one context manager: Kafka, schema registry and Triton, on free ports, gone with its owner."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from headrace.connectors.embedded.downloads import Downloads
from headrace.connectors.embedded.extras import Extra, chosen, ensure_extra
from headrace.connectors.embedded.kafka import KafkaServer
from headrace.connectors.embedded.locks import file_lock
from headrace.connectors.embedded.owners import sweep, temporary_folder
from headrace.connectors.embedded.paths import atomic_write, cache_dir
from headrace.connectors.embedded.ports import PortReservation, remembered_ports
from headrace.connectors.embedded.progress import Progress
from headrace.connectors.embedded.registry import RegistryServer
from headrace.connectors.embedded.state import Endpoints, Member, ModelState
from headrace.connectors.embedded.triton import TritonServer
from headrace.connectors.embedded.triton_env import TritonInterpreter, ensure_interpreter, ensure_models
from headrace.connectors.embedded.workers import Workers
from headrace.pipeline.errors import StackError

T = TypeVar("T")
_PORTS = ("kafka", "controller", "registry", "triton_http", "triton_grpc", "triton_metrics")
_IN_USE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Installed:
    """What the servers are started from: downloaded, built and verified."""

    classpath: tuple[Path, ...]
    registry_jar: Path
    interpreter: TritonInterpreter
    repository: Path
    extras: tuple[Extra, ...] = ()


class Stack:
    """Starts the servers; stops them, and whatever they left, at the end. Not for use from several threads.

    Args:
        data_dir: where data is kept from one run to the next, ports too if they are free then. None: a temporary
            folder that is removed at the end, and the servers are killed rather than stopped, which is quicker.
        placement: ``cpu`` or ``cuda``: where the models run.
        extras: names of optional models to serve, or ``all``; what they need is downloaded the first time.
        models: the user's own model repositories, served beside the bundled models.
        progress: reports downloads; the default writes to stderr.
        cache: where downloads are kept; the default is ``cache_dir()``.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        placement: str = "cpu",
        extras: Sequence[str] = (),
        models: Sequence[Path] = (),
        progress: Progress | None = None,
        cache: Path | None = None,
    ) -> None:
        self._given_data_dir = data_dir
        self._placement = placement
        self._extras = chosen(extras)
        self._models = tuple(models)
        self._progress = progress or Progress()
        self._cache = cache or cache_dir()
        self._resources = contextlib.ExitStack()
        self._ports = PortReservation()
        self._kafka: KafkaServer | None = None
        self._registry: RegistryServer | None = None
        self._triton: TritonServer | None = None
        self._workers: Workers | None = None

    @property
    def kafka(self) -> KafkaServer:
        return self._started(self._kafka)

    @property
    def registry(self) -> RegistryServer:
        return self._started(self._registry)

    @property
    def triton(self) -> TritonServer:
        return self._started(self._triton)

    @property
    def workers(self) -> Workers:
        return self._started(self._workers)

    @staticmethod
    def _started(server: T | None) -> T:
        if server is None:
            raise StackError("the embedded stack is not started")
        return server

    @property
    def endpoints(self) -> Endpoints:
        """Where the servers answer. Raises StackError if the stack is not started."""
        return Endpoints(
            bootstrap_servers=self.kafka.bootstrap_servers,
            registry_url=self.registry.url,
            triton_grpc=self.triton.grpc,
            triton_http=self.triton.http,
            triton_metrics_url=self.triton.metrics_url,
        )

    def start(self) -> None:
        """Download what is missing, start everything and wait until it answers; returns when all is ready.

        Raises:
            StackError: if something cannot be downloaded or started; nothing is left running then.
        """
        if self._kafka is not None:
            raise StackError("the embedded stack is started already")
        try:
            self._start()
        except BaseException:  # Ctrl-C too: leave nothing behind
            self.kill()
            raise

    def prepare(self) -> Installed:
        """Download and build what is missing, verify the rest; ``start`` does it too. Raises StackError."""
        downloads = Downloads(self._cache, self._progress)
        classpath, registry_jar = downloads.kafka_classpath(), downloads.registry_jar()
        interpreter = ensure_interpreter(self._cache, self._progress, self._placement)
        repository = ensure_models(self._cache, interpreter, self._placement, self._progress)
        extras = tuple(
            ensure_extra(self._cache, interpreter, name, self._placement, self._progress) for name in self._extras
        )
        return Installed(classpath, registry_jar, interpreter, repository, extras)

    def _start(self) -> None:
        sweep()
        installed = self.prepare()
        data_dir = self._claim_data_dir()
        ports = self._take_ports(data_dir)
        self._kafka = KafkaServer(data_dir / "kafka", installed.classpath, ports["kafka"], ports["controller"])
        self._registry = RegistryServer(
            data_dir / "registry", installed.registry_jar, ports["registry"], self._kafka.bootstrap_servers
        )
        self._triton = TritonServer(
            data_dir / "triton",
            installed.interpreter,
            installed.repository,
            http_port=ports["triton_http"],
            grpc_port=ports["triton_grpc"],
            metrics_port=ports["triton_metrics"],
            gpu_metrics=self._placement == "cuda",
            extras=installed.extras,
            models=self._models,
        )
        self._workers = Workers(data_dir / "workers", self.endpoints, self._ports)
        self._triton.spawn()  # loads its models while the other two start
        self._kafka.start()
        self._registry.start()
        self._triton.wait_ready()
        self._triton.wait_for_models()  # here only: a server that is started again must not keep the others waiting

    def _claim_data_dir(self) -> Path:
        if self._given_data_dir is None:
            folder = temporary_folder("stack")
            self._resources.callback(shutil.rmtree, folder, ignore_errors=True)
            return folder
        purpose = f"the data in {self._given_data_dir}"
        self._resources.enter_context(file_lock(self._given_data_dir / "lock", _IN_USE_SECONDS, purpose))
        return self._given_data_dir

    def _take_ports(self, data_dir: Path) -> dict[str, int]:
        """Last time's ports where they are free, so that clients' addresses stay good."""
        memory = data_dir / "ports.json"
        last = remembered_ports(memory)
        self._resources.callback(self._ports.close)
        ports = {name: self._ports.take(last.get(name)) for name in _PORTS}
        atomic_write(memory, json.dumps(ports))
        return ports

    def stop(self) -> None:
        """Stop workers first (they drain), then the servers; a temporary stack is killed instead."""
        if self._given_data_dir is None:
            self.kill()
            return
        try:
            if self._workers is not None:
                self._workers.stop()
            for server in (self._triton, self._registry, self._kafka):
                if server is not None:
                    server.stop()
        except BaseException:  # a second Ctrl-C
            self.kill()
            raise
        self._forget()

    def kill(self) -> None:
        """SIGKILL everything; data stays as a crash would leave it (a temporary stack's is removed)."""
        try:
            for server in (self._workers, self._triton, self._registry, self._kafka):
                if server is not None:
                    server.kill()
        finally:  # a Ctrl-C meanwhile too
            self._forget()

    def revive(self) -> tuple[str, ...]:
        """Start servers that ended, on their old ports with their data; returns their names.

        Raises:
            StackError: if one does not start again.
        """
        revived = []
        for server in (self.kafka, self.registry, self.triton):
            if not server.process.running:
                revived.append(server.process.name)
                server.start()
        return tuple(revived)

    def sync_models(self) -> list[str]:
        """Begin to load and unload the user's models as their files say; a line for each whose state is news."""
        return self.triton.sync_models()

    def user_models(self) -> tuple[ModelState, ...]:
        """The user's models and what became of them."""
        return self.triton.user_models

    def members(self) -> tuple[Member, ...]:
        """Every process of the stack, workers last."""
        endpoints = self.endpoints
        servers = (
            ("kafka", self.kafka.process, endpoints.bootstrap_servers),
            ("registry", self.registry.process, endpoints.registry_url),
            ("triton", self.triton.process, endpoints.triton_grpc),
        )
        found = tuple(
            Member(name, process.pid, "running" if process.running else "restarting", where, str(process.log_path))
            for name, process, where in servers
        )
        return (*found, *self.workers.members())

    def _forget(self) -> None:
        self._kafka = self._registry = self._triton = self._workers = None
        self._resources.close()

    def __enter__(self) -> Stack:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
