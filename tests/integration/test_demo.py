"""``headrace demo`` as a user runs it: what it says, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

LAST_LINE = re.compile(
    r"demo: sent=(\d+) results=(\d+) dead_letters=(\d+) duplicates=(\d+) missing=(\d+) "
    r"p50_ms=(\d+\.\d) p99_ms=(\d+\.\d) recovery_s=(\d+\.\d)"
)
DEMO_SECONDS = 240.0
INTERRUPT_SECONDS = 30.0


class Demo:
    """One run as a session of its own, its output in a file."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self._output = folder / "output"
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "headrace", "demo", *arguments],
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + DEMO_SECONDS
        while text not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.1)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def leftovers(self) -> list[Path]:
        tag = f"headrace-{self.process.pid}-*"
        return [*Path(tempfile.gettempdir()).glob(tag), *Path("/dev/shm").glob(tag)]


@pytest.fixture
def demos() -> Iterator[list[Demo]]:
    """Kills what a failed test leaves running."""
    started: list[Demo] = []
    yield started
    for demo in started:
        if demo.process.poll() is None:
            os.killpg(demo.process.pid, signal.SIGKILL)
            demo.process.wait()


@pytest.mark.timeout(300)
def test_demo_with_a_killed_worker_accounts_for_every_event(tmp_path: Path, demos: list[Demo]) -> None:
    demo = Demo(tmp_path, "--events", "160", "--seconds", "8", "--seed", "3")
    demos.append(demo)
    assert demo.process.wait(DEMO_SECONDS) == 0, demo.output
    found = LAST_LINE.fullmatch(demo.output.splitlines()[-1])
    assert found is not None, demo.output
    sent, results, dead_letters, duplicates, missing = (int(number) for number in found.groups()[:5])
    assert (sent, results + dead_letters, duplicates, missing) == (160, 160, 0, 0)
    assert dead_letters == 7
    assert float(found[8]) > 0
    figures = json.loads((tmp_path / "build" / "demo.json").read_text())
    assert (figures["sent"], figures["results"], figures["dead_letters"]) == (sent, results, dead_letters)
    shown_ms = (float(found[6]), float(found[7]))  # one decimal, the file has three
    assert shown_ms == pytest.approx((figures["p50_ms"], figures["p99_ms"]), abs=0.051)
    assert (figures["passed"], figures["findings"], figures["worker_crashes"]) == (True, [], 0)
    assert figures["recovery_partitions"]
    for expected in (
        "SIGKILL to worker",
        "every partition flows again",
        "espresso",
        "nearest: ",
        "speech ",
        "no speech",
    ):
        assert expected in demo.output
    assert demo.leftovers() == []


@pytest.mark.parametrize("moment", ["starting Kafka", "starting two workers", "SIGKILL to worker", "all answered"])
@pytest.mark.timeout(300)
def test_interrupted_demo_leaves_nothing_behind(tmp_path: Path, demos: list[Demo], moment: str) -> None:
    demo = Demo(tmp_path, "--events", "160", "--seconds", "8")
    demos.append(demo)
    demo.wait_for(moment)
    children = demo.children()
    for _ in range(2):  # somebody impatient
        os.killpg(demo.process.pid, signal.SIGINT)  # as a terminal does for Ctrl-C
    assert demo.process.wait(INTERRUPT_SECONDS) == 130, demo.output
    assert demo.output.rstrip().splitlines()[-1] == "interrupted: everything is stopped and removed"
    assert psutil.wait_procs(children, timeout=10)[1] == []  # a guard ends by itself, just after its owner
    assert demo.leftovers() == []
