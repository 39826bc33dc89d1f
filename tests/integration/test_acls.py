"""Every role of ``headrace acls`` under exactly the rights that it gives, on a broker that allows nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from headrace.connectors.embedded.downloads import Downloads
from headrace.connectors.embedded.paths import cache_dir
from headrace.connectors.embedded.ports import PortReservation
from headrace.connectors.embedded.progress import Progress
from headrace.connectors.embedded.state import Endpoints
from headrace.pipeline.acls import Role
from tests.integration.harness import WorkerProcess
from tests.integration.secured_kafka import ADMIN, ADMIN_PASSWORD, SecuredKafka

PASSWORD = "s3cret-of-all"
COMMAND_SECONDS = 90
SETTINGS = {
    "name": "roles",
    "topics": {"requests": ["roles.in"], "results": "roles.out", "dead_letters": "roles.dead", "runs": "roles.runs"},
    "routes": [
        {
            "name": "words",
            "model": "text_embedding",
            "match": {"modality": ["TEXT"]},
            "retries": {"delays": ["1s"]},
            "idempotency": {"window_seconds": 3600},
            "shadow": {"version": "1"},
            "also_to": [{"topic": "roles.copies", "write": "result"}],
        }
    ],
}


class Users:
    """One for each role, and the commands that they run."""

    def __init__(self, kafka: SecuredKafka, stack: Endpoints, folder: Path) -> None:
        self._folder = folder
        self._environment = {
            **os.environ,
            **stack.environment(),
            "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "PASSWORD": PASSWORD,
        }
        for role in Role:
            self._write(role, kafka.client(f"the-{role}", "${env:PASSWORD}"))
        self._write("root", kafka.client(ADMIN, ADMIN_PASSWORD))
        script = [
            f"kafka-configs.sh --bootstrap-server {kafka.bootstrap_servers} --command-config admin.properties --alter "
            f"--entity-type users --entity-name the-{role} --add-config 'SCRAM-SHA-512=[password={PASSWORD}]'"
            for role in Role
        ]
        kafka.run_commands("\n".join(script), folder)
        self._write("nobody", kafka.client("nobody", "wr0ng-password"))
        for role in Role:
            given = self("root", "acls", "--role", role, "--principal", f"User:the-{role}", "--apply")
            assert f"rights of a {role}" in given

    def _write(self, name: str, client: dict[str, str]) -> None:
        self.config(name).write_text(yaml.safe_dump({**SETTINGS, "kafka": {"client": client}}))

    def config(self, name: str) -> Path:
        return self._folder / f"{name}.yaml"

    def run(self, user: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "headrace", *words, "-c", str(self.config(user))]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
        assert PASSWORD not in done.stdout + done.stderr
        return done

    def __call__(self, user: str, *words: str) -> str:
        """What a command prints; fails if it does."""
        done = self.run(user, *words)
        assert done.returncode == 0, f"{user}: {words}: {done.stdout}{done.stderr}"
        return done.stdout

    def worker(self, port: int) -> WorkerProcess:
        return WorkerProcess(0, self._folder, self.config(Role.WORKER), self._environment, port)


@pytest.fixture
def users(stack: Endpoints, tmp_path: Path) -> Iterator[Users]:
    classpath = Downloads(cache_dir(), Progress()).kafka_classpath()
    with PortReservation() as ports, SecuredKafka(tmp_path / "kafka", classpath, ports.take(), ports.take()) as kafka:
        yield Users(kafka, stack, tmp_path)


def test_each_role_can_do_what_it_is_for_and_the_next_one_cannot(users: Users) -> None:
    unknown = users.run("nobody", "acls", "--apply")
    assert unknown.returncode == 1
    assert "Authentication failed" in unknown.stderr
    assert "wr0ng-password" not in unknown.stderr
    refused = users.run(Role.WORKER, "topics", "apply")
    assert refused.returncode == 1
    assert "authorization failed" in refused.stderr.lower()
    users(Role.ADMIN, "topics", "apply")
    with PortReservation() as ports:
        worker = users.worker(ports.take())
        worker.start()
        try:
            worker.wait_ready()
            users(Role.PRODUCER, "send", "a river", "a bridge")
            told = users(Role.CONSUMER, "tail", "--from", "beginning", "--max", "2", "--json").splitlines()
            assert {json.loads(line)["status"] for line in told} == {"OK"}
            wrong = users.run(Role.PRODUCER, "send", "a river", "--model", "nobody")
            assert wrong.returncode == 0, wrong.stderr
            dead = users(Role.CONSUMER, "tail", "--from", "beginning", "--dead-letters", "--max", "3")
            assert "UNKNOWN_MODEL" in dead
            assert users.run(Role.CONSUMER, "dlq", "redrive", "--yes").returncode == 1
            users(Role.REDRIVER, "dlq", "redrive", "--yes")
            users(Role.REPLAYER, "replay", "roles.in", "--run", "again")
            assert "again" in users(Role.REPLAYER, "runs", "list")
            users(Role.REPLAYER, "runs", "rm", "again")
            assert worker.terminate() == 0
            assert PASSWORD not in worker.log
        finally:
            worker.kill()
