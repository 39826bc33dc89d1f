"""A demo as a user runs it, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

import psutil

DEMO_SECONDS = 240.0
INTERRUPT_SECONDS = 30.0


class Demo:
    """One run of ``headrace demo``, or another such command, as a session of its own, its output in a file."""

    def __init__(self, folder: Path, command: str, *arguments: str) -> None:
        self.folder = folder
        self._output = folder / "output"
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "headrace", command, *arguments],
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Kills what a failed test leaves running."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + DEMO_SECONDS
        while text not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.1)

    def interrupt(self) -> None:
        """As a terminal does for Ctrl-C; twice, by somebody impatient. What ran is gone, and it says so."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        for _ in range(2):
            os.killpg(self.process.pid, signal.SIGINT)
        assert self.process.wait(INTERRUPT_SECONDS) == 130, self.output
        assert self.output.rstrip().splitlines()[-1] == "interrupted: everything is stopped and removed"
        assert psutil.wait_procs(children, timeout=10)[1] == []  # a guard ends by itself, just after its owner
        assert self.leftovers() == []

    def leftovers(self) -> list[Path]:
        tag = f"headrace-{self.process.pid}-*"
        return [*Path(tempfile.gettempdir()).glob(tag), *Path("/dev/shm").glob(tag)]
