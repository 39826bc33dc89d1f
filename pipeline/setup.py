"""What must stand in the registry and in Kafka before a worker starts."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.config import Settings
from headrace.pipeline.ports import SchemaRegistry
from headrace.pipeline.records import TopicSpec

COMPATIBILITY = "FULL_TRANSITIVE"
DEAD_LETTER_HEADROOM_BYTES = 1024 * 1024  # so that the largest record still fits when it is wrapped as a dead letter


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
    return ContractIds(
        request=_register(registry, topics.requests, Contract.REQUEST),
        result=_register(registry, reply_topics(settings), Contract.RESULT),
        dead_letter=_register(registry, (topics.dead_letters,), Contract.DEAD_LETTER),
    )


def topic_specs(settings: Settings) -> tuple[TopicSpec, ...]:
    """Every topic the settings name, once: request topics, reply topics, the dead-letter topic."""
    topics = settings.topics
    dead_letter_bytes = topics.max_message_bytes + DEAD_LETTER_HEADROOM_BYTES
    sizes = dict.fromkeys((*topics.requests, *reply_topics(settings)), topics.max_message_bytes)
    sizes[topics.dead_letters] = max(sizes.get(topics.dead_letters, 0), dead_letter_bytes)
    return tuple(
        TopicSpec(name, topics.partitions, topics.replication_factor, {"max.message.bytes": str(max_bytes)})
        for name, max_bytes in sizes.items()
    )


def reply_topics(settings: Settings) -> tuple[str, ...]:
    """Every topic that results may go to, the default first, each once."""
    named = [topic for route in settings.routes for topic in (route.reply_topic, *route.reply_topics_allowed) if topic]
    return tuple(dict.fromkeys((settings.topics.results, *named)))


def _register(registry: SchemaRegistry, topics: tuple[str, ...], contract: Contract) -> int:
    """One schema has one id in a registry, whatever the subjects; the last answer is as good as the first."""
    ids = [registry.register(f"{topic}-value", schema_json(contract), COMPATIBILITY) for topic in topics]
    return ids[-1]
