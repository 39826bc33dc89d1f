"""Asking a Kafka cluster whether it is there, and creating topics."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it re-exports these without saying so
    AdminClient,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
    TopicMetadata,
)

from headrace.connectors.kafka.errors import PASSING, REFUSED
from headrace.pipeline.errors import ConfigError, FatalError, UnavailableError
from headrace.pipeline.records import TopicSpec
from headrace.pipeline.topic_check import retention_problem, width_problem

_PROBE_SECONDS = 1.0
_METADATA_SECONDS = 5.0
REQUEST_SECONDS = 15.0
_TROUBLES = 16
"""So many of the client's last words are looked at."""


class BrokerProbe:
    """Asks a cluster again and again whether it answers, over one client as long as it does."""

    def __init__(self, bootstrap_servers: str, client_config: Mapping[str, str | int | float | bool]) -> None:
        self._make_client = partial(admin_client, bootstrap_servers, client_config)
        self._client = self._make_client()

    def answers(self) -> bool:
        """Whether at least one broker answers a metadata request within a second."""
        with contextlib.suppress(KafkaException):
            if self._client.list_topics(timeout=_PROBE_SECONDS).brokers:
                return True
        self._client = self._make_client()  # this one may have lost the brokers for good (see ``lost_brokers``)
        return False


def is_ready(bootstrap_servers: str, client_config: Mapping[str, str | int | float | bool] | None = None) -> bool:
    """True if the cluster answers a metadata request, of a new client, with at least one broker now."""
    return BrokerProbe(bootstrap_servers, client_config or {}).answers()


def wait_until_ready(bootstrap_servers: str, timeout_seconds: float) -> None:
    """Wait until the cluster answers.

    Raises:
        UnavailableError: if it does not within ``timeout_seconds``.
    """
    deadline = time.monotonic() + timeout_seconds
    while not is_ready(bootstrap_servers):
        if time.monotonic() > deadline:
            raise UnavailableError(f"Kafka at {bootstrap_servers} did not answer in {timeout_seconds:g} s")
        time.sleep(0.1)


def ensure_topics(
    bootstrap_servers: str,
    topics: Sequence[TopicSpec],
    client_config: Mapping[str, str | int | float | bool] | None = None,
) -> tuple[str, ...]:
    """Create the topics that are missing, check those that exist; returns the names that were created.

    Raises:
        UnavailableError: the cluster does not answer.
        ConfigError: an existing topic has fewer partitions, a smaller ``max.message.bytes`` or a shorter retention
            than asked for, is not compacted but should be, is but must not be, or is less wide than another that it
            must be as wide as.
        FatalError: the cluster refuses to create a topic.
    """
    if not topics:
        return ()
    client = admin_client(bootstrap_servers, client_config)
    known = listed_topics(client, bootstrap_servers)
    missing = [spec for spec in topics if spec.name not in known and spec.as_wide_as is None]
    created = tuple(spec.name for spec in missing if _create(client, bootstrap_servers, spec))
    if alike := [spec for spec in topics if spec.as_wide_as is not None]:
        alike = _as_wide(client, bootstrap_servers, alike)
        missing = [spec for spec in alike if spec.name not in known]
        created += tuple(spec.name for spec in missing if _create(client, bootstrap_servers, spec))
    known = _wait_until_known(client, bootstrap_servers, [spec.name for spec in topics])
    _check_widths(known, alike)
    existing = [spec for spec in topics if spec.name not in created]
    if existing:
        _check_partitions(known, existing)
        _check_configs(client, bootstrap_servers, existing)
    return created


def partition_counts(
    bootstrap_servers: str, topics: Sequence[str], client_config: Mapping[str, str | int | float | bool] | None = None
) -> dict[str, int]:
    """Partitions of each of these topics; 0 if there is no such topic. Raises UnavailableError."""
    known = listed_topics(admin_client(bootstrap_servers, client_config), bootstrap_servers)
    return {name: len(known[name].partitions) if name in known else 0 for name in topics}


def admin_client(
    bootstrap_servers: str, client_config: Mapping[str, str | int | float | bool] | None = None
) -> AdminClient:
    """A client whose ``list_topics`` says why no broker answers.

    Raises:
        ConfigError: if ``kafka.client`` has a property that the client does not know.
    """
    quiet = {"log_level": 0, "reconnect.backoff.max.ms": 500}  # a broker that is not there yet is an answer, not news
    try:
        return _Client({**quiet, **(client_config or {}), "bootstrap.servers": bootstrap_servers})
    except KafkaException as error:
        raise ConfigError(f"kafka.client: {error.args[0].str()}") from error


class _Client(AdminClient):
    """librdkafka tells aside why a connection failed, and only when it is asked: the error itself says "transport"."""

    def __init__(self, config: Mapping[str, str | int | float | bool]) -> None:
        self._troubles: deque[KafkaError] = deque(maxlen=_TROUBLES)
        asked: dict[str, Any] = {**config, "error_cb": self._troubles.append}
        super().__init__(asked)

    def list_topics(self, *args: Any, **kwargs: Any) -> Any:
        """As the client's own."""
        self.poll(0)  # what is told aside piles up until it is asked for
        self._troubles.clear()
        try:
            return super().list_topics(*args, **kwargs)
        except KafkaException as error:
            self.poll(0)
            raise with_reason(error, self._troubles) from error


