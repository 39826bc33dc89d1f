"""Supervision of workers, with the real worker command refusing its settings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.connectors.embedded.ports import PortReservation
from headrace.connectors.embedded.state import Endpoints, Member
from headrace.connectors.embedded.workers import Workers
from headrace.pipeline.errors import StackError

NOWHERE = Endpoints("127.0.0.1:9", "http://127.0.0.1:9", "127.0.0.1:9", "127.0.0.1:9", "http://127.0.0.1:9")


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    with PortReservation() as ports:
        subject = Workers(tmp_path, NOWHERE, ports)
        yield subject
        subject.kill()


def wait_for_state(workers: Workers, state: str) -> Member:
    deadline = time.monotonic() + 30
    while (member := workers.members()[0]).state != state:
        assert time.monotonic() < deadline, member
        time.sleep(0.02)
    return member


def test_worker_that_refuses_its_settings_is_not_started_again(workers: Workers, tmp_path: Path) -> None:
    broken = tmp_path / "pipeline.yaml"
    broken.write_text("no_such_section: {}\n")
    workers.start(1, broken)
    failed = wait_for_state(workers, "failed")
    assert workers.process(0).exit_code == 2
    assert "no_such_section" in Path(failed.log).read_text()
    assert failed.pid == workers.process(0).pid


def test_worker_that_is_killed_is_started_again_in_its_slot(workers: Workers) -> None:
    workers.start(1)
    before = wait_for_state(workers, "running")
    workers.kill(0)
    deadline = time.monotonic() + 30
    while workers.members()[0].pid == before.pid:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    after = wait_for_state(workers, "running")
    assert (after.name, after.endpoint) == (before.name, before.endpoint)


def test_slot_without_a_worker_is_refused(workers: Workers) -> None:
    with pytest.raises(StackError, match="no worker in slot 3"):
        workers.process(3)
