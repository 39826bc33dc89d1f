from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from headrace.pipeline.config import Settings
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.overviews import TopicState
from headrace.pipeline.setup import topic_specs
from headrace.pipeline.topic_plan import Change, Flag, Kind, TopicPlan, left_over, plan

WEEK_MS = "604800000"
MIB = 1024 * 1024


def settings(**more: Any) -> Settings:
    topics = {
        "requests": ["in"],
        "results": "out",
        "dead_letters": "dead",
        "partitions": 4,
        "replication_factor": 3,
        "min_insync_replicas": 2,
    }
    return Settings.model_validate({"name": "p", "topics": {**topics, **more.pop("topics", {})}, **more})


def state(**config: str) -> TopicState:
    """Of a topic as Kafka makes it, large enough for all; keywords have underscores for dots."""
    given = {
        "cleanup.policy": "delete",
        "retention.ms": WEEK_MS,
        "max.message.bytes": str(100 * MIB),
        "min.insync.replicas": "2",
        "unclean.leader.election.enable": "false",
        **{key.replace("_", "."): value for key, value in config.items()},
    }
    return TopicState(
        4, 3, int(given["max.message.bytes"]), {}, {}, given["cleanup.policy"], int(given["retention.ms"]), given
    )


def states(wanted: Settings, **others: TopicState | None) -> dict[str, TopicState | None]:
    """All of the settings as they should be, but for the others."""
    found: dict[str, TopicState | None] = {spec.name: state() for spec in topic_specs(wanted)}
    return {**found, **others}


def planned(wanted: Settings, **others: TopicState | None) -> TopicPlan:
    return plan(wanted, states(wanted, **others))


def test_topics_as_they_should_be_need_nothing() -> None:
    assert planned(settings()) == TopicPlan((), (), ())


def test_topics_that_are_missing_are_made() -> None:
    wanted = settings(topics={"config": {"out": {"retention.ms": 86_400_000, "compression.type": "zstd"}}})
    found = plan(wanted, {})
    assert [each.kind for each in found.changes] == [Kind.CREATE] * 4
    by_topic = {each.topic: str(each) for each in found.changes}
    assert by_topic["out"] == (
        "+ out: 4 partitions, 3 replicas, compression.type=zstd, max.message.bytes=8388608, min.insync.replicas=2, "
        "retention.ms=86400000"
    )
    assert "cleanup.policy=delete" in by_topic["p.redriven"]
    assert found.allowed(()) == found.changes
    assert not found.warnings


@pytest.mark.parametrize(
    ("config", "found", "needs"),
    [
        ({"retention.ms": 1000}, {}, Flag.SHRINK),
        ({"retention.ms": -1}, {}, None),
        ({"retention.ms": 1000}, {"retention_ms": "-1"}, Flag.SHRINK),
        ({"retention.ms": 700_000_000}, {}, None),
        ({"retention.bytes": 1000}, {"retention_bytes": "-1"}, Flag.SHRINK),
        ({"cleanup.policy": "compact,delete"}, {}, Flag.SHRINK),
        ({"cleanup.policy": "delete"}, {"cleanup_policy": "compact,delete"}, None),
        ({"compression.type": "zstd"}, {"compression_type": "producer"}, None),
        ({"min.insync.replicas": 1}, {}, Flag.SHRINK),
        ({"min.insync.replicas": 3}, {}, None),
        ({"unclean.leader.election.enable": True}, {}, Flag.SHRINK),
        ({"segment.ms": 1000}, {"segment_ms": "604800000"}, None),
    ],
)
def test_configuration_that_differs_is_set_and_what_takes_away_is_asked_for(
    config: dict[str, Any], found: dict[str, str], needs: Flag | None
) -> None:
    wanted = settings(topics={"config": {"out": config}})
    (change,) = planned(wanted, out=state(**found)).changes
    ((key, value),) = config.items()
    told = str(value).lower() if isinstance(value, bool) else str(value)
    assert change == Change("out", Kind.CONFIG, key, state(**found).config.get(key, ""), told, needs)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"cleanup.policy": "delete,compact"}, {"cleanup_policy": "compact, delete"}),
        ({"unclean.leader.election.enable": False}, {}),
        ({"retention.ms": 604_800_000}, {}),
    ],
)
def test_values_that_say_the_same_do_not_differ(config: dict[str, Any], found: dict[str, str]) -> None:
    assert not planned(settings(topics={"config": {"out": config}}), out=state(**found)).changes


def test_what_headrace_itself_asks_for_is_a_least() -> None:
    assert not planned(settings(), **{"p.redriven": state(retention_ms="-1")}).changes
    (small,) = planned(settings(), out=state(max_message_bytes=str(MIB))).changes
    assert (small.key, small.after, small.needs) == ("max.message.bytes", str(8 * MIB), None)
    found = planned(settings(), **{"p.redriven": state(retention_ms="1000")}).changes
    assert [(each.key, each.after, each.needs) for each in found] == [("retention.ms", WEEK_MS, None)]


def test_partitions_are_added_only_if_that_is_allowed() -> None:
    found = planned(settings(topics={"partitions": 6}))
    assert {each.topic for each in found.changes} == {"in", "out", "dead"}
    assert {(each.before, each.after, each.needs) for each in found.changes} == {("4", "6", Flag.ADD_PARTITIONS)}
    assert not found.allowed({Flag.SHRINK})
    assert found.allowed({Flag.ADD_PARTITIONS}) == found.changes


