"""Supervision of workers, with the real worker command refusing its settings."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from headrace.connectors.embedded import workers as subject
from headrace.connectors.embedded.ports import PortReservation
from headrace.connectors.embedded.process import ServerProcess
from headrace.connectors.embedded.state import Endpoints, Member
from headrace.connectors.embedded.workers import Workers
from headrace.pipeline.errors import StackError

NOWHERE = Endpoints("127.0.0.1:9", "http://127.0.0.1:9", "127.0.0.1:9", "127.0.0.1:9", "http://127.0.0.1:9")


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    with PortReservation() as ports:
        workers = Workers(tmp_path, NOWHERE, ports)
        yield workers
        workers.kill()


def wait_for_state(workers: Workers, state: str) -> Member:
    deadline = time.monotonic() + 30
    while (member := workers.members()[0]).state != state:
        assert time.monotonic() < deadline, member
        time.sleep(0.02)
    return member


def is_up(process: ServerProcess) -> bool:
    return process.log_path.read_text() == "up\n"


@pytest.fixture
def stubborn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs as a worker does not heed SIGTERM; guards run as ever."""
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(99)"
    )
    launcher = tmp_path / "python"
    launcher.write_text(
        f'#!/bin/sh\ncase "$1" in -I) exec {sys.executable} "$@" ;; *) exec {sys.executable} -S -c "{script}" ;; esac\n'
    )
    launcher.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(launcher))


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


def test_stop_tells_how_each_worker_ended(workers: Workers, tmp_path: Path) -> None:
    assert workers.stop() == {}
    broken = tmp_path / "pipeline.yaml"
    broken.write_text("no_such_section: {}\n")
    workers.start(2, broken)
    wait_for_state(workers, "failed")
    assert workers.stop()[0] == 2


@pytest.mark.usefixtures("stubborn")
def test_worker_has_its_draining_time_to_stop_and_is_then_killed(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "END_SECONDS", 0.2)
    for drain_seconds in (0.0, 1.5):
        workers.start(1, drain_seconds=drain_seconds)
        process = workers.process(0)
        process.wait_until(partial(is_up, process), 30)
        began = time.monotonic()
        assert workers.stop() == {0: 137}
        assert drain_seconds <= time.monotonic() - began < drain_seconds + 1.4


def test_worker_that_cannot_be_started_again_is_tried_until_it_can(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder it was started in is gone for a while."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    workers.start(1)
    before = wait_for_state(workers, "running")
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(folder)
    workers.kill(0)
    deadline = time.monotonic() + 30
    while not (member := workers.members()[0]).trouble:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert member.state == "restarting"
    assert str(folder) in member.trouble
    folder.mkdir()
    after = wait_for_state(workers, "running")
    assert after.pid != before.pid
    assert after.trouble == ""


def test_slot_without_a_worker_is_refused(workers: Workers) -> None:
    with pytest.raises(StackError, match="no worker in slot 3"):
        workers.process(3)
