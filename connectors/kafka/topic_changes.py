"""Changing topics as a plan says (see ``topic_plan``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it re-exports these without saying so
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)

from headrace.connectors.kafka.admin import REQUEST_SECONDS, admin_client, ensure_topics, mapped
from headrace.pipeline.records import TopicSpec
from headrace.pipeline.topic_plan import Change, Kind


class TopicChanges:
    """Carries changes out, one after the other: what was done before one fails stays done, and a new plan lacks it.

    Args:
        bootstrap_servers: the brokers to start from.
        client_config: further librdkafka properties.
        specs: of the topics that may have to be made.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        client_config: Mapping[str, str | int | float | bool],
        specs: Iterable[TopicSpec],
    ) -> None:
        self._where = bootstrap_servers
        self._client_config = client_config
        self._client = admin_client(bootstrap_servers, client_config)
        self._specs = {spec.name: spec for spec in specs}

    def carry_out(self, change: Change) -> None:
        """Raises:
        UnavailableError: the cluster does not answer.
        FatalError: it refuses.
        """
        topic = change.topic
        match change.kind:
            case Kind.CREATE:
                ensure_topics(self._where, [self._specs[topic]], self._client_config)
            case Kind.PARTITIONS:
                wanted = [NewPartitions(topic, int(change.after))]
                self._wait(self._client.create_partitions(wanted, request_timeout=REQUEST_SECONDS)[topic], change)
            case Kind.CONFIG:
                entry = ConfigEntry(change.key, change.after, incremental_operation=AlterConfigOpType.SET)
                resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
                futures = self._client.incremental_alter_configs([resource], request_timeout=REQUEST_SECONDS)
                self._wait(futures[resource], change)

    def _wait(self, future: Future[None], change: Change) -> None:
        try:
            future.result(REQUEST_SECONDS + 1)
        except KafkaException as error:
            raise mapped(error, self._where, f"{change} was not done") from error
