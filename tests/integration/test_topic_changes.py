"""``headrace topics plan``, ``apply`` and ``diff`` against a real broker, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.admin import ensure_topics
from headrace.connectors.kafka.topic_states import TopicStates
from headrace.pipeline.exit_codes import ExitCode
from headrace.pipeline.overviews import TopicState
from headrace.pipeline.records import TopicSpec
from tests.integration.ends_pipeline import Pipeline, make_pipeline

KEPT = "{{{results}: {{retention.ms: {ms}, compression.type: zstd}}}}"


@pytest.fixture
def headrace(stack: Endpoints, tmp_path: Path) -> Pipeline:
    """Its topics are as it wants them."""
    pipeline = make_pipeline(stack, tmp_path)
    done = pipeline("topics", "apply")
    assert (done.returncode, done.stdout.count(": done")) == (0, 4), done.stderr
    return pipeline


def wanting(headrace: Pipeline, **topics: object) -> Pipeline:
    """The same, with other settings."""
    given = {f"HEADRACE_TOPICS__{name.upper()}": str(value) for name, value in topics.items()}
    return Pipeline(headrace.config, headrace.prefix, {**headrace.environment, **given})


def state_of(stack: Endpoints, topic: str) -> TopicState | None:
    return TopicStates(stack.bootstrap_servers, {}).states([topic])[topic]


def config_of(stack: Endpoints, topic: str) -> dict[str, str]:
    state = state_of(stack, topic)
    assert state is not None
    return dict(state.config)


def test_topics_that_are_right_are_left_alone(headrace: Pipeline) -> None:
    for command in ("plan", "apply"):
        done = headrace("topics", command)
        assert (done.returncode, done.stdout) == (0, "nothing is to be done\n")
        assert f"warning: {headrace.prefix}.results: 1 replica" in done.stderr
    done = headrace("topics", "diff")
    assert (done.returncode, done.stdout) == (0, "")


def test_plan_changes_nothing(stack: Endpoints, tmp_path: Path) -> None:
    pipeline = make_pipeline(stack, tmp_path)
    done = pipeline("topics", "plan")
    assert done.returncode == 0
    assert done.stdout.count("+ ") == 4
    assert f"+ {pipeline.prefix}.requests: 4 partitions, 1 replicas, max.message.bytes=2000000" in done.stdout
    assert state_of(stack, f"{pipeline.prefix}.requests") is None


def test_configuration_is_set_and_less_of_it_only_if_that_is_allowed(headrace: Pipeline, stack: Endpoints) -> None:
    results = f"{headrace.prefix}.results"
    longer = wanting(headrace, config=KEPT.format(results=results, ms=900_000_000), min_insync_replicas=1)
    differs = longer("topics", "diff")
    assert differs.returncode == ExitCode.FAILED
    assert differs.stdout.splitlines() == [
        f"--- {results}, as it is",
        f"+++ {results}, as the settings want it",
        "-compression.type=producer",
        "+compression.type=zstd",
        "-retention.ms=604800000",
        "+retention.ms=900000000",
    ]
    done = longer("topics", "apply")
    assert (done.returncode, done.stdout.count(": done")) == (0, 2), done.stderr
    assert config_of(stack, results)["retention.ms"] == "900000000"
    assert config_of(stack, results)["compression.type"] == "zstd"

    shorter = wanting(headrace, config=KEPT.format(results=results, ms=60_000))
    left = shorter("topics", "apply")
    assert left.returncode == ExitCode.FAILED
    assert left.stdout == f"~ {results}: retention.ms 900000000 -> 60000  (not without --shrink)\n"
    assert config_of(stack, results)["retention.ms"] == "900000000"
    assert shorter("topics", "apply", "--shrink").returncode == 0
    assert config_of(stack, results)["retention.ms"] == "60000"


def test_partitions_are_added_only_if_that_is_allowed(headrace: Pipeline, stack: Endpoints) -> None:
    wider = wanting(headrace, partitions=6)
    refused = wider("topics", "apply", "--shrink")
    assert refused.returncode == ExitCode.FAILED
    assert refused.stdout.count("partitions 4 -> 6  (not without --add-partitions)") == 3
    told: dict[str, Any] = json.loads(wider("topics", "apply", "--add-partitions", "--json").stdout)
    assert ({each["after"] for each in told["done"]}, told["left"]) == ({"6"}, [])
    state = state_of(stack, f"{headrace.prefix}.requests")
    assert state is not None
    assert state.partitions == 6
    narrower = headrace("topics", "apply", "--add-partitions", "--shrink")
    assert (narrower.returncode, narrower.stdout) == (0, "nothing is to be done\n")


def test_topics_that_no_setting_names_are_told_and_left(headrace: Pipeline, stack: Endpoints) -> None:
    left = f"{headrace.prefix}.retry.1m"
    ensure_topics(stack.bootstrap_servers, [TopicSpec(left, 2)])
    kept = headrace("topics", "apply", "--add-partitions", "--shrink")
    assert (kept.returncode, kept.stdout) == (0, "nothing is to be done\n")
    assert f"warning: {left} is of a delay that no setting names any more" in kept.stderr
    assert state_of(stack, left) is not None


def test_broker_that_refuses_is_told_in_one_line(headrace: Pipeline) -> None:
    wrong = wanting(headrace, config=f"{{{headrace.prefix}.results: {{compression.type: brotli}}}}")
    done = wrong("topics", "apply")
    assert done.returncode == ExitCode.FAILED
    assert done.stderr.count("\n") == 1
    assert "compression.type producer -> brotli was not done" in done.stderr


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("{somebody.elses: {retention.ms: 1}}", "somebody.elses is no topic of this pipeline"),
        ("{PREFIX.results: {max.message.bytes: 1}}", "set topics.max_message_bytes instead"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(headrace: Pipeline, config: str, problem: str) -> None:
    done = wanting(headrace, config=config.replace("PREFIX", headrace.prefix))("topics", "plan")
    assert done.returncode == ExitCode.WRONG_INPUT
    assert problem in done.stderr
