"""A scene with dead letters and the commands about them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from headrace.connectors.embedded.state import Endpoints
from tests.integration.avro_ends import Answer, Datum, Position, event, numbers
from tests.integration.harness import Scene, Sent, WorkerProcess

COMMAND_SECONDS = 240
ROUTE = {"name": "numbers", "model": "delay", "batch": {"max_records": 1}, "retries": {"max_attempts": 1}}
"""So that each event that fails is a dead letter after one attempt."""


def failing(number: float) -> Datum:
    """An event that the model ``delay`` fails to answer; ``identity`` gives its number back."""
    return event(numbers(number), parameters={"fail": "INTERNAL"})


class DeadLetterScene(Scene):
    """A scene with ``headrace dlq``."""

    def __init__(self, endpoints: Endpoints, prefix: str, folder: Path, **settings: Any) -> None:
        super().__init__(endpoints, prefix, folder, **{"routes": [ROUTE], **settings})
        self.redriven = f"{self.group}.redriven"

    def mend(self, worker: WorkerProcess) -> None:
        """Have the worker answer by a model that is well: killed, and started with other settings."""
        worker.kill()
        settings = yaml.safe_load(self._config.read_text())
        self._config.write_text(yaml.safe_dump({**settings, "routes": [{**ROUTE, "model": "identity"}]}))
        worker.start()
        worker.wait_ready()

    def words(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "headrace", "dlq", arguments[0], "-c", str(self._config), *arguments[1:]]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.endpoints.environment()}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        words = self.words(*arguments)
        return subprocess.Popen(words, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(*arguments),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )

    def told(self, *arguments: str) -> dict[str, Any]:
        """The last line of a command that gets to its end, as JSON."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def redrive(self, *arguments: str) -> dict[str, Any]:
        return self.told("redrive", "--yes", *arguments)

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        done = self.run("list", "--json", "--max", "10000", *arguments)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def bury(self, values: Iterable[bytes | None], **options: Any) -> list[Sent]:
        """Send what becomes dead letters; returns when it has."""
        sent = self.send(values, **options)
        found = self.settle(sent)
        assert all(answer.dead for answer in found.values())
        return sent

    def outcomes(self, sent: Iterable[Sent]) -> dict[Position, list[Answer]]:
        """All that came of each event, as far as it is committed; the earliest first."""
        found: dict[Position, list[Answer]] = {each.position: [] for each in sent}
        for answer in sorted(self.everything(), key=lambda each: each.content["attempts" if each.dead else "attempt"]):
            if answer.answers in found:
                found[answer.answers].append(answer)
        return found

    def tried_again(self) -> list[Tried]:
        """What is committed in the topic of redriven records, if it is there."""
        reader = Consumer(
            {
                "bootstrap.servers": self.endpoints.bootstrap_servers,
                "group.id": f"{self.group}-looks",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
            }
        )
        try:
            known = reader.list_topics(timeout=10).topics  # one that is asked for by its name a broker may make
            partitions = known[self.redriven].partitions if self.redriven in known else {}
            places = [TopicPartition(self.redriven, each, OFFSET_BEGINNING) for each in partitions]
            ends = {each.partition: reader.get_watermark_offsets(each, timeout=10)[1] for each in places}
            reader.assign(places)
            found, deadline = [], time.monotonic() + 60
            while ends:  # the client tells no end of a partition that is written to all the time
                assert time.monotonic() < deadline, "waited in vain for the end of what is redriven"
                for record in reader.consume(500, 0.2):
                    partition, offset = record.partition() or 0, record.offset() or 0
                    if record.error() is None:
                        found.append(_tried(record))
                    if record.error() is not None or offset >= ends.get(partition, 0) - 1:
                        ends.pop(partition, None)
            return found
        finally:
            reader.close()


@dataclass(frozen=True, slots=True)
class Tried:
    """A record that was redriven, and what its last header says."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    retry: dict[str, Any]

    @property
    def position(self) -> Position:
        return Position(self.retry["topic"], self.retry["partition"], self.retry["offset"])


def _tried(record: Message) -> Tried:
    *headers, (name, content) = cast("list[tuple[str, bytes | None]]", record.headers())
    assert name == "headrace_retry"
    return Tried(record.key(), record.value(), tuple(headers), json.loads(content or b""))