def test_partitions_are_never_taken_away() -> None:
    assert planned(settings(topics={"partitions": 2})) == TopicPlan((), (), ())


def test_changelog_of_ids_is_as_wide_as_its_topic() -> None:
    wanted = settings(routes=[{"name": "r", "model": "m", "idempotency": {"window_seconds": 3600}}])
    compacted = state(cleanup_policy="compact,delete")
    found = planned(wanted, **{"in": replace(state(), partitions=9), "p.seen.in": compacted}).changes
    assert [(each.topic, each.kind, each.after, each.needs) for each in found] == [
        ("p.seen.in", Kind.PARTITIONS, "9", None)
    ]


def test_replicas_are_for_kafkas_own_tools() -> None:
    found = planned(settings(), out=replace(state(), replication_factor=2))
    assert not found.changes
    assert "out has 2 replicas, fewer than the 3 set" in found.problems[0]


def test_topics_of_delays_that_no_setting_names_any_more_are_told_and_left() -> None:
    wanted = settings(routes=[{"name": "r", "model": "m", "retries": {"delays": ["5s"]}}])
    theirs = {"p.seen.in", "p.retry", "p2.retry.5s", "in", "p.retry.eu.retry.5s", "p.retry.redriven"}
    gone = left_over(wanted, {"p.retry.5s", "p.retry.1m", *theirs})
    assert gone == ("p.retry.1m",)
    found = plan(wanted, states(wanted), gone)
    assert not found.changes
    assert found.warnings[0].startswith("p.retry.1m is of a delay that no setting names any more")


def test_nothing_is_set_that_would_stop_writing() -> None:
    found = planned(settings(), out=replace(state(min_insync_replicas="1"), replication_factor=1))
    assert not found.changes
    assert "out has 1 replicas, too few for min.insync.replicas 2" in found.problems[0]


def test_changelogs_are_widened_before_their_topics() -> None:
    wanted = settings(
        topics={"partitions": 6}, routes=[{"name": "r", "model": "m", "idempotency": {"window_seconds": 60}}]
    )
    found = planned(wanted, **{"p.seen.in": state(cleanup_policy="compact,delete")})
    assert [each.topic for each in found.changes] == ["p.seen.in", "in", "out", "dead"]


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"p.redriven": {"retention.ms": 1000}}, "p.redriven needs a retention.ms of 604800000"),
        ({"p.redriven": {"retention.ms": "x"}}, "p.redriven needs a retention.ms of 604800000"),
        ({"p.redriven": {"cleanup.policy": "compact"}}, "p.redriven needs cleanup.policy delete"),
        ({"p.seen.in": {"cleanup.policy": "delete"}}, "p.seen.in needs cleanup.policy compact,delete"),
    ],
)
def test_what_headrace_keeps_there_cannot_be_lost_by_configuration(config: dict[str, Any], problem: str) -> None:
    wanted = settings(
        topics={"config": config}, routes=[{"name": "r", "model": "m", "idempotency": {"window_seconds": 60}}]
    )
    with pytest.raises(ConfigError, match=problem):
        topic_specs(wanted)


def test_longer_retention_is_as_good() -> None:
    (redriven,) = (
        spec
        for spec in topic_specs(settings(topics={"config": {"p.redriven": {"retention.ms": -1}}}))
        if spec.name == "p.redriven"
    )
    assert redriven.config["retention.ms"] == "-1"


def test_too_few_replicas_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_insync_replicas 2 needs as many replicas"):
        settings(topics={"replication_factor": 1})


@pytest.mark.parametrize(
    ("found", "warning"),
    [
        (replace(state(), replication_factor=1), "out: 1 replica: what is committed is lost with the broker's disk"),
        (state(min_insync_replicas="3"), "out: min.insync.replicas is 3 with 3 replicas: while one broker is away"),
        (state(min_insync_replicas="1"), "out: min.insync.replicas is 1 with 3 replicas: what is committed may be"),
        (state(unclean_leader_election_enable="true"), "out: unclean.leader.election.enable is true"),
        (state(cleanup_policy="compact"), "out is compacted (cleanup.policy is compact): of records with the same key"),
    ],
)
def test_warns_of_what_exactly_once_does_not_outlive(found: TopicState, warning: str) -> None:
    wanted = settings(topics={"min_insync_replicas": None})
    (told,) = planned(wanted, out=found).warnings
    assert told.startswith(warning)


def test_warns_of_kafkas_own_topics_too() -> None:
    found = planned(settings(), __transaction_state=replace(state(), replication_factor=1))
    assert found.warnings[0].startswith("__transaction_state: 1 replica")
    assert not planned(settings(), __transaction_state=None).warnings


def test_topics_that_are_to_be_made_are_warned_of_before() -> None:
    found = plan(settings(topics={"replication_factor": 1, "min_insync_replicas": None}), {})
    assert len(found.warnings) == 4
    (told,) = plan(settings(topics={"config": {"in": {"cleanup.policy": "compact"}}}), {}).warnings
    assert told.startswith("in is compacted")
