"""Runs shell commands of headrace's in a folder, as a person would type them there, and says what they print."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from headrace.connectors.embedded.process import ServerProcess
from headrace.pipeline.errors import StackError

POLL_SECONDS = 0.1
Json = dict[str, Any]
Watch = Callable[[Json], bool]
"""Told each object that a command prints; True: the command is to be killed."""
_SHELL = "sh"
_HEADRACE = 'headrace() { exec "$0" -m headrace "$@"; }'
"""Of this interpreter, whatever the path has; in the place of the shell, so that a SIGKILL is for headrace itself."""


class Commands:
    """Runs commands one after the other. They cannot outlive this process.

    Args:
        folder: where they run.
        logs: where what they print is kept, a file a command.
        environment: their variables, beside this process's.
        show: called with each command before it is run.
    """

    def __init__(self, folder: Path, logs: Path, environment: Mapping[str, str], show: Callable[[str], None]) -> None:
        self._folder = folder
        self._logs = logs
        self._environment = {**os.environ, **environment}
        self._show = show

    def run(
        self,
        line: str,
        name: str,
        seconds: float,
        *,
        watch: Watch = lambda _: False,
        meanwhile: Callable[[], None] = lambda: None,
        fine: Collection[int] = (0,),
    ) -> int | None:
        """Run a command to its end, or until it is killed.

        Args:
            line: as it is typed.
            name: of its log.
            seconds: how long it may take.
            watch: told what it prints, if that is lines of JSON.
            meanwhile: called again and again while it runs.
            fine: exit statuses that are no failure.

        Returns:
            Its exit status; None if it was killed as ``watch`` wanted.

        Raises:
            StackError: it failed, or took longer; with the end of its log.
        """
        self._show(line)
        process = ServerProcess(name, self._log(name))
        deadline = time.monotonic() + seconds
        try:
            process.spawn([_SHELL, "-c", f"{_HEADRACE}\n{line}", sys.executable], self._environment, self._folder)
            with process.log_path.open(encoding="utf-8", errors="replace") as log:
                printed = _Printed(log)
                while process.running:
                    if any(watch(each) for each in printed.new()):
                        return None
                    if time.monotonic() > deadline:
                        raise StackError(f"`{line}` did not end in {seconds:.0f} s; {process.log_tail()}")
                    meanwhile()
                    time.sleep(POLL_SECONDS)
                for each in printed.new():
                    watch(each)
        finally:
            process.kill()
        if process.exit_code not in fine:
            raise StackError(f"`{line}` ended with {process.exit_code}; {process.log_tail()}")
        return process.exit_code

    def printed(self, name: str) -> str:
        """All that a command has printed."""
        return self._log(name).read_text("utf-8", "replace")

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"


class _Printed:
    """The objects in a log that is still written to; lines of anything else are passed over."""

    def __init__(self, log: TextIO) -> None:
        self._log = log
        self._begun = ""

    def new(self) -> Iterator[Json]:
        """Those of the lines that have come to their end since the last call."""
        *lines, self._begun = (self._begun + self._log.read()).split("\n")
        for line in lines:
            if line.startswith("{"):
                found: Json = json.loads(line)
                yield found