def with_reason(error: KafkaException, troubles: Iterable[KafkaError]) -> KafkaException:
    """A refusal goes before all else: it does not pass."""
    told = [trouble for trouble in troubles if trouble.code() != KafkaError._ALL_BROKERS_DOWN]
    refused = [trouble for trouble in told if trouble.code() in REFUSED]
    if refused:
        return KafkaException(refused[-1])
    return KafkaException(KafkaError(error.args[0].code(), told[-1].str())) if told else error


def listed_topics(client: AdminClient, bootstrap_servers: str) -> Mapping[str, TopicMetadata]:
    """Every topic there is; one asked for by its name a broker may make. Raises UnavailableError or FatalError."""
    try:
        return client.list_topics(timeout=_METADATA_SECONDS).topics
    except KafkaException as error:
        raise mapped(error, bootstrap_servers, "topics could not be listed") from error


def _create(client: AdminClient, bootstrap_servers: str, spec: TopicSpec) -> bool:
    new = NewTopic(
        spec.name,
        num_partitions=spec.partitions,
        replication_factor=spec.replication_factor,
        config=dict(spec.config),
    )
    future = client.create_topics([new], operation_timeout=REQUEST_SECONDS, request_timeout=REQUEST_SECONDS)[spec.name]
    try:
        future.result()
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        raise mapped(error, bootstrap_servers, f"topic {spec.name} could not be created") from error
    return True


def _wait_until_known(client: AdminClient, bootstrap_servers: str, names: Sequence[str]) -> Mapping[str, TopicMetadata]:
    """A topic that was created a moment ago, by us or another worker, is not in every broker's metadata yet."""
    deadline = time.monotonic() + REQUEST_SECONDS
    while missing := [name for name in names if name not in (known := listed_topics(client, bootstrap_servers))]:
        if time.monotonic() > deadline:
            raise UnavailableError(f"Kafka at {bootstrap_servers} does not list the topics {', '.join(missing)}")
        time.sleep(0.05)
    return known


def _as_wide(client: AdminClient, bootstrap_servers: str, specs: Sequence[TopicSpec]) -> list[TopicSpec]:
    """The specs with as many partitions as their models have, which exist or have just been created."""
    models = [spec.as_wide_as for spec in specs if spec.as_wide_as is not None]
    known = _wait_until_known(client, bootstrap_servers, models)
    return [replace(spec, partitions=len(known[model].partitions)) for spec, model in zip(specs, models, strict=True)]


def _check_widths(known: Mapping[str, TopicMetadata], specs: Sequence[TopicSpec]) -> None:
    for spec in specs:
        partitions = len(known[spec.name].partitions)
        if partitions < spec.partitions:
            raise ConfigError(f"topic {width_problem(spec, partitions, spec.partitions)}")


def _check_partitions(known: Mapping[str, TopicMetadata], specs: Sequence[TopicSpec]) -> None:
    for spec in specs:
        partitions = len(known[spec.name].partitions)
        if partitions < spec.partitions and spec.as_wide_as is None:
            raise ConfigError(
                f"topic {spec.name} has {partitions} partitions, fewer than the {spec.partitions} set "
                f"(topics.partitions): set {partitions}, or add partitions to the topic (keys then move)"
            )


def _check_configs(client: AdminClient, bootstrap_servers: str, specs: Sequence[TopicSpec]) -> None:
    checked = {spec.name: spec for spec in specs if {"max.message.bytes", "cleanup.policy"} & spec.config.keys()}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in checked]
    if not resources:
        return
    for resource, future in client.describe_configs(resources, request_timeout=REQUEST_SECONDS).items():
        try:
            entries: Mapping[str, ConfigEntry] = future.result()
        except KafkaException as error:
            raise mapped(error, bootstrap_servers, f"topic {resource.name} could not be described") from error
        spec = checked[resource.name]
        policy, retention_ms = str(entries["cleanup.policy"].value), int(entries["retention.ms"].value or -1)
        if problem := retention_problem(spec, policy, retention_ms):
            raise ConfigError(f"topic {problem}")
        allowed, wanted = int(entries["max.message.bytes"].value or 0), int(spec.config.get("max.message.bytes", 0))
        if allowed < wanted:
            raise ConfigError(
                f"topic {resource.name} allows records of {allowed} bytes, less than the {wanted} "
                "needed (topics.max_message_bytes): raise the topic's max.message.bytes or lower the setting"
            )


def mapped(error: KafkaException, bootstrap_servers: str, what: str) -> UnavailableError | FatalError:
    """What an administrative request's error is to us; ``what`` could not be done."""
    cause: KafkaError = error.args[0]
    if cause.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
        # Of a topic that is listed: it was made a moment ago, and the broker that was asked has not heard of it yet.
        return UnavailableError(f"{what}: {cause.str()}")
    if cause.code() in PASSING:
        return UnavailableError(f"Kafka at {bootstrap_servers} does not answer: {what} ({cause.str()})")
    return FatalError(f"{what}: {cause.str()}")
