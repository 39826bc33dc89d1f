"""``headrace down``."""

from __future__ import annotations

import os
import select
import shutil
import signal

import click

from headrace.connectors.embedded.owners import is_alive, sweep
from headrace.connectors.embedded.state import StackState, read_state, remove_state
from headrace.connectors.embedded.supervisor import data_dir
from headrace.pipeline.errors import StackError

_STOP_SECONDS = 90.0
_KILL_SECONDS = 10.0


@click.command()
@click.option("--purge", is_flag=True, help="Also delete the data: topics, schemas, logs. Downloads are kept.")
def command(purge: bool) -> None:
    """Stop the embedded stack: workers first, which finish what they have in flight.

    Ends with 0 also if nothing was running.
    """
    state = read_state()
    if state is None:
        click.echo("the embedded stack is not running")
    else:
        _stop(state)
        click.echo("the embedded stack is stopped")
    if read_state() is None:  # else another 'headrace up' has begun meanwhile
        remove_state()
    sweep()
    if purge:
        shutil.rmtree(data_dir(), ignore_errors=True)
        click.echo(f"deleted {data_dir()}")


def _stop(state: StackState) -> None:
    try:
        supervisor = os.pidfd_open(state.owner_pid)
    except ProcessLookupError:
        return
    try:
        if not is_alive(state.owner):  # the pid is somebody else's by now
            return
        signal.pidfd_send_signal(supervisor, signal.SIGTERM)
        if _ended(supervisor, _STOP_SECONDS):
            return
        click.echo(f"not stopped in {_STOP_SECONDS:.0f} s: killing it", err=True)
        signal.pidfd_send_signal(supervisor, signal.SIGKILL)  # its guards then kill every server
        if not _ended(supervisor, _KILL_SECONDS):
            raise StackError(f"process {state.owner_pid} cannot be killed: look at it with 'ps', then try again")
    finally:
        os.close(supervisor)


def _ended(process: int, timeout_seconds: float) -> bool:
    readable, _, _ = select.select([process], [], [], timeout_seconds)
    return bool(readable)
