"""Running a worker's Faust app as a process: logs, signals, exit code."""

from __future__ import annotations

import asyncio

import faust

from headrace.pipeline.app import Connect, KafkaTritonConnections, create_app
from headrace.pipeline.config import Settings
from headrace.pipeline.errors import FatalError
from headrace.pipeline.interpreter import set_for_a_worker
from headrace.pipeline.log import configure_logging
from headrace.pipeline.slot import slot_number


def run_worker(settings: Settings, connect: Connect = KafkaTritonConnections) -> None:
    """Run one worker until SIGTERM or SIGINT.

    Args:
        settings: of the worker.
        connect: makes what it needs of the outside.

    Raises:
        FatalError: what made it end, its exit code included.
        ConfigError: its slot is to be found in a host name that has none.
    """
    worker = settings.worker
    configure_logging(worker.log_format, worker.log_level, slot_number(worker.slot))
    set_for_a_worker()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # what Faust's services find when they ask for one outside a coroutine
    try:
        app = create_app(settings, connect)
    except FatalError:
        loop.close()
        raise
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
