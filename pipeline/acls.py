"""Which rights on a Kafka cluster each role needs, and no more, by the settings. Pure.

Read and Write include Describe. Which right is for what stands in docs/howto/existing-kafka.md.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from headrace.pipeline.config import Settings
from headrace.pipeline.redriving import marks_topic
from headrace.pipeline.retrying import consumed_topics, delay_topics
from headrace.pipeline.setup import emitted_kinds, reply_topics, shadow_topics, topic_specs
from headrace.pipeline.topic_plan import INTERNAL

READER_GROUPS = ("headrace-reader", "headrace-ranges")
"""Of commands that read; they never join them."""


class Role(enum.StrEnum):
    """Who is to have the rights."""

    WORKER = "worker"
    PRODUCER = "producer"
    """Of events."""
    CONSUMER = "consumer"
    """Of results and dead letters: `headrace send --wait`, `tail` and `dlq`. Groups of programs are theirs to add."""
    REDRIVER = "redriver"
    """Of dead letters, beside a consumer's."""
    REPLAYER = "replayer"
    """`headrace replay` and `headrace runs`."""
    ADMIN = "admin"
    """`headrace topics plan` and `apply`."""


class Resource(enum.StrEnum):
    """As kafka-acls.sh names its options."""

    TOPIC = "topic"
    GROUP = "group"
    TRANSACTIONAL_ID = "transactional-id"


class Operation(enum.StrEnum):
    """As Kafka names them."""

    READ = "Read"
    WRITE = "Write"
    CREATE = "Create"
    DELETE = "Delete"
    ALTER = "Alter"
    DESCRIBE = "Describe"
    DESCRIBE_CONFIGS = "DescribeConfigs"
    ALTER_CONFIGS = "AlterConfigs"


class Right(NamedTuple):
    """One operation on one resource, or on all whose names begin so."""

    resource: Resource
    name: str
    operation: Operation
    prefixed: bool = False


def rights(settings: Settings, role: Role) -> tuple[Right, ...]:
    """All that a role needs, each once, in order."""
    return tuple(sorted(set(_OF[role](settings))))


def commands(rights: Iterable[Right], principal: str, options: str) -> list[str]:
    """Lines for kafka-acls.sh that give a principal these rights: one for the resources that have the same.

    Args:
        rights: of one role.
        principal: as ``User:name``.
        options: how the script reaches the cluster.
    """
    by_name: dict[tuple[Resource, bool, str], list[Operation]] = {}
    for right in rights:
        by_name.setdefault((right.resource, right.prefixed, right.name), []).append(right.operation)
    alike: dict[tuple[Resource, bool, tuple[Operation, ...]], list[str]] = {}
    for (resource, prefixed, name), operations in by_name.items():
        alike.setdefault((resource, prefixed, tuple(operations)), []).append(name)
    lines = []
    for (resource, prefixed, some), names in alike.items():
        words = ["kafka-acls.sh", options, "--add", f"--allow-principal {principal}"]
        words += [f"--operation {operation}" for operation in some]
        words += [f"--{resource} {name}" for name in names]
        words += ["--resource-pattern-type prefixed"] if prefixed else []
        lines.append(" ".join(words))
    return lines


def _topics(names: Iterable[str], *operations: Operation) -> list[Right]:
    return [Right(Resource.TOPIC, name, operation) for name in names for operation in operations]


def _readers() -> list[Right]:
    return [Right(Resource.GROUP, group, Operation.DESCRIBE) for group in READER_GROUPS]


def _transactions(prefix: str) -> Right:
    return Right(Resource.TRANSACTIONAL_ID, prefix, Operation.WRITE, prefixed=True)


def _of_worker(settings: Settings) -> list[Right]:
    seen = [settings.seen_topic(topic) for topic in settings.idempotent_topics]
    read = [*consumed_topics(settings), *seen]
    put_off = [topic for topic in delay_topics(settings) if topic != settings.redriven_topic]
    written = [
        *reply_topics(settings),
        settings.topics.dead_letters,
        *shadow_topics(settings),
        *emitted_kinds(settings),
        *put_off,
        *seen,
    ]
    return [
        *_topics(read, Operation.READ, Operation.DESCRIBE_CONFIGS),
        *_topics(written, Operation.WRITE, Operation.DESCRIBE_CONFIGS),
        Right(Resource.GROUP, settings.name, Operation.READ),
        _transactions(f"{settings.name}-"),
    ]


def _of_producer(settings: Settings) -> list[Right]:
    return _topics(settings.topics.requests, Operation.WRITE)


def _of_consumer(settings: Settings) -> list[Right]:
    return [
        *_topics((*reply_topics(settings), settings.topics.dead_letters), Operation.READ),
        *_readers(),
    ]


def _of_redriver(settings: Settings) -> list[Right]:
    marks = marks_topic(settings)
    return [
        *_of_consumer(settings),
        *_topics([settings.topics.dead_letters], Operation.DELETE),
        *_topics([settings.redriven_topic], Operation.WRITE, Operation.DESCRIBE_CONFIGS),
        *_topics([marks], Operation.READ, Operation.WRITE, Operation.DESCRIBE_CONFIGS, Operation.CREATE),
        _transactions(f"{settings.name}-redrive"),
    ]


def _of_replayer(settings: Settings) -> list[Right]:
    everything = (Operation.READ, Operation.WRITE, Operation.CREATE, Operation.DELETE, Operation.DESCRIBE_CONFIGS)
    return [
        *_topics(settings.topics.requests, Operation.READ),
        *(Right(Resource.TOPIC, settings.topics.runs, each, prefixed=True) for each in everything),
        *_readers(),
        _transactions(settings.topics.runs),
    ]


def _of_admin(settings: Settings) -> list[Right]:
    allowed = (
        Operation.CREATE,
        Operation.ALTER,
        Operation.DESCRIBE_CONFIGS,
        Operation.ALTER_CONFIGS,
        Operation.DESCRIBE,
    )
    return [
        *_topics((spec.name for spec in topic_specs(settings)), *allowed),
        *_topics(INTERNAL, Operation.DESCRIBE, Operation.DESCRIBE_CONFIGS),
        Right(Resource.GROUP, settings.name, Operation.DESCRIBE),
    ]


_OF: Mapping[Role, Callable[[Settings], list[Right]]] = {
    Role.WORKER: _of_worker,
    Role.PRODUCER: _of_producer,
    Role.CONSUMER: _of_consumer,
    Role.REDRIVER: _of_redriver,
    Role.REPLAYER: _of_replayer,
    Role.ADMIN: _of_admin,
}
