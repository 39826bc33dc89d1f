"""A scene with the commands of replays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.connectors.embedded.ports import LOOPBACK
from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.history import KafkaTopicHistory
from headrace.connectors.kafka.runs import RunStore
from headrace.connectors.registry import ConfluentRegistry
from headrace.pipeline.config import KafkaSettings, Settings, TopicSettings
from tests.integration.avro_ends import Answer
from tests.integration.harness import Scene

COMMAND_SECONDS = 240


class Replays(Scene):
    """A scene with ``headrace replay`` and ``headrace runs``."""

    def __init__(self, endpoints: Endpoints, prefix: str, folder: Path, **settings: Any) -> None:
        self.runs = f"{prefix}.runs"
        self.elsewhere = False
        """By another name of the broker, so that locks of this machine are not seen."""
        topics = {"runs": self.runs, **settings.pop("topics", {})}
        super().__init__(endpoints, prefix, folder, topics=topics, **settings)

    def words(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "headrace", *arguments, "-c", str(self._config)]

    @property
    def environment(self) -> dict[str, str]:
        there = self.endpoints.environment()
        if self.elsewhere:
            name = "HEADRACE_KAFKA__BOOTSTRAP_SERVERS"
            there[name] = there[name].replace(LOOPBACK, "localhost")
        return {**os.environ, **there}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        words = self.words("replay", *arguments, "--json")
        return subprocess.Popen(
            words, env=self.environment, cwd=self._folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(*arguments),
            env=self.environment,
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )

    def replay(self, *arguments: str) -> dict[str, Any]:
        """The outcome of a replay that gets to its end."""
        done = self.run("replay", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return outcome

    def shown(self, run: str) -> dict[str, Any]:
        done = self.run("runs", "show", run)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def answered(self, run: str) -> int:
        """How many outcomes a run has; 0 if it is not there yet. Quicker than a command: a replay goes on meanwhile."""
        there = self.endpoints
        settings = Settings(
            kafka=KafkaSettings(bootstrap_servers=there.bootstrap_servers), topics=TopicSettings(runs=self.runs)
        )
        with ConfluentRegistry(there.registry_url) as registry:
            found = RunStore(settings, registry).find(run)
        return found.results + found.dead_letters if found else 0

    def outcomes(self, run: str) -> list[Answer]:
        """All that a run has written and committed. Not to be asked while it is under way: it has no end then."""
        live, self.output_topics = self.output_topics, [f"{self.runs}.{run}.results", f"{self.runs}.{run}.dead-letters"]
        try:
            return self.everything()
        finally:
            self.output_topics = live

    def ends(self, *topics: str) -> dict[TopicPartition, int]:
        """Where each partition of these topics ends, whether committed or not."""
        where = self.endpoints.bootstrap_servers
        written = {topic: KafkaTopicHistory(where, topic, {}).written() for topic in topics}
        return {TopicPartition(topic, each): end for topic in topics for each, end in written[topic].items()}

    def groups(self) -> dict[str, str]:
        """The groups of this scene and the states they are in."""
        admin = AdminClient({"bootstrap.servers": self.endpoints.bootstrap_servers})
        listed = admin.list_consumer_groups(request_timeout=10).result().valid
        return {each.group_id: each.state.name for each in listed if each.group_id.startswith(self.group)}
