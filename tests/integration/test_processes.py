"""Jobs are done by other processes, whose errors are told here, and which never outlive this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from headrace.pipeline.cli.processes import MOST_PROCESSES, Processes, usual_count
from headrace.pipeline.errors import ConfigError, FatalError
from tests.integration import jobs

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 60.0
ENDLESS = """
from functools import partial
from headrace.pipeline.cli.processes import Processes
from tests.integration import jobs
Processes(2).run([jobs.endless] * 2, partial(print, flush=True))
"""
"""A program that tells its two processes, and does not end by itself."""


_OTHERS: set[psutil.Process] = set()
"""Children that were there before a test: the servers of others."""


@pytest.fixture(autouse=True)
def _others() -> None:
    _OTHERS.update(psutil.Process().children())


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # so that they find the jobs
    made = Processes(3)
    yield made
    made.close()
    assert children() == []


def children() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if each not in _OTHERS]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_jobs_are_done_by_a_process_each_and_their_progress_adds_up(processes: Processes) -> None:
    told: list[int] = []
    found = processes.run([partial(jobs.told_twice, number) for number in (1, 10, 100)], told.append)
    assert [number for number, _ in found] == [1, 10, 100]
    assert sorted(told) == [1, 1, 10, 10, 100, 100]
    pids = [pid for _, pid in found]
    assert len({*pids, os.getpid()}) == 4
    again = processes.run([partial(jobs.told_twice, number) for number in (1, 10)], told.append)
    assert [pid for _, pid in again] == pids[:2]


def test_single_job_is_done_by_this_process(processes: Processes) -> None:
    told: list[int] = []
    assert processes.run([partial(jobs.told_twice, 1)], told.append) == [(1, os.getpid())]
    assert (told, children()) == ([1, 1], [])


@pytest.mark.parametrize(
    ("job", "kind", "message"),
    [
        (jobs.refused, ConfigError, "^line 2: no label$"),
        (jobs.unwritable, FileNotFoundError, "No such file or directory: 'here'"),
        (jobs.mistaken, RuntimeError, r"(?s)^Traceback .* in mistaken\n.*ValueError: a mistake\n$"),
        (jobs.killed, FatalError, r"was ended by SIGKILL: is there enough memory\?$"),
        (jobs.gone, FatalError, r"has ended \(exit code 3\)$"),
    ],
)
def test_what_ends_a_job_is_told_here_and_ends_the_others(
    processes: Processes, job: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as told:
        processes.run([jobs.endless, job], lambda _: None)
    assert type(told.value) is kind
    assert children() == []
    assert processes.run([partial(jobs.told_twice, number) for number in (1, 2)], lambda _: None)[1][0] == 2


def test_interrupt_ends_the_jobs(processes: Processes) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        processes.run([jobs.endless] * 2, interrupt)
    assert children() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_jobs_end_with_the_process_that_asked_for_them(number: signal.Signals) -> None:
    """As from a terminal: Ctrl-C goes to all that are in its session."""
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as asking:
        assert asking.stdout is not None
        assert asking.stderr is not None
        pids = [int(asking.stdout.readline()) for _ in range(2)]
        os.killpg(asking.pid, number)
        assert asking.wait(DEADLINE_SECONDS) == -number
        wait_until(lambda: not any(map(psutil.pid_exists, pids)))
        assert asking.stderr.read().count("Traceback") == (number is signal.SIGINT)  # its own alone


def test_usual_count_is_that_of_the_processors_within_bounds() -> None:
    assert 1 <= usual_count() <= min(MOST_PROCESSES, os.cpu_count() or 1)
