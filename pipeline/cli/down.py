"""``headrace down``."""

from __future__ import annotations

import os
import select
import shutil
import signal
import time
from pathlib import Path

import click

from headrace.connectors.embedded.owners import is_alive, sweep
from headrace.connectors.embedded.paths import state_dir
from headrace.connectors.embedded.state import StackState, read_state, remove_state, state_file
from headrace.connectors.embedded.supervisor import data_dir, up_lock
from headrace.pipeline.errors import StackError

_KILL_SECONDS = 10.0
DELETE_SECONDS = 10.0


@click.command()
@click.option("--purge", is_flag=True, help="Also delete the data: topics, schemas, logs. Downloads are kept.")
def command(purge: bool) -> None:
    """Stop the embedded stack: workers first, which finish what they have in flight.

    Ends with 0 also if nothing was running.
    """
    state = _running()
    if state is None:
        click.echo("the embedded stack is not running")
    else:
        _stop(state)
        click.echo("the embedded stack is stopped")
    sweep()
    if not state_dir().exists():
        return
    with up_lock():  # else it would be the state and data of an 'up' that has begun meanwhile
        remove_state()
        if purge:
            _delete(data_dir())
            click.echo(f"deleted {data_dir()}")


def _running() -> StackState | None:
    try:
        return read_state()
    except StackError:
        click.echo(f"{state_file()} is damaged: deleting it", err=True)
        return None


def _stop(state: StackState) -> None:
    try:
        supervisor = os.pidfd_open(state.owner_pid)
    except ProcessLookupError:
        return
    try:
        if not is_alive(state.owner):  # the pid is somebody else's by now
            return
        signal.pidfd_send_signal(supervisor, signal.SIGTERM)
        if _ended(supervisor, state.stop_seconds):
            return
        click.echo(f"not stopped in {state.stop_seconds:.0f} s: killing it", err=True)
        signal.pidfd_send_signal(supervisor, signal.SIGKILL)  # its guards then kill every server
        if not _ended(supervisor, _KILL_SECONDS):
            raise StackError(f"process {state.owner_pid} cannot be killed: look at it with 'ps', then try again")
    finally:
        os.close(supervisor)


def _delete(folder: Path) -> None:
    """Servers of a supervisor that was killed may still write there for a moment."""
    deadline = time.monotonic() + DELETE_SECONDS
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _ended(process: int, timeout_seconds: float) -> bool:
    readable, _, _ = select.select([process], [], [], timeout_seconds)
    return bool(readable)
