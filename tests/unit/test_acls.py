from __future__ import annotations

import itertools
import shlex

import pytest
import yaml

from headrace.pipeline.acls import Operation, Resource, Right, Role, commands, rights
from headrace.pipeline.config import Settings
from tests.docs.pages import DOCS, read

PAGE = read(DOCS / "howto" / "existing-kafka.md")


def rights_of(script: str, principal: str) -> set[Right]:
    """What the lines of a script for kafka-acls.sh give."""
    found = set()
    lines = script.replace("\\\n", " ").replace("$worker", "--allow-principal User:headrace-worker")
    for line in lines.replace("$app", "--allow-principal User:media-app").splitlines():
        words = shlex.split(line)
        if not words or words[0] != "kafka-acls.sh" or principal not in words:
            continue
        given = list(itertools.pairwise(words))
        operations = [Operation(value) for name, value in given if name == "--operation"]
        prefixed = ("--resource-pattern-type", "prefixed") in given
        for resource in Resource:
            for name, value in given:
                if name == f"--{resource}":
                    found |= {Right(resource, value, operation, prefixed) for operation in operations}
    return found


@pytest.fixture
def of_page() -> Settings:
    block, _ = PAGE.blocks("yaml")
    return Settings.model_validate(yaml.safe_load(block))


def test_rights_of_a_worker_are_those_of_the_page(of_page: Settings) -> None:
    """A test there runs a worker with them, and with each of them taken away."""
    shown = "\n".join(PAGE.blocks("sh"))
    assert set(rights(of_page, Role.WORKER)) == rights_of(shown, "User:headrace-worker")


def test_rights_of_an_application_are_those_of_the_page(of_page: Settings) -> None:
    shown = "\n".join(PAGE.blocks("sh"))
    both = {*rights(of_page, Role.PRODUCER), *rights(of_page, Role.CONSUMER)}
    assert both == rights_of(shown, "User:media-app")


@pytest.mark.parametrize("role", Role)
def test_commands_give_all_of_them(of_page: Settings, role: Role) -> None:
    found = rights(of_page, role)
    lines = commands(found, "User:x", "--bootstrap-server k:1")
    assert rights_of("\n".join(lines), "User:x") == set(found)
    assert len(lines) < len(found) or len(found) == 1


def test_features_of_routes_need_topics_of_their_own() -> None:
    settings = Settings.model_validate(
        {
            "name": "p",
            "topics": {"requests": ["in"], "results": "out", "dead_letters": "dead", "shadow": "shadowed"},
            "routes": [
                {
                    "name": "r",
                    "model": "m",
                    "reply_topic": "mine",
                    "retries": {"delays": ["5s"]},
                    "idempotency": {"window_seconds": 3600},
                    "shadow": {"model": "candidate"},
                    "also_to": [{"topic": "copies", "write": "result"}],
                }
            ],
        }
    )
    found = rights(settings, Role.WORKER)
    by_operation = {
        operation: {right.name for right in found if right.resource == "topic" and right.operation is operation}
        for operation in Operation
    }
    read = {"in", "p.redriven", "p.retry.5s", "p.seen.in"}
    written = {"out", "mine", "dead", "shadowed", "copies", "p.retry.5s", "p.seen.in"}
    assert by_operation[Operation.READ] == read
    assert by_operation[Operation.WRITE] == written
    assert by_operation[Operation.DESCRIBE_CONFIGS] == read | written
    assert not by_operation[Operation.CREATE]
