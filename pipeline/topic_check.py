"""The topics that the settings name: what each is for, what it should be, and what is wrong with it as it is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.pipeline.config import Settings
from headrace.pipeline.overviews import GroupProgress, TopicState
from headrace.pipeline.records import TopicSpec
from headrace.pipeline.retrying import consumed_topics, delay_topics
from headrace.pipeline.setup import emitted_kinds, shadow_topics, topic_specs

CREATE = "`headrace topics create` makes it"


@dataclass(frozen=True, slots=True)
class TopicReport:
    """One topic. ``state`` None: it does not exist. ``progress`` of the group, for request topics."""

    spec: TopicSpec
    roles: tuple[str, ...]
    state: TopicState | None
    progress: GroupProgress | None
    problems: tuple[str, ...]
    """What is wrong and what to do about it; empty if nothing is."""

    @property
    def needed_bytes(self) -> int:
        """``max.message.bytes`` as the settings want it."""
        return int(self.spec.config.get("max.message.bytes", 0))


def report(
    settings: Settings, states: Mapping[str, TopicState | None], progress: Mapping[str, GroupProgress]
) -> tuple[TopicReport, ...]:
    """Every topic of the settings, in their order.

    Args:
        settings: what names them.
        states: by name; None, or missing, if there is no such topic.
        progress: of the group ``settings.name``, by name.
    """
    consumed = set(consumed_topics(settings))
    roles = roles_of(settings)
    return tuple(
        TopicReport(
            spec,
            roles.get(spec.name, ()),
            state := states.get(spec.name),
            progress.get(spec.name) if spec.name in consumed else None,
            _problems(spec, state, states.get(spec.as_wide_as) if spec.as_wide_as else None),
        )
        for spec in topic_specs(settings)
    )


def roles_of(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Topic → what it is for: ``requests``, ``results``, ``replies of ROUTE``, ``dead letters``, ``shadow``,
    ``redriven``, ``put off``, ``ids``, ``emitted (KIND)``.
    """
    found: dict[str, list[str]] = {}

    def add(topic: str, role: str) -> None:
        if role not in (known := found.setdefault(topic, [])):
            known.append(role)

    for topic in settings.topics.requests:
        add(topic, "requests")
    add(settings.topics.results, "results")
    for route in settings.routes:
        for reply in (route.reply_topic, *route.reply_topics_allowed):
            if reply is not None:
                add(reply, f"replies of {route.name}")
    add(settings.topics.dead_letters, "dead letters")
    for topic in delay_topics(settings):
        add(topic, "redriven" if topic == settings.redriven_topic else "put off")
    for topic in shadow_topics(settings):
        add(topic, "shadow")
    for topic in settings.idempotent_topics:
        add(settings.seen_topic(topic), "ids")
    for topic, kind in emitted_kinds(settings).items():
        add(topic, f"emitted ({kind})")
    return {topic: tuple(roles) for topic, roles in found.items()}


def width_problem(spec: TopicSpec, partitions: int, wanted: int) -> str:
    """What is wrong with a topic that is less wide than its ``as_wide_as``, and what to do."""
    return (
        f"{spec.name} has {partitions} partitions, but {spec.as_wide_as}, whose ids it keeps, has {wanted}: add "
        "partitions to it"
    )


def replicas_problem(spec: TopicSpec, state: TopicState) -> str:
    """What is wrong with a topic that has fewer replicas than it should have, and what to do."""
    return (
        f"{spec.name} has {state.replication_factor} replicas, fewer than the {spec.replication_factor} set "
        "(topics.replication_factor): reassign its partitions with Kafka's own tools, or lower the setting"
    )


def retention_problem(spec: TopicSpec, cleanup_policy: str, retention_ms: int) -> str | None:
    """What is wrong with what a topic keeps, and what to do; None if nothing is, or it may keep what it likes."""
    policies = {policy.strip() for policy in cleanup_policy.split(",")}
    if spec.config.get("cleanup.policy") == "compact" and policies != {"compact"}:
        return f"{spec.name} has cleanup.policy={cleanup_policy}: it must be compact, or what it keeps for ever is lost"
    if spec.min_retention_ms is None:
        return None
    if spec.config.get("cleanup.policy") == "delete":
        if "compact" in policies:
            return (
                f"{spec.name} is compacted (cleanup.policy is {cleanup_policy}), so that records with the same key are "
                "lost: set it to delete"
            )
        if 0 <= retention_ms < spec.min_retention_ms:
            return (
                f"{spec.name} keeps records for {retention_ms} ms, less than the {spec.min_retention_ms} ms for which "
                "they must be there to be tried again: raise its retention.ms"
            )
        return None
    if "compact" not in policies:
        return f"{spec.name} is not compacted (cleanup.policy is {cleanup_policy}): set it to compact,delete"
    if "delete" in policies and 0 <= retention_ms < spec.min_retention_ms:
        return (
            f"{spec.name} keeps ids for {retention_ms} ms, less than the longest window of idempotency "
            f"({spec.min_retention_ms} ms): set its retention.ms to {spec.config['retention.ms']}"
        )
    return None


def _problems(spec: TopicSpec, state: TopicState | None, model: TopicState | None) -> tuple[str, ...]:
    """``model`` is the state of the topic that it must be as wide as, if there is such a one."""
    if state is None:
        return (f"{spec.name} does not exist: {CREATE}, and so does a worker when it starts",)
    problems = []
    if spec.as_wide_as is not None:
        if model is not None and state.partitions < model.partitions:
            problems.append(width_problem(spec, state.partitions, model.partitions))
    elif state.partitions < spec.partitions:
        problems.append(
            f"{spec.name} has {state.partitions} partitions, fewer than the {spec.partitions} set (topics.partitions): "
            f"set {state.partitions}, or add partitions to the topic (keys then move)"
        )
    if retention := retention_problem(spec, state.cleanup_policy, state.retention_ms):
        problems.append(retention)
    if state.replication_factor < spec.replication_factor:
        problems.append(replicas_problem(spec, state))
    needed = int(spec.config.get("max.message.bytes", 0))
    if state.max_message_bytes < needed:
        problems.append(
            f"{spec.name} takes records of {state.max_message_bytes:,} bytes, fewer than the {needed:,} needed "
            "(topics.max_message_bytes): raise the topic's max.message.bytes, or lower the setting"
        )
    return tuple(problems)
