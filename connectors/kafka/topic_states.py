"""What topics are like and how far a group has read them: looking only, as nobody's member."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import TypeVar

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it re-exports these without saying so
    AdminClient,
    ConfigEntry,
    ConfigResource,
    OffsetSpec,
    ResourceType,
    TopicMetadata,
)

from headrace.connectors.kafka.admin import admin_client, listed_topics, mapped
from headrace.pipeline import records
from headrace.pipeline.overviews import CommittedOffset, GroupProgress, TopicState

REQUEST_SECONDS = 15.0
"""Far above what a broker that answers needs: see ``group``."""
LEADER_PAUSE_SECONDS = 0.1
_NO_LEADER_YET = frozenset(
    {KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART}
)
"""Said of a partition that was made a moment ago."""
Answer = TypeVar("Answer")


class TopicStates:
    """Asks a cluster about topics.

    Args:
        bootstrap_servers: the brokers to start from.
        client_config: further librdkafka properties.

    Raises:
        ConfigError: on construction, if there is a property that the client does not know.
    """

    def __init__(self, bootstrap_servers: str, client_config: Mapping[str, str | int | float | bool]) -> None:
        self._where = bootstrap_servers
        self._client: AdminClient = admin_client(bootstrap_servers, client_config)

    def states(self, topics: Sequence[str]) -> dict[str, TopicState | None]:
        """Each topic as it is; None if it does not exist.

        Raises:
            UnavailableError: the cluster does not answer.
            FatalError: it does not let us look.
        """
        known = listed_topics(self._client, self._where)
        there = [name for name in topics if name in known and known[name].error is None]
        configs = self._configs(there)
        ends = self._offsets(there, known, OffsetSpec.latest())  # type: ignore[no-untyped-call]  # the client declares no types there
        starts = self._offsets(there, known, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        return {
            name: TopicState(
                partitions=len(known[name].partitions),
                replication_factor=min(len(each.replicas) for each in known[name].partitions.values()),
                max_message_bytes=int(configs[name]["max.message.bytes"].value or 0),
                starts={each.partition: offset for each, offset in starts.items() if each.topic == name},
                ends={each.partition: offset for each, offset in ends.items() if each.topic == name},
                cleanup_policy=str(configs[name]["cleanup.policy"].value),
                retention_ms=int(configs[name]["retention.ms"].value or -1),
                config={key: str(entry.value) for key, entry in configs[name].items() if entry.value is not None},
            )
            if name in there
            else None
            for name in topics
        }

    def names(self) -> frozenset[str]:
        """Of all topics. Raises as ``states``."""
        return frozenset(name for name, each in listed_topics(self._client, self._where).items() if each.error is None)

    def committed(
        self, group: str, states: Mapping[str, TopicState | None]
    ) -> dict[records.TopicPartition, CommittedOffset]:
        """What a group has committed for each partition of the topics that exist. Raises as ``states``."""
        places = [
            TopicPartition(name, partition) for name, state in states.items() if state for partition in state.ends
        ]
        if not places:
            return {}
        asked = ConsumerGroupTopicPartitions(group, places)
        futures = self._client.list_consumer_group_offsets([asked], request_timeout=REQUEST_SECONDS)
        found = self._result(futures[group], f"offsets of group {group} could not be read")
        return {
            records.TopicPartition(each.topic, each.partition): CommittedOffset(each.offset, each.metadata or "")
            for each in found.topic_partitions or ()
            if each.offset >= 0 and each.error is None
        }

    def progress(self, group: str, states: Mapping[str, TopicState | None]) -> dict[str, GroupProgress]:
        """How far a group has committed each of the topics that exist. Raises as ``states``."""
        committed: Mapping[tuple[str, int], int] = {
            where: found.offset for where, found in self.committed(group, states).items()
        }
        return {
            name: GroupProgress(
                {part: committed[name, part] for part in state.ends if (name, part) in committed},
                lag=sum(
                    max(0, end - max(committed.get((name, part), 0), state.starts[part]))
                    for part, end in state.ends.items()
                ),
            )
            for name, state in states.items()
            if state is not None
        }

    def _configs(self, topics: Sequence[str]) -> dict[str, Mapping[str, ConfigEntry]]:
        if not topics:
            return {}
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in topics]
        found = self._client.describe_configs(resources, request_timeout=REQUEST_SECONDS)
        return {
            resource.name: self._result(future, f"topic {resource.name} could not be described")
            for resource, future in found.items()
        }

    def _offsets(
        self, topics: Sequence[str], known: Mapping[str, TopicMetadata], spec: OffsetSpec
    ) -> dict[TopicPartition, int]:
        asked = {TopicPartition(name, partition): spec for name in topics for partition in known[name].partitions}
        if not asked:
            return {}
        deadline = time.monotonic() + REQUEST_SECONDS
        while True:
            futures = self._client.list_offsets(asked, request_timeout=REQUEST_SECONDS)
            try:
                return {place: future.result(REQUEST_SECONDS + 1).offset for place, future in futures.items()}
            except KafkaException as error:
                if error.args[0].code() not in _NO_LEADER_YET or time.monotonic() > deadline:
                    raise mapped(error, self._where, "offsets could not be read") from error
            time.sleep(LEADER_PAUSE_SECONDS)

    def _result(self, future: Future[Answer], failed: str) -> Answer:
        try:
            return future.result(REQUEST_SECONDS + 1)
        except KafkaException as error:
            raise mapped(error, self._where, failed) from error
