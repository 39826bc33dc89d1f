"""State file, owner tags, sweeping, ports and locks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.connectors.embedded.locks import file_lock
from headrace.connectors.embedded.owners import is_alive, owner_tag, sweep, temporary_folder
from headrace.connectors.embedded.paths import atomic_write, cache_dir, folder_variable, state_dir
from headrace.connectors.embedded.ports import PortReservation, is_free, remembered_ports
from headrace.connectors.embedded.state import (
    Endpoints,
    Member,
    StackState,
    read_state,
    remove_state,
    running_endpoints,
    state_file,
    write_state,
)
from headrace.pipeline.errors import StackError

ENDPOINTS = Endpoints("127.0.0.1:1", "http://127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4", "http://127.0.0.1:5/metrics")


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def state(owner: str, ready: bool = True) -> StackState:
    return StackState(owner, ready, ENDPOINTS, "/data", (Member("kafka", 1, "running", "127.0.0.1:1", "/log"),))


def dead_owner() -> str:
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
        tag = owner_tag(process.pid)
        assert is_alive(tag)
    return tag


def elsewhere(tag: str) -> str:
    pid, ticks, namespace = tag.split("-")
    return f"{pid}-{ticks}-{int(namespace) + 1}"


def test_state_is_read_as_written() -> None:
    assert read_state() is None
    write_state(state(owner_tag()))
    assert read_state() == state(owner_tag())
    assert running_endpoints() == ENDPOINTS
    remove_state()
    assert running_endpoints() is None


def test_state_of_a_dead_owner_is_no_stack() -> None:
    write_state(state(dead_owner()))
    assert read_state() is None
    assert running_endpoints() is None


def test_state_of_a_reused_pid_is_no_stack() -> None:
    """Same pid, other start time: another process."""
    pid, ticks, namespace = owner_tag().split("-")
    write_state(state(f"{pid}-{int(ticks) - 1}-{namespace}"))
    assert read_state() is None


def test_state_of_another_pid_namespace_is_no_stack() -> None:
    """The pid may be there, but it is another process."""
    write_state(state(elsewhere(owner_tag())))
    assert read_state() is None


@pytest.mark.parametrize("name", ["x" * 300, "file/below"])
def test_state_that_cannot_be_opened_is_no_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / name))
    assert read_state() is None
    assert running_endpoints() is None


def test_user_without_a_home_has_no_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for variable in ("HEADRACE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert running_endpoints() is None
    with pytest.raises(FileNotFoundError, match="set HEADRACE_HOME"):
        state_dir()


def test_stack_is_healthy_only_if_every_process_runs() -> None:
    assert state("1-1-1").healthy
    assert not state("1-1-1", ready=False).healthy
    broken = Member("worker 0", 2, "failed", "http://127.0.0.1:6", "/log")
    assert not replace(state("1-1-1"), members=(*state("1-1-1").members, broken)).healthy


def test_state_while_starting_has_no_endpoints_for_others() -> None:
    write_state(StackState(owner_tag(), ready=False, endpoints=None, data_dir="/data"))
    found = read_state()
    assert found is not None
    assert found.endpoints is None
    assert running_endpoints() is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"owner": "1-1"}',
        '{"owner": 3, "endpoints": {"x": 1}, "members": []}',
        '{"owner": 3, "ready": true, "endpoints": null, "data_dir": "", "members": []}',
    ],
)
def test_state_file_that_is_not_ours_says_what_to_do(text: str) -> None:
    state_file().parent.mkdir(parents=True)
    state_file().write_text(text)
    with pytest.raises(StackError, match=r"stack\.json cannot be read .* delete it"):
        read_state()


def test_environment_points_settings_at_the_servers() -> None:
    assert ENDPOINTS.environment() == {
        "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "HEADRACE_REGISTRY__URL": "http://127.0.0.1:2",
        "HEADRACE_TRITON__URL": "127.0.0.1:3",
    }


def test_folders_follow_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state_dir() == tmp_path / "home"
    monkeypatch.delenv("HEADRACE_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert state_dir() == tmp_path / "xdg" / "headrace"
    monkeypatch.delenv("HEADRACE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "headrace"


def test_sweep_removes_what_dead_owners_left_and_nothing_else(tmp_path: Path) -> None:
    own = temporary_folder("stack")
    stale = tmp_path / f"headrace-{dead_owner()}-stack-x"
    (stale / "log").mkdir(parents=True)
    stranger = tmp_path / "headrace-notes"
    stranger.mkdir()
    assert stale in sweep()
    assert not stale.exists()
    assert own.exists()
    assert stranger.exists()


def test_sweep_leaves_what_another_user_or_container_owns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = dead_owner()
    other_container = tmp_path / f"headrace-{elsewhere(owner)}-stack-x"
    other_container.mkdir()
    other_user = tmp_path / f"headrace-{owner}-stack-x"
    other_user.mkdir()
    with monkeypatch.context() as context:
        context.setattr(os, "getuid", lambda: other_user.stat().st_uid + 1)
        assert not {other_container, other_user} & set(sweep())
    assert other_user.exists()
    assert other_user in sweep()
    assert other_container.exists()


def test_leftover_that_cannot_be_removed_keeps_nothing_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> None:
        raise PermissionError

    region = tmp_path / f"headrace-{dead_owner()}-triton0-1"
    region.touch()
    monkeypatch.setattr(Path, "unlink", refuse)
    assert region not in sweep()
    assert region.exists()


def test_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ports.json"
    atomic_write(path, "one")
    with path.open() as earlier:
        atomic_write(path, "two")
        assert earlier.read() == "one"
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ('{"kafka": 20001, "registry": "x", "triton": 70000, "other": true}', {"kafka": 20001}),
        ("", {}),
        ("[1]", {}),
        ("\x00", {}),
    ],
)
def test_ports_that_cannot_be_read_are_forgotten(tmp_path: Path, text: str, ports: dict[str, int]) -> None:
    path = tmp_path / "ports.json"
    assert remembered_ports(path) == {}
    path.write_text(text)
    assert remembered_ports(path) == ports


def test_variable_that_moves_a_folder_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    assert folder_variable(tmp_path / "cache" / "jars") == "HEADRACE_CACHE"
    assert folder_variable(tmp_path / "home" / "stack.json") == "HEADRACE_HOME"
    assert folder_variable(Path("build/demo.json")) is None


def test_port_is_reserved_against_everybody_until_given_back() -> None:
    with PortReservation() as ours, PortReservation() as theirs:
        port = ours.take()
        assert is_free(port)
        assert ours.take(port) != port
        assert theirs.take(port) != port
        ours.close()
        assert theirs.take(port) == port


def test_port_that_a_server_uses_is_not_taken() -> None:
    with socket.socket() as server, PortReservation() as reservation:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not is_free(port)
        assert reservation.take(port) != port


def test_ports_taken_at_once_differ() -> None:
    reservations = [PortReservation() for _ in range(20)]
    with ThreadPoolExecutor(20) as pool:
        ports = list(pool.map(lambda reservation: reservation.take(), reservations))
    for reservation in reservations:
        reservation.close()
    assert len(set(ports)) == 20


def test_lock_is_exclusive_and_says_who_waits_for_what(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "a.lock"
    with (
        file_lock(path, 1, "the first thing"),
        pytest.raises(StackError, match=r"busy with the other thing for 0 s .*a\.lock"),
        file_lock(path, 0.2, "the other thing"),
    ):
        pass
    with file_lock(path, 0.2, "free again"):
        pass


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    script = (
        "import time; from pathlib import Path; from headrace.connectors.embedded.locks import file_lock\n"
        f"with file_lock(Path({str(path)!r}), 1, 'x'): print('held', flush=True); time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StackError), file_lock(path, 0.2, "x"):
            pass
        holder.kill()
    with file_lock(path, 5, "x"):
        pass
