"""What must stand in the registry and in Kafka before a worker starts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.config import Settings
from headrace.pipeline.config_output import ValueKind
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.ports import SchemaRegistry
from headrace.pipeline.records import TopicSpec
from headrace.pipeline.retrying import MAX_JITTER, delay_topics

COMPATIBILITY = "FULL_TRANSITIVE"
HEADERS_ALLOWANCE_BYTES = 64 * 1024
"""Room left for headers beside key and value, under a topic's ``max.message.bytes``."""
DEAD_LETTER_HEADROOM_BYTES = 1024 * 1024  # so that the largest record still fits when it is wrapped as a dead letter
DELAY_GRACE_SECONDS = 86_400
MIN_DELAY_RETENTION_SECONDS = 7 * 86_400
"""How long a delay topic must keep records, even if they wait for seconds only: so long may the workers be down."""
SEEN_GRACE_SECONDS = 86_400
"""An id is remembered by when its event was answered, and looked up by when its records were sent: so far a group may
be behind."""
SEEN_SEGMENT_BYTES = 16 * 1024 * 1024
"""What is old goes away, and what is written anew is compacted, in whole segments but the one that is written to."""


@dataclass(frozen=True, slots=True)
class ContractIds:
    """Ids of the current schemas in the registry: what values are encoded with."""

    request: int
    result: int
    dead_letter: int


def register_contracts(registry: SchemaRegistry, settings: Settings) -> ContractIds:
    """Registers the contracts' schemas under every topic's subject (``<topic>-value``). Safe to repeat.

    Raises:
        UnavailableError: if the registry does not answer.
        FatalError: if it holds a version that ours is not fully compatible with.
    """
    topics = settings.topics
    kinds = emitted_kinds(settings)
    more = {kind: tuple(topic for topic in kinds if kinds[topic] is kind) for kind in ValueKind}
    return ContractIds(
        request=_register(registry, (*topics.requests, *more[ValueKind.REQUEST]), Contract.REQUEST),
        result=_register(
            registry, (*reply_topics(settings), *shadow_topics(settings), *more[ValueKind.RESULT]), Contract.RESULT
        ),
        dead_letter=_register(registry, (topics.dead_letters,), Contract.DEAD_LETTER),
    )


def topic_specs(settings: Settings) -> tuple[TopicSpec, ...]:
    """Every topic the settings name, once: requests, replies, shadows, dead letters, delays, ids, what is emitted."""
    topics = settings.topics
    dead_letter_bytes = topics.max_message_bytes + DEAD_LETTER_HEADROOM_BYTES
    names = (*topics.requests, *reply_topics(settings), *shadow_topics(settings), *emitted_kinds(settings))
    sizes = dict.fromkeys(names, topics.max_message_bytes)
    sizes[topics.dead_letters] = max(sizes.get(topics.dead_letters, 0), dead_letter_bytes)
    waiting = delay_topics(settings)
    sizes |= dict.fromkeys(waiting, dead_letter_bytes)  # one header more must fit
    retention_ms = {name: delay_retention_ms(seconds) for name, seconds in waiting.items()}
    specs = tuple(
        TopicSpec(
            name,
            # Few records, and cooperative-sticky assignment evens out partitions of all topics together.
            1 if name == settings.redriven_topic else topics.partitions,
            topics.replication_factor,
            {"max.message.bytes": str(max_bytes), **_kept(retention_ms.get(name))},
            min_retention_ms=retention_ms.get(name),
        )
        for name, max_bytes in sizes.items()
    )
    return tuple(configured(settings, spec) for spec in (*specs, *seen_topic_specs(settings)))


def configured(settings: Settings, spec: TopicSpec) -> TopicSpec:
    """With what the settings say of all topics' configuration, and of this one's.

    Raises:
        ConfigError: it would lose what headrace keeps there.
    """
    topics, config = settings.topics, dict(spec.config)
    if topics.min_insync_replicas is not None:
        config["min.insync.replicas"] = str(topics.min_insync_replicas)
    for key, value in topics.config.get(spec.name, {}).items():
        config[key] = str(value).lower() if isinstance(value, bool) else str(value)
    least_ms = spec.min_retention_ms
    if least_ms is not None:
        if config["cleanup.policy"] != spec.config["cleanup.policy"]:
            raise ConfigError(f"topics.config: {spec.name} needs cleanup.policy {spec.config['cleanup.policy']}")
        if not _lasts(config["retention.ms"], least_ms):
            raise ConfigError(f"topics.config: {spec.name} needs a retention.ms of {least_ms} or more, or -1")
    return replace(spec, config=config)


def _lasts(retention_ms: str, least_ms: int) -> bool:
    try:
        return int(retention_ms) == -1 or int(retention_ms) >= least_ms
    except ValueError:
        return False


def delay_retention_ms(delay_seconds: float) -> int:
    """How long the topic of a delay must keep records: twice the longest that one waits, and a day; at least a week."""
    longest_seconds = delay_seconds * (1 + MAX_JITTER)
    return round(1000 * max(MIN_DELAY_RETENTION_SECONDS, 2 * longest_seconds + DELAY_GRACE_SECONDS))


def _kept(retention_ms: int | None) -> dict[str, str]:
    """Not left to the broker's defaults: compacted, records with the same key would be lost but for one."""
    return {} if retention_ms is None else {"cleanup.policy": "delete", "retention.ms": str(retention_ms)}


def seen_topic_specs(settings: Settings) -> tuple[TopicSpec, ...]:
    """The changelogs of routes' ``idempotency``; none if no route has it."""
    topics, used = settings.topics, settings.idempotent_topics
    longest_seconds = max((each.window_seconds for some in used.values() for each in some), default=0.0)
    window_ms = round(1000 * longest_seconds)
    config = {
        "cleanup.policy": "compact,delete",
        "retention.ms": str(round(1000 * (longest_seconds + SEEN_GRACE_SECONDS))),
        "segment.bytes": str(SEEN_SEGMENT_BYTES),
    }
    return tuple(
        TopicSpec(settings.seen_topic(topic), topics.partitions, topics.replication_factor, config, topic, window_ms)
        for topic in used
    )


def reply_topics(settings: Settings) -> tuple[str, ...]:
    """Every topic that results may go to, the default first, each once."""
    named = [topic for route in settings.routes for topic in (route.reply_topic, *route.reply_topics_allowed) if topic]
    return tuple(dict.fromkeys((settings.topics.results, *named)))


def shadow_topics(settings: Settings) -> tuple[str, ...]:
    """The topic of what shadows answer, if a route has one."""
    return (settings.topics.shadow,) if any(route.shadow for route in settings.routes) else ()


def emitted_kinds(settings: Settings) -> dict[str, ValueKind]:
    """Topics written to beside results and dead letters (``topics.emitted``, ``also_to``), and what is in them."""
    kinds = dict(settings.topics.emitted)
    return kinds | {also.topic: also.write for route in settings.routes for also in route.also_to}


def _register(registry: SchemaRegistry, topics: tuple[str, ...], contract: Contract) -> int:
    """One schema has one id in a registry, whatever the subjects; the last answer is as good as the first."""
    ids = [registry.register(f"{topic}-value", schema_json(contract), COMPATIBILITY) for topic in topics]
    return ids[-1]
