"""A Triton for one process, which gives way to everything else on the machine."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from headrace.connectors.embedded.owners import sweep, temporary_folder
from headrace.connectors.embedded.paths import cache_dir
from headrace.connectors.embedded.ports import PortReservation
from headrace.connectors.embedded.progress import Progress
from headrace.connectors.embedded.triton import TritonServer
from headrace.connectors.embedded.triton_env import ensure_interpreter, ensure_models

LOWEST_PRIORITY = 19
_PLACEMENT = "cpu"


@contextlib.contextmanager
def own_triton(models: Sequence[Path] = ()) -> Iterator[str]:
    """``host:port`` of a Triton that serves the bundled models on the CPU, with a niceness of 19.

    Args:
        models: the user's own model repositories, served as well.

    Raises:
        StackError: it cannot be downloaded or started; nothing is left running then.
    """
    sweep()
    cache, progress = cache_dir(), Progress()
    interpreter = ensure_interpreter(cache, progress, _PLACEMENT)
    repository = ensure_models(cache, interpreter, _PLACEMENT, progress)
    folder = temporary_folder("triton")
    try:
        with PortReservation() as ports:
            server = TritonServer(
                folder,
                interpreter,
                repository,
                http_port=ports.take(),
                grpc_port=ports.take(),
                metrics_port=ports.take(),
                models=models,
            )
            try:
                server.spawn()
                os.setpriority(os.PRIO_PROCESS, server.process.pid, LOWEST_PRIORITY)  # its threads are yet to come
                server.wait_ready()
                server.wait_for_models()
                yield server.grpc
            finally:
                server.kill()  # it holds nothing that must be saved
    finally:
        shutil.rmtree(folder, ignore_errors=True)
