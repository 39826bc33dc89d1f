"""The commands around ``headrace up``, with no server: what they say and end with when something is wrong."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from headrace.connectors.embedded.owners import owner_tag
from headrace.connectors.embedded.state import Endpoints, Member, StackState, remove_state, state_file, write_state
from headrace.connectors.embedded.supervisor import up_lock
from headrace.pipeline.cli import cli
from headrace.pipeline.errors import ConfigError, StackError

ENDPOINTS = Endpoints("127.0.0.1:1", "http://127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4", "http://127.0.0.1:5/metrics")


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HEADRACE_CONFIG", raising=False)
    return CliRunner()


def headrace(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headrace", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def stack(*workers: Member, ready: bool = True) -> StackState:
    kafka = Member("kafka", 1, "running", ENDPOINTS.bootstrap_servers, "/log")
    return StackState(owner_tag(), ready, ENDPOINTS if ready else None, "/data", (kafka, *workers) if ready else ())


@contextlib.contextmanager
def later(action: threading.Timer) -> Iterator[None]:
    action.start()
    yield
    action.join()


@pytest.mark.parametrize("home", ["/dev/null", "/"])
def test_command_that_only_looks_for_a_stack_works_without_a_home(home: str) -> None:
    hidden = {"HEADRACE_HOME": "", "XDG_STATE_HOME": "", "HEADRACE_CONFIG": ""}
    assert headrace("config", "show", HOME=home, **hidden).returncode == 0
    assert headrace("down", HOME=home, **hidden).stdout == "the embedded stack is not running\n"


@pytest.mark.usefixtures("runner")
def test_folder_that_cannot_be_made_is_one_line_that_names_its_variable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = headrace("up", HEADRACE_CACHE=str(tmp_path / "file" / "below"))
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith(f"headrace: {tmp_path}/file")
    assert "set HEADRACE_CACHE" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("state", ["restarting", "failed"])
def test_status_of_a_stack_with_a_broken_worker_is_1(runner: CliRunner, state: str) -> None:
    worker = Member("worker 0", 2, "running", "http://127.0.0.1:6", "/log")
    write_state(stack(worker))
    assert runner.invoke(cli, ["status"], standalone_mode=False).return_value == 0
    write_state(stack(replace(worker, state=state, trouble="cannot be started: no such folder")))
    shown = runner.invoke(cli, ["status"], standalone_mode=False)
    assert shown.return_value == 1
    assert "worker 0 cannot be started: no such folder" in shown.output
    as_json = runner.invoke(cli, ["status", "--json"], standalone_mode=False)
    assert as_json.return_value == 1
    assert json.loads(as_json.output)["running"] is False


def test_up_reads_the_file_that_the_environment_names(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.yaml").write_text("topics: {partitions: none}\n")
    monkeypatch.setenv("HEADRACE_CONFIG", "mine.yaml")
    refused = runner.invoke(cli, ["up"])
    assert isinstance(refused.exception, ConfigError)
    assert "mine.yaml: topics.partitions" in str(refused.exception)


def test_detached_up_beside_a_starting_one_waits_until_that_is_ready(runner: CliRunner) -> None:
    write_state(stack(ready=False))
    began = time.monotonic()
    with later(threading.Timer(0.5, write_state, [stack()])):
        done = runner.invoke(cli, ["up", "--detach"], standalone_mode=False)
    assert time.monotonic() - began >= 0.5
    assert done.exception is None
    assert ENDPOINTS.bootstrap_servers in done.output


def test_detached_up_beside_one_that_does_not_get_ready_fails(runner: CliRunner) -> None:
    write_state(stack(ready=False))
    with later(threading.Timer(0.5, remove_state)):
        failed = runner.invoke(cli, ["up", "--detach"], standalone_mode=False)
    assert isinstance(failed.exception, StackError)
    assert "start it again" in str(failed.exception)


def test_down_deletes_a_damaged_state_file(runner: CliRunner) -> None:
    state_file().parent.mkdir()
    state_file().write_text("{")
    done = runner.invoke(cli, ["down"])
    assert done.exit_code == 0
    assert f"{state_file()} is damaged" in done.output
    assert not state_file().exists()


def test_down_leaves_state_and_data_to_an_up_that_has_begun(runner: CliRunner, tmp_path: Path) -> None:
    data = tmp_path / "home" / "data"
    data.mkdir(parents=True)
    state_file().touch()
    with up_lock():
        refused = runner.invoke(cli, ["down", "--purge"], standalone_mode=False)
    assert isinstance(refused.exception, StackError)
    assert state_file().exists()
    assert data.exists()
    assert runner.invoke(cli, ["down", "--purge"]).output.endswith(f"deleted {data}\n")
    assert not data.exists()


def test_data_that_cannot_be_deleted_is_told(
    runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **_how: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    data = tmp_path / "home" / "data"
    data.mkdir(parents=True)
    monkeypatch.setattr("shutil.rmtree", refuse)
    monkeypatch.setattr("headrace.pipeline.cli.down.DELETE_SECONDS", 0.2)
    refused = runner.invoke(cli, ["down", "--purge"], standalone_mode=False)
    assert isinstance(refused.exception, PermissionError)
    assert "deleted" not in refused.output


def test_data_that_a_dying_server_still_writes_is_deleted_when_it_is_gone(runner: CliRunner, tmp_path: Path) -> None:
    data = tmp_path / "home" / "data"
    data.mkdir(parents=True)
    until = time.monotonic() + 0.5

    def write() -> None:
        while time.monotonic() < until:
            with contextlib.suppress(FileNotFoundError):
                (data / str(time.monotonic_ns())).touch()

    with later(threading.Timer(0.0, write)):
        done = runner.invoke(cli, ["down", "--purge"], standalone_mode=False)
    assert done.exception is None
    assert not data.exists()
