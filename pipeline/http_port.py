"""The port of a worker's HTTP pages."""

from __future__ import annotations

import socket

from headrace.pipeline.errors import FatalError


def listenable(host: str, port: int) -> int:
    """The port to use: a free one for 0. Faust binds it later, and would only say why it cannot in a traceback.

    Raises:
        FatalError: it cannot be listened on.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free for a server
            probe.bind((host, port))
            found: int = probe.getsockname()[1]
            return found
    except OSError as error:
        raise FatalError(
            f"cannot serve /metrics and /readyz on {host} port {port} ({error.strerror}): "
            "set worker.http_port (--http-port N; 0 takes a free one)"
        ) from error
