from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from headrace.pipeline.app import create_app
from headrace.pipeline.cli import cli
from headrace.pipeline.config import Settings, WorkerSettings
from headrace.pipeline.errors import ConfigError, SlotTakenError
from headrace.pipeline.settings_file import load_settings
from headrace.pipeline.slot import SlotLock, slot_number

HOLDER = """
import sys
from headrace.pipeline.slot import SlotLock
lock = SlotLock(sys.argv[1], 3)
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def scope() -> str:
    return f"broker:9092 {uuid.uuid4()}"


@contextmanager
def holder(scope: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, scope]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_slot_is_held_by_one_process_and_its_pid_is_told(scope: str) -> None:
    with holder(scope) as process, pytest.raises(SlotTakenError, match=rf"worker slot 3 .* process {process.pid} "):
        SlotLock(scope, 3).acquire()


def test_other_slots_and_other_scopes_are_free(scope: str) -> None:
    with holder(scope):
        for lock in (SlotLock(scope, 4), SlotLock(scope + "x", 3)):
            lock.acquire()
            lock.release()


def test_slot_of_a_killed_process_is_free_at_once(scope: str) -> None:
    with holder(scope) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        lock = SlotLock(scope, 3)
        lock.acquire()
        lock.release()


def test_slot_is_held_once_within_a_process_too(scope: str) -> None:
    first, second = SlotLock(scope, 0), SlotLock(scope, 0)
    first.acquire()
    with pytest.raises(SlotTakenError, match=f"process {os.getpid()}"):
        second.acquire()
    second.release()  # what one does not hold one cannot free
    with pytest.raises(SlotTakenError):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_many_who_ask_in_vain_are_all_told(scope: str) -> None:
    first = SlotLock(scope, 0)
    first.acquire()
    for _ in range(300):  # more than a listening socket queues
        with pytest.raises(SlotTakenError, match="--slot N"):
            SlotLock(scope, 0).acquire()
    first.release()


def test_release_may_be_repeated(scope: str) -> None:
    lock = SlotLock(scope, 0)
    lock.acquire()
    lock.release()
    lock.release()
    lock.acquire()
    lock.release()


# --- the slot that a host name says ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host_name", "number"),
    [
        ("headrace-worker-3", 3),
        ("headrace-worker-0", 0),
        ("mill-12.headrace.media.svc.cluster.local", 12),
        ("mill-007", 7),
        ("mill-9999", 9999),
    ],
)
def test_slot_of_a_host_is_the_ordinal_at_the_end_of_its_name(host_name: str, number: int) -> None:
    assert slot_number("hostname", host_name) == number


@pytest.mark.parametrize(
    "host_name", ["laptop", "worker3", "headrace-worker-", "headrace-5f7c9-x2k4q", "mill-\u0663", ""]
)
def test_host_without_an_ordinal_is_told_what_to_do(host_name: str) -> None:
    with pytest.raises(ConfigError, match=r"does not end in an ordinal.*: run the workers as a StatefulSet, or "):
        slot_number("hostname", host_name)


def test_ordinal_that_is_no_slot_is_refused() -> None:
    with pytest.raises(ConfigError, match="'mill-10000' ends in 10000, but the highest slot is 9999"):
        slot_number("hostname", "mill-10000")


def test_slot_that_is_a_number_needs_no_host_name() -> None:
    assert slot_number(4, "laptop") == 4


def test_slot_may_be_the_word_in_the_environment() -> None:
    """It stays the word: other commands read the same settings on machines without an ordinal."""
    settings = load_settings(None, {"HEADRACE_WORKER__SLOT": "hostname"})
    assert settings.model_dump(mode="json")["worker"]["slot"] == "hostname"
    with pytest.raises(ValidationError):
        WorkerSettings.model_validate({"slot": "host"})


async def test_worker_on_a_stateful_pod_has_the_slot_of_its_ordinal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "headrace-worker-3")
    settings = Settings.model_validate({"worker": {"slot": "hostname", "http_port": 0}})
    assert create_app(settings).settings.worker.slot == 3


def test_worker_on_a_host_without_an_ordinal_ends_with_wrong_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "laptop")
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    monkeypatch.delenv("HEADRACE_CONFIG", raising=False)
    result = CliRunner().invoke(cli, ["worker", "--slot", "hostname"])
    assert isinstance(result.exception, ConfigError)
    assert "does not end in an ordinal" in str(result.exception)


@pytest.mark.parametrize("slot", ["10000", "-1", "1.5", "host", "\u0663"])
def test_option_takes_a_slot_or_the_word(slot: str) -> None:
    result = CliRunner().invoke(cli, ["worker", f"--slot={slot}"])
    assert result.exit_code == 2
    assert "is neither a number from 0 to 9999 nor hostname" in result.output
