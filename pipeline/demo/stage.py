"""Where a demo takes place: a folder and a stack of its own, gone at its end, however it ends."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from headrace.connectors.embedded.owners import temporary_folder
from headrace.connectors.embedded.stack import Stack
from headrace.pipeline.demo.interrupts import Interrupts
from headrace.pipeline.demo.logs import keep_logs
from headrace.pipeline.errors import StackError

T = TypeVar("T")
DATA = "stack"
"""The stack's part of the folder; its logs are below."""


def on_stage(
    name: str, logs: Path, console: Console, play: Callable[[Path, Stack], T], models: Sequence[Path] = ()
) -> T:
    """Play a demo. Whatever happens, Ctrl-C too, nothing is left running and no temporary folder behind.

    Args:
        name: of the demo, for its folder.
        logs: where the logs go if it fails.
        console: where it says so, and that it was interrupted.
        play: the demo, told its folder and its stack, which is not started yet. Returns what came of it.
        models: model repositories in that folder, by their paths in it, which the stack serves too.

    Raises:
        StackError: something could not be started, or a step failed; it names logs where they are kept.
    """
    with (
        Interrupts(lambda: console.print("interrupted: everything is stopped and removed")) as interrupts,
        contextlib.ExitStack() as cleanup,
    ):
        folder = temporary_folder(name)
        cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
        data_dir = folder / DATA
        stack = Stack(data_dir, models=[folder / each for each in models])
        cleanup.callback(stack.kill)  # what is removed anyway need not be saved first
        with interrupts.allowed():
            try:
                return play(folder, stack)
            except StackError as error:
                if not keep_logs(data_dir, logs, console):
                    raise
                raise StackError(str(error).replace(str(data_dir), str(logs))) from error  # it names logs, mostly
            except Exception:
                keep_logs(data_dir, logs, console)
                raise
