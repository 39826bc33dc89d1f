"""Owns the stack of ``headrace up``: starts it, keeps it running, tells other commands where it is, stops it."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
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
_STOP_SECONDS = 80.0
"""The servers' patience and the workers', but for draining, with some to spare."""
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
    drain_seconds: float
    """The workers' ``worker.drain_timeout_seconds``."""
    set_up: Callable[[Endpoints], None]
    """Creates topics and registers schemas once the servers answer, before any worker starts."""
    extras: tuple[str, ...] = ()
    """Optional models to serve."""
    models: tuple[Path, ...] = ()
    """The user's own model repositories."""

    @property
    def stop_seconds(self) -> float:
        """The longest that stopping all of it takes."""
        return self.drain_seconds + _STOP_SECONDS


def data_dir() -> Path:
    """Where ``headrace up`` keeps its data."""
    return state_dir() / "data"


def up_lock() -> AbstractContextManager[None]:
    """Held by ``headrace up`` while it runs: state file and data are the holder's. Raises StackError if it is taken."""
    return file_lock(state_dir() / "up.lock", _LOCK_SECONDS, "'headrace up'")


def run(stack: Stack, plan: Plan, announce: Callable[[StackState], None], warn: Callable[[str], None]) -> None:
    """Run the stack until it is told to stop (Ctrl-C, SIGTERM, SIGHUP); everything is stopped when this returns.

    Args:
        stack: not started yet, its data in ``data_dir()``.
        plan: what to run on it.
        announce: called once, when all is ready.
        warn: called with a line for people when a server had to be started again, or a model of the user's changed.

    Raises:
        StackError: if it cannot be started, or a server keeps ending.
    """
    with contextlib.suppress(KeyboardInterrupt, StopRequested), _stopped_by_signals(), up_lock():
        try:
            state = StackState(owner_tag(), False, None, str(data_dir()), stop_seconds=plan.stop_seconds)
            write_state(state)
            with stack:
                plan.set_up(stack.endpoints)
                stack.workers.start(plan.workers, plan.config, plan.drain_seconds)
                wait_for_workers(stack)
                state = _updated(replace(state, ready=True, endpoints=stack.endpoints), stack)
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
        state = _updated(state, stack)  # before reviving, which takes a while: others see what is down
        for name in stack.revive():
            warn(f"{name} had ended and was started again")
            revivals = [at for at in revivals if time.monotonic() - at < _STEADY_SECONDS] + [time.monotonic()]
            if len(revivals) > _MAX_REVIVALS:
                raise StackError(f"{name} keeps ending: see its log in {state.data_dir}")
        for line in stack.sync_models():
            warn(line)
        state = _updated(state, stack)


def _updated(state: StackState, stack: Stack) -> StackState:
    """The state with members and models as they are now, written if that is news."""
    now = replace(state, members=stack.members(), models=stack.user_models())
    if now != state:
        write_state(now)
    return now
