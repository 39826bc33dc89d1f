"""What others are told of a stack while it is supervised. Its servers are fakes; it has no workers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.connectors.embedded.ports import PortReservation
from headrace.connectors.embedded.stack import Stack
from headrace.connectors.embedded.state import Endpoints, Member, ModelState, StackState, read_state
from headrace.connectors.embedded.supervisor import Plan, run
from headrace.connectors.embedded.workers import Workers

ENDPOINTS = Endpoints("127.0.0.1:1", "http://127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4", "http://127.0.0.1:5/metrics")


class FakeStack(Stack):
    """One server, ``kafka``, that ``run`` finds dead; ``on_revive`` is what happens while it is started again."""

    def __init__(self, workers: Workers, on_revive: Callable[[], None]) -> None:
        super().__init__()
        self._fake_workers = workers
        self._on_revive = on_revive
        self.kafka_state = "running"
        self.last_state: StackState | None = None
        self.model = ModelState("mine", "/models/mine", serving=True)

    def start(self) -> None:
        """All is there."""

    def stop(self) -> None:
        self._fake_workers.kill()

    @property
    def workers(self) -> Workers:
        return self._fake_workers

    @property
    def endpoints(self) -> Endpoints:
        return ENDPOINTS

    def members(self) -> tuple[Member, ...]:
        return (Member("kafka", 1, self.kafka_state, "127.0.0.1:1", "/log"),)

    def user_models(self) -> tuple[ModelState, ...]:
        return (self.model,)

    def sync_models(self) -> list[str]:
        """A change breaks the model."""
        self.model = replace(self.model, trouble="SyntaxError")
        return ["model mine cannot be loaded: SyntaxError"]

    def revive(self) -> tuple[str, ...]:
        if self.kafka_state == "running":
            self.last_state = read_state()
            raise KeyboardInterrupt  # all has been seen
        self._on_revive()
        self.kafka_state = "running"
        return ("kafka",)


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with PortReservation() as ports:
        yield Workers(tmp_path, ENDPOINTS, ports)


def test_dead_server_is_shown_while_it_is_started_again(workers: Workers) -> None:
    seen: list[StackState | None] = []
    warnings: list[str] = []
    stack = FakeStack(workers, lambda: seen.append(read_state()))

    def announce(state: StackState) -> None:
        assert state.healthy
        stack.kafka_state = "restarting"

    run(stack, Plan("cpu", 0, None, 10.0, lambda _endpoints: None), announce, warnings.append)
    [meanwhile] = seen
    assert meanwhile is not None
    assert [member.state for member in meanwhile.members] == ["restarting"]
    assert meanwhile.ready  # its addresses stay those of this stack
    assert not meanwhile.healthy
    assert warnings == ["kafka had ended and was started again", "model mine cannot be loaded: SyntaxError"]
    assert stack.last_state is not None
    assert [model.trouble for model in stack.last_state.models] == ["SyntaxError"]
    assert not stack.last_state.healthy
    assert read_state() is None


def test_state_says_how_long_stopping_may_take(workers: Workers) -> None:
    found: list[StackState | None] = []

    def set_up(_endpoints: Endpoints) -> None:
        found.append(read_state())

    run(FakeStack(workers, lambda: None), Plan("cpu", 0, None, 200.0, set_up), found.append, print)
    assert [state is not None and state.stop_seconds > 250 for state in found] == [True, True]
