"""Running a worker's Faust app as a process: logs, signals, exit code."""

from __future__ import annotations

import asyncio
import logging
import socket

import faust

from headrace.pipeline.app import create_app
from headrace.pipeline.config import Settings
from headrace.pipeline.errors import FatalError
from headrace.pipeline.log import configure_logging

log = logging.getLogger(__name__)


def run_worker(settings: Settings) -> None:
    """Run one worker until SIGTERM or SIGINT.

    Raises:
        FatalError: what made it end, its exit code included.
    """
    worker = settings.worker
    port = _listenable(worker.http_host, worker.http_port)
    settings = settings.model_copy(update={"worker": worker.model_copy(update={"http_port": port})})
    configure_logging(worker.log_format, worker.log_level, worker.slot)
    log.info("serving /metrics, /livez and /readyz on %s port %d", worker.http_host, port)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # what Faust's services find when they ask for one outside a coroutine
    app = create_app(settings)
    host = faust.Worker(app, loop=loop, override_logging=False, redirect_stdouts=False, quiet=True)
    host.spinner = None  # its control codes have no place in a log
    try:
        host.execute_from_commandline()
    except SystemExit:
        if isinstance(app.failure, FatalError):
            raise app.failure from None
        if app.failure is not None:
            raise FatalError(f"the worker failed: {type(app.failure).__name__}: {app.failure}") from app.failure
        raise


def _listenable(host: str, port: int) -> int:
    """The port to use: a free one for 0. Faust binds it later, and would only say why it cannot in a traceback."""
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
