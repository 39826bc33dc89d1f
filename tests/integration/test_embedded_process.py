"""The guard, with small programs in the place of servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from headrace.connectors.embedded.process import ServerProcess
from headrace.pipeline.errors import StackError

SLEEPER = [sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(100)"]
STUBBORN = [
    sys.executable,
    "-S",
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(100)",
]
PARENT = [
    sys.executable,
    "-S",
    "-c",
    "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(100)']); "
    "print(p.pid, flush=True); time.sleep(100)",
]


def wait_for(condition: Callable[[], object], timeout_seconds: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def up(process: ServerProcess) -> bool:
    return bool(process.log_path.read_text())


@pytest.fixture
def process(tmp_path: Path) -> ServerProcess:
    return ServerProcess("sleeper", tmp_path / "out.log")


def test_server_is_stopped_politely(process: ServerProcess, tmp_path: Path) -> None:
    process.spawn(SLEEPER, os.environ, tmp_path)
    process.wait_until(lambda: up(process), 20)
    assert process.running
    assert process.stop(20)
    assert gone(process.pid)
    assert process.exit_code == 128 + signal.SIGTERM


def test_server_that_ignores_the_request_is_killed(process: ServerProcess, tmp_path: Path) -> None:
    process.spawn(STUBBORN, os.environ, tmp_path)
    process.wait_until(lambda: up(process), 20)
    assert not process.stop(0.2)
    assert gone(process.pid)
    assert process.exit_code == 128 + signal.SIGKILL


def test_kill_takes_the_servers_children_along(process: ServerProcess, tmp_path: Path) -> None:
    process.spawn(PARENT, os.environ, tmp_path)
    process.wait_until(lambda: up(process), 20)
    child = int(process.log_path.read_text())
    assert not gone(child)
    process.kill()
    assert gone(process.pid)
    assert gone(child)


def test_server_killed_by_somebody_leaves_no_children(process: ServerProcess, tmp_path: Path) -> None:
    process.spawn(PARENT, os.environ, tmp_path)
    process.wait_until(lambda: up(process), 20)
    child = int(process.log_path.read_text())
    os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: not process.running)
    assert gone(child)
    assert process.exit_code == 128 + signal.SIGKILL


def test_server_dies_with_its_guard(process: ServerProcess, tmp_path: Path) -> None:
    process.spawn(SLEEPER, os.environ, tmp_path)
    process.wait_until(lambda: up(process), 20)
    guard = psutil.Process(process.pid).parent()
    assert guard is not None
    guard.kill()
    wait_for(lambda: gone(process.pid))
    process.kill()


def test_server_and_its_files_are_gone_after_the_owner_is_killed(tmp_path: Path) -> None:
    """The owner gets SIGKILL, so nothing in it can clean up."""
    (tmp_path / "region-1").touch()
    (tmp_path / "other").touch()
    script = (
        "import os, sys, time; from pathlib import Path\n"
        "from headrace.connectors.embedded.process import ServerProcess\n"
        f"p = ServerProcess('x', Path({str(tmp_path / 'out.log')!r}), {str(tmp_path / 'region-')!r})\n"
        f"p.spawn({PARENT!r}, os.environ, Path({str(tmp_path)!r}))\n"
        "p.wait_until(lambda: p.log_path.read_text(), 20)\n"
        "print(p.pid, p.log_path.read_text(), flush=True); time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        owner.kill()
    assert len(pids) == 2
    wait_for(lambda: all(gone(pid) for pid in pids))
    wait_for(lambda: not (tmp_path / "region-1").exists())
    assert (tmp_path / "other").exists()


def test_server_that_ends_while_starting_shows_its_last_lines(process: ServerProcess, tmp_path: Path) -> None:
    command = [sys.executable, "-S", "-c", "print('the disk is full'); raise SystemExit(3)"]
    process.spawn(command, os.environ, tmp_path)
    with pytest.raises(StackError, match=r"sleeper ended while starting \(exit 3\).*\n.*the disk is full"):
        process.wait_until(lambda: False, 20)


def test_server_that_is_never_ready_is_killed(process: ServerProcess, tmp_path: Path) -> None:
    process.spawn(SLEEPER, os.environ, tmp_path)
    with pytest.raises(StackError, match="not ready in 0 s"):
        process.wait_until(lambda: False, 0.1)
    assert gone(process.pid)


def test_command_that_does_not_exist_is_told(process: ServerProcess, tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"sleeper could not be started: .*No such file"):
        process.spawn([str(tmp_path / "nothing")], os.environ, tmp_path)
    assert not process.running


def test_second_start_of_a_running_server_is_refused(process: ServerProcess, tmp_path: Path) -> None:
    process.spawn(SLEEPER, os.environ, tmp_path)
    with pytest.raises(StackError, match="runs already"):
        process.spawn(SLEEPER, os.environ, tmp_path)
    process.kill()


def test_log_of_the_previous_start_is_kept(process: ServerProcess, tmp_path: Path) -> None:
    for text in ("first", "second"):
        process.spawn([sys.executable, "-S", "-c", f"print('{text}')"], os.environ, tmp_path)
        wait_for(lambda: not process.running)
    assert process.log_path.read_text() == "second\n"
    assert Path(f"{process.log_path}.1").read_text() == "first\n"
