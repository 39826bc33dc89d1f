"""Owns the stack of ``headrace up``: starts it, keeps it running, tells other commands where it is, stops it."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from headrace.connectors.embedded.http import answers_ok
from headrace.connectors.embedded.locks import file_lock
from headrace.connectors.embedded.owners import owner_tag
from headrace.connectors.embedded.paths import state_dir
from headrace.connectors.embedded.process import tail
from headrace.connectors.embedded.stack import Stack
from headrace.connectors.embedded.state import Endpoints, Member, StackState, remove_state, write_state
from headrace.pipeline.errors import StackError

_LOCK_SECONDS = 1.0
_WATCH_SECONDS = 0.5
_WORKERS_READY_SECONDS = 90.0
_MAX_REVIVALS = 5
"""Servers started again within ``_STEADY_SECONDS`` before something must be wrong with them."""
_STEADY_SECONDS = 60.0


class StopRequested(BaseException):
    """SIGTERM or SIGHUP came. Like KeyboardInterrupt, not to be caught by what catches errors."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run."""

    placement: str
    workers: int
    config: Path | None
    set_up: Callable[[Endpoints], None]
    """Creates topics and registers schemas once the servers answer, before any worker starts."""


def data_dir() -> Path:
    """Where ``headrace up`` keeps its data."""
    return state_dir() / "data"


def run(stack: Stack, plan: Plan, announce: Callable[[StackState], None], warn: Callable[[str], None]) -> None:
    """Run the stack until it is told to stop (Ctrl-C, SIGTERM, SIGHUP); everything is stopped when this returns.

    Args:
        stack: not started yet, its data in ``data_dir()``.
        plan: what to run on it.
        announce: called once, when all is ready.
        warn: called with a line for people when a server had to be started again.

    Raises:
        StackError: if it cannot be started, or a server keeps ending.
    """
    owner = owner_tag()
    with (
        contextlib.suppress(KeyboardInterrupt, StopRequested),
        _stopped_by_signals(),
        file_lock(state_dir() / "up.lock", _LOCK_SECONDS, "'headrace up'"),  # the state file is the holder's
    ):
        try:
            write_state(StackState(owner, ready=False, endpoints=None, data_dir=str(data_dir())))
            with stack:
                plan.set_up(stack.endpoints)
                stack.workers.start(plan.workers, plan.config)
                wait_for_workers(stack)
                state = _state(owner, stack)
                write_state(state)
                announce(state)
                _keep_running(stack, state, warn)
        finally:
            remove_state()


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    def stop(number: int, _frame: FrameType | None) -> None:
        raise StopRequested(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for_workers(stack: Stack) -> None:
    """Wait until every worker says that it is ready.

    Raises:
        StackError: if one gave up, or is not ready in time; with the end of its log.
    """
    deadline = time.monotonic() + _WORKERS_READY_SECONDS
    waiting = list(stack.workers.members())
    while waiting:
        for member in stack.workers.members():
            if member.state == "failed":
                raise StackError(f"{member.name} cannot run; log {member.log} ends with:\n{tail(Path(member.log))}")
        waiting = [member for member in waiting if not is_answering(member)]
        if waiting and time.monotonic() > deadline:
            slow = waiting[0]
            raise StackError(
                f"{slow.name} was not ready in {_WORKERS_READY_SECONDS:.0f} s; "
                f"log {slow.log} ends with:\n{tail(Path(slow.log))}"
            )
        time.sleep(0.1)


def is_answering(worker: Member) -> bool:
    """True if a worker's ``/readyz`` says yes."""
    return answers_ok(int(worker.endpoint.rpartition(":")[2]), "/readyz")


def _keep_running(stack: Stack, state: StackState, warn: Callable[[str], None]) -> None:
    revivals: list[float] = []
    while True:
        time.sleep(_WATCH_SECONDS)
        for name in stack.revive():
            warn(f"{name} had ended and was started again")
            revivals = [at for at in revivals if time.monotonic() - at < _STEADY_SECONDS] + [time.monotonic()]
            if len(revivals) > _MAX_REVIVALS:
                raise StackError(f"{name} keeps ending: see its log in {state.data_dir}")
        now = _state(state.owner, stack)
        if now != state:
            state = now
            write_state(state)


def _state(owner: str, stack: Stack) -> StackState:
    return StackState(owner, True, stack.endpoints, str(data_dir()), stack.members())
