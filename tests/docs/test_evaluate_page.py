"""The examples of docs/evaluate.md are taken by what they are examples for."""

from __future__ import annotations

import inspect
from pathlib import Path

import click
import pytest
import yaml

from headrace.pipeline.cli import cli
from headrace.pipeline.evaluate.answer import Answer
from headrace.pipeline.evaluate.gate import load_gate
from headrace.pipeline.evaluate.labels import read_labels
from headrace.pipeline.evaluate.measuring import METRICS
from headrace.pipeline.records import Label
from tests.docs.pages import DOCS, read

PAGE = read(DOCS / "evaluate.md")
GATES = [body for body in PAGE.blocks("yaml") if "thresholds" in yaml.safe_load(body)]
WORKFLOWS = [body for body in PAGE.blocks("yaml") if "jobs" in yaml.safe_load(body)]


def test_gate_is_valid(tmp_path: Path) -> None:
    (body,) = GATES
    (tmp_path / "gate.yaml").write_text(body)
    assert len(load_gate(tmp_path / "gate.yaml").thresholds) == 4


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_labels_are_read(kind: str, tmp_path: Path) -> None:
    (body,) = PAGE.blocks(kind)
    file = tmp_path / f"labels.{kind}"
    file.write_text(body)
    assert {truth.label for truth in read_labels(file)} == {"tabby", "espresso"}


def test_measure_of_ones_own_does_as_it_says() -> None:
    (body,) = PAGE.blocks("python")
    names: dict[str, object] = {}
    exec(body, names)
    top5 = names["top5"]
    assert callable(top5)
    assert list(inspect.signature(top5).parameters) == ["candidate", "baseline", "truth"]
    labels = tuple(Label(name, 0.1) for name in "abcdefg")
    answer = Answer("m", "1", labels, None, (), {}, 0.0, 0.0)
    assert [top5(answer, None, truth) for truth in ("e", "f", None)] == [1.0, 0.0, None]


def test_every_measure_is_told() -> None:
    assert [metric.name for metric in METRICS if f"`{metric.name}`" not in PAGE.text] == []


def test_commands_of_the_workflow_are_those_there_are() -> None:
    """Parsed, not run."""
    (body,) = WORKFLOWS
    steps = yaml.safe_load(body)["jobs"]["evaluate"]["steps"]
    commands = [
        step["run"].replace("\\\n", " ").split() for step in steps if step.get("run", "").startswith("headrace")
    ]
    assert [words[1] for words in commands] == ["replay", "evaluate", "runs"]
    for _, *words in commands:
        command, name, rest = cli.get_command(click.Context(cli), words[0]), words[0], words[1:]
        if isinstance(command, click.Group):
            command, name, rest = command.get_command(click.Context(command), rest[0]), rest[0], rest[1:]
        assert command is not None
        command.make_context(name, rest)
