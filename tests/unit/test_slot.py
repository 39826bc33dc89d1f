from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from headrace.pipeline.errors import SlotTakenError
from headrace.pipeline.slot import SlotLock

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
