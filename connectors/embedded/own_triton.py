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
from headrace.connectors.embedded.user_models import check_repository
from headrace.pipeline.errors import StackError

LOWEST_PRIORITY = 19
_PLACEMENT = "cpu"


@contextlib.contextmanager
def own_triton(models: Sequence[Path] = ()) -> Iterator[TritonServer]:
    """A Triton that serves the bundled models on the CPU, with a niceness of 19 once it is ready.

    Args:
        models: the user's own model repositories, served as well.

    Raises:
        ConfigError: one of them is no model repository.
        StackError: it cannot be downloaded or started, or does not serve them; nothing is left running then.
    """
    for each in models:
        check_repository(each)
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
                models=tuple(dict.fromkeys(each.absolute() for each in models)),
            )
            try:
                server.start()
                server.wait_for_models()
                for state in server.user_models:
                    if not state.serving:
                        raise StackError(
                            f"model {state.name} of {state.folder} is not served: {state.trouble or 'it still loads'}"
                        )
                _give_way(server.process.pid)
                yield server
            finally:
                server.kill()  # it holds nothing that must be saved
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _give_way(pid: int) -> None:
    """All threads of a process and of those that it has started; later ones are born so."""
    with contextlib.suppress(OSError):  # what ends meanwhile is not there to be told
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), LOWEST_PRIORITY)
            for child in (thread / "children").read_text().split():
                _give_way(int(child))


def check_running(server: TritonServer) -> None:
    """Raises StackError, with the end of its log, if it has ended."""
    if not server.process.running:
        raise StackError(
            f"the replay's own Triton has ended (exit {server.process.exit_code}); {server.process.log_tail()}"
        )
