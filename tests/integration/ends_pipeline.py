"""A pipeline with a worker of its own, and the ``headrace`` command as a user runs it against it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.connectors.embedded.ports import PortReservation
from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.embedded.workers import Workers
from headrace.connectors.kafka.admin import ensure_topics
from headrace.pipeline.settings_file import load_settings
from headrace.pipeline.setup import topic_specs

COMMAND_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Its settings file, the prefix of its topics, and how commands reach it."""

    config: Path
    prefix: str
    environment: dict[str, str]

    def __call__(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(*arguments),
            capture_output=True,
            text=True,
            input=stdin,
            timeout=COMMAND_SECONDS,
            env=self.environment,
            check=False,
        )

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """The command, running; stdout and stderr are pipes unless said otherwise."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(self.words(*arguments), env=self.environment, **{**pipes, **options})

    def on_terminal(self, *arguments: str, columns: int = 100) -> tuple[int, str]:
        """Exit code, and all that stdout and stderr show on a terminal so wide."""
        ours, theirs = pty.openpty()
        environment = {**self.environment, "COLUMNS": str(columns), "LINES": "30", "TERM": "xterm"}
        with subprocess.Popen(
            self.words(*arguments), stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment
        ) as process:
            os.close(theirs)
            shown = b"".join(_until_closed(ours))
            os.close(ours)
            return process.wait(COMMAND_SECONDS), shown.decode()

    def words(self, *arguments: str) -> list[str]:
        command, *rest = arguments
        if command == "dlq":
            return [sys.executable, "-m", "headrace", command, *rest[:1], "-c", str(self.config), *rest[1:]]
        return [sys.executable, "-m", "headrace", command, "-c", str(self.config), *rest]


def _until_closed(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # how Linux says that the other side is closed
            return
        if not data:
            return
        yield data


def make_pipeline(stack: Endpoints, folder: Path, settings: str = "") -> Pipeline:
    """Settings in a file of their own, with topics that are not there yet."""
    prefix = f"ends-{uuid.uuid4().hex[:8]}"
    config = folder / f"{prefix}.yaml"
    config.write_text(
        f"name: {prefix}\n"
        f"topics: {{requests: [{prefix}.requests], results: {prefix}.results, dead_letters: {prefix}.dead, "
        f"partitions: 4, max_message_bytes: 2000000}}\n{settings}"
    )
    return Pipeline(config, prefix, {**os.environ, **stack.environment()})


@contextmanager
def running_pipeline(stack: Endpoints, folder: Path) -> Iterator[Pipeline]:
    """With its topics and a worker that answers."""
    pipeline = make_pipeline(stack, folder)
    ensure_topics(stack.bootstrap_servers, topic_specs(load_settings(pipeline.config, pipeline.environment)))
    with PortReservation() as ports:
        workers = Workers(folder, stack, ports)
        workers.start(1, pipeline.config)
        try:
            warm = pipeline("send", "is the worker there?", "--wait", "--timeout", "45")
            assert warm.returncode == 0, f"{warm.stderr}\n{workers.process(0).log_tail()}"
            yield pipeline
        finally:
            workers.stop()
