"""The chaos tests' wall clock jumps for processes with threads and librdkafka, and for nobody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from headrace.connectors.embedded.owners import SHARED_MEMORY
from headrace.connectors.embedded.state import Endpoints
from tests.chaos.clock import JumpingClock
from tests.integration.avro_ends import event, numbers
from tests.integration.harness import Scene, wait_until

TWO_HOURS = 7200.0
EVENTS = 20
SUBJECT = """
import json, sys, threading, time
from confluent_kafka import Producer
producer = Producer({"bootstrap.servers": "127.0.0.1:9", "log_level": 0})
seen = set()  # offsets in whole minutes: a value from nowhere would stand out
def look():
    while True:
        for _ in range(100):
            seen.add(round((time.time() - time.monotonic() - began) / 60))
        time.sleep(0.001)
began = time.time() - time.monotonic()
for _ in range(4):
    threading.Thread(target=look, daemon=True).start()
for line in sys.stdin:
    producer.produce("nowhere", b"x")
    before = time.monotonic()
    undelivered = producer.flush(0.2)
    waited = time.monotonic() - before
    print(json.dumps([time.time(), time.monotonic(), waited, undelivered, sorted(seen)]), flush=True)
"""


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[JumpingClock]:
    with JumpingClock(tmp_path / "clock") as clock:
        yield clock


def left_in_shared_memory(pid: int) -> list[str]:
    return [path.name for path in SHARED_MEMORY.glob(f"*faketime_*_{pid}")]


class Subject:
    """A process under the clock that tells what time it has, and how long librdkafka waits for 0.2 seconds."""

    def __init__(self, clock: JumpingClock) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUBJECT],
            env={**os.environ, **clock.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.offsets_seen: set[int] = set()

    def offset(self) -> float:
        """Seconds that its wall clock is ahead of ours; its other clock and its waits must be as ours."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        wall, monotonic, waited, undelivered, seen = json.loads(self.process.stdout.readline())
        assert abs(monotonic - time.monotonic()) < 5
        assert 0.15 < waited < 5
        assert undelivered > 0
        self.offsets_seen = set(seen)
        return float(wall - time.time())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def subject(clock: JumpingClock) -> Iterator[Subject]:
    subject = Subject(clock)
    yield subject
    subject.kill()


def test_wall_clock_jumps_both_ways_in_a_threaded_process_and_the_monotonic_does_not(
    clock: JumpingClock, subject: Subject
) -> None:
    assert abs(subject.offset()) < 5
    for seconds, expected in ((TWO_HOURS, TWO_HOURS), (-TWO_HOURS, 0.0), (-TWO_HOURS, -TWO_HOURS)):
        clock.jump(seconds)
        assert clock.offset_seconds == expected
        wait_until(lambda: abs(subject.offset() - clock.offset_seconds) < 5, 10, "the jump to be seen")
    subject.offset()  # once more, for its threads to have seen the last one
    assert subject.offsets_seen == {0, 120, -120}


def test_killed_process_leaves_nothing_in_shared_memory_once_the_clock_is_closed(
    clock: JumpingClock, subject: Subject
) -> None:
    subject.offset()
    subject.kill()
    assert left_in_shared_memory(subject.process.pid)
    clock.close()
    assert left_in_shared_memory(subject.process.pid) == []


def test_worker_answers_every_request_whatever_the_time(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path, clock: JumpingClock
) -> None:
    with Scene(stack, names("w"), tmp_path) as scene:
        worker = scene.worker(environment=clock.environment)

        def offset() -> float:
            """Seconds that the worker's wall clock is ahead of ours, by what it writes on its results."""
            sent = scene.send_events([event(numbers(index)) for index in range(EVENTS)])
            answers = scene.settle(sent).values()
            assert not any(each.dead for each in answers)
            said = max((each.header("ce_time") or b"").decode() for each in answers)
            return datetime.fromisoformat(said).timestamp() - time.time()

        for seconds in (0.0, TWO_HOURS, -2 * TWO_HOURS):
            clock.jump(seconds)
            wait_until(lambda: abs(offset() - clock.offset_seconds) < 30, 30, "the worker to see the jump")
        assert worker.running
