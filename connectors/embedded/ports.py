"""Free TCP ports, reserved against every other headrace process on this machine."""

from __future__ import annotations

import json
import random
import socket
from pathlib import Path
from types import TracebackType

from headrace.pipeline.errors import StackError

LOOPBACK = "127.0.0.1"
_RANGE = range(20_000, 32_000)
"""Below Linux's ephemeral range (32768 up), so that no outgoing connection takes a port between stop and restart."""


class PortReservation:
    """Holds ports until closed (or until this process dies), also while no server listens on them.

    A reservation is an abstract Unix socket named after the port: taking it is atomic, and the kernel releases it
    with the process.
    """

    def __init__(self) -> None:
        self._held: dict[int, socket.socket] = {}

    def take(self, preferred: int | None = None) -> int:
        """Reserve a free port, ``preferred`` if that is free.

        Raises:
            StackError: if no free port was found.
        """
        if preferred is not None and self._try(preferred):
            return preferred
        for port in random.SystemRandom().sample(_RANGE, k=200):
            if self._try(port):
                return port
        raise StackError(f"no free port found in {_RANGE.start}-{_RANGE.stop - 1}: end programs that listen there")

    def _try(self, port: int) -> bool:
        if port in self._held or not is_free(port):
            return False
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claim.bind(f"\0headrace-port-{port}")
        except OSError:
            claim.close()
            return False
        self._held[port] = claim
        return True

    def close(self) -> None:
        """Give all ports back."""
        for claim in self._held.values():
            claim.close()
        self._held.clear()

    def __enter__(self) -> PortReservation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def remembered_ports(path: Path) -> dict[str, int]:
    """Ports by name as an earlier run noted them; those that cannot be read are left out: free ones will do."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    named = found.items() if isinstance(found, dict) else ()
    return {name: port for name, port in named if type(port) is int and 0 < port < 65536}


def is_free(port: int) -> bool:
    """True if a server could listen on this port of every interface now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free for a server
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True
