"""What the embedded servers have in common: how one begins and ends."""

from __future__ import annotations

import abc
from types import TracebackType
from typing import Self

from headrace.connectors.embedded.process import ServerProcess


class Server(abc.ABC):
    """A server that runs as a guarded process. As a context manager it is started, and stopped at the end."""

    def __init__(self, process: ServerProcess) -> None:
        self._process = process

    @property
    def process(self) -> ServerProcess:
        return self._process

    @abc.abstractmethod
    def spawn(self) -> None:
        """Start without waiting."""

    @abc.abstractmethod
    def wait_ready(self) -> None:
        """Wait until it answers. Raises StackError with the end of its log."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Shut down tidily."""

    def start(self) -> None:
        """Start and wait until it answers. Raises what ``spawn`` and ``wait_ready`` raise."""
        self.spawn()
        self.wait_ready()

    def kill(self) -> None:
        """SIGKILL it and its children, as a crash would; its shared memory is removed."""
        self._process.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
