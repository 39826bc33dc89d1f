"""Settings: every one declared once, with its default and its help. ``pipeline.yaml`` is this model in YAML.

Unknown keys and values out of range are refused. `settings_file.load_settings` turns pydantic's errors into one line
each that names the file, the path in it and what is allowed.
"""

from __future__ import annotations

import enum
import re
from typing import Self

from pydantic import Field, model_validator

from headrace.pipeline.config_base import (
    GRPC_PATTERN,
    HTTP_PATTERN,
    MAX_TOPIC_LENGTH,
    SERVERS_PATTERN,
    Name,
    Section,
    TopicName,
    TopicPrefix,
)
from headrace.pipeline.config_idempotency import IdempotencySettings
from headrace.pipeline.config_output import UserCodeSettings, ValueKind
from headrace.pipeline.config_routes import RouteSettings, default_routes
from headrace.pipeline.config_slot import Slot
from headrace.pipeline.offsets import MetadataFormat


class Assignment(enum.StrEnum):
    """How the members of a group come to their partitions: librdkafka's ``partition.assignment.strategy``."""

    RANGE = "range"
    COOPERATIVE_STICKY = "cooperative-sticky"


CALLBACK_SHARE = 0.8
"""Of `kafka.max_poll_interval_seconds`: what a rebalance callback, which is such an interval, may wait in all."""
IDS_PER_SECOND = 20_000
"""So many one partition's restore reads at least (see docs/decisions/018-idempotency.md)."""
BROKER_NOTICES_SECONDS = 10
"""Until then the broker may take to abort a transaction whose time is up."""


class KafkaSettings(Section):
    bootstrap_servers: str = Field(
        default="localhost:9092",
        pattern=SERVERS_PATTERN,
        description="Brokers to start from, `host:port`, comma-separated.",
    )
    client: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="Extra librdkafka properties for every client (security, for instance)."
    )
    session_timeout_seconds: float = Field(
        default=6.0, ge=1, le=300, description="Silence after which the group takes a worker for dead."
    )
    max_poll_interval_seconds: float = Field(
        default=300.0,
        ge=20,
        le=3600,
        description="Time without a poll (a worker that hangs, though it is not silent) after which the group gives "
        "its partitions to others. A rebalance may take 0.8 of it: transaction_timeout_seconds plus 10, and "
        "worker.drain_timeout_seconds, must not be more.",
    )
    assignment: Assignment = Field(
        default=Assignment.RANGE,
        description="`range` takes every partition away in each rebalance, `cooperative-sticky` only those that "
        "another worker is to have. The same for all workers of a group; to change it, stop them all.",
    )
    transaction_timeout_seconds: float = Field(
        default=30.0,
        ge=5,
        le=100,
        description="The broker aborts a transaction that is open longer than this.",
    )
    producers: int = Field(
        default=2,
        ge=1,
        le=3,
        description="Transactional producers used in turn: the next need not wait for the last's markers.",
    )
    offset_metadata: MetadataFormat = Field(
        default=MetadataFormat.H2,
        description="Newest format of offset metadata to write, `h1` or `h2`; both are read. `h1` while workers run "
        "that read no other (docs/guarantees.md).",
    )

    @property
    def restore_seconds(self) -> float:
        """How long a restore of ids may take: a little less than a rebalance callback, whose own error says less."""
        return 0.9 * CALLBACK_SHARE * self.max_poll_interval_seconds

    @model_validator(mode="after")
    def _fits_the_poll_interval(self) -> Self:
        if self.session_timeout_seconds > self.max_poll_interval_seconds:
            raise ValueError("session_timeout_seconds must not be more than max_poll_interval_seconds")
        longest = CALLBACK_SHARE * self.max_poll_interval_seconds - BROKER_NOTICES_SECONDS
        if self.transaction_timeout_seconds > longest:
            raise ValueError(
                f"transaction_timeout_seconds must be at most {longest:g} ({CALLBACK_SHARE:g} x "
                f"max_poll_interval_seconds - {BROKER_NOTICES_SECONDS}): a partition's next owner waits that long for "
                "its last owner's transaction"
            )
        return self


class RegistrySettings(Section):
    url: str = Field(
        default="http://localhost:8081",
        pattern=HTTP_PATTERN,
        description="Base URL of the Confluent-compatible schema registry.",
    )
    timeout_seconds: float = Field(default=5.0, gt=0, le=60, description="Time limit of one registry request.")
    client: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        description="Extra properties of confluent-kafka's registry client: `ssl.ca.location`, "
        "`ssl.certificate.location` and `ssl.key.location`, `basic.auth.user.info`, `bearer.auth.token` and the like.",
    )


class TritonSettings(Section):
    url: str = Field(default="localhost:8001", pattern=GRPC_PATTERN, description="Triton's gRPC endpoint, `host:port`.")
    timeout_seconds: float = Field(default=30.0, gt=0, le=3600, description="Default time limit of one infer call.")
    tls: bool = Field(default=False, description="Whether to speak TLS with it.")
    tls_ca_location: str | None = Field(
        default=None, description="PEM file with the authorities that may have signed its certificate; default: gRPC's."
    )
    tls_certificate_location: str | None = Field(
        default=None, description="PEM file with the worker's own certificate, for a Triton that asks for one (mTLS)."
    )
    tls_key_location: str | None = Field(default=None, description="PEM file with that certificate's key.")
    headers: dict[str, str] = Field(
        default_factory=dict,
        description="Sent with each call, for a gateway that lets in who is known: `authorization: Bearer "
        "${file:/run/secrets/token}`. Names in lower case.",
    )
    shared_memory_from_bytes: int | None = Field(
        default=None,
        ge=4096,
        description="Inputs of calls with so many bytes go to a Triton on the same host through shared memory; not "
        "set: all go over gRPC.",
    )

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        files = self.tls_ca_location, self.tls_certificate_location, self.tls_key_location
        if any(files) and not self.tls:
            raise ValueError("tls_ca_location, tls_certificate_location and tls_key_location need tls: true")
        if (self.tls_certificate_location is None) is not (self.tls_key_location is None):
            raise ValueError("tls_certificate_location and tls_key_location go together")
        for name, value in self.headers.items():
            if not re.fullmatch(r"[a-z0-9_.-]+", name) or name.endswith("-bin"):
                raise ValueError(f"headers: {name} is no name that gRPC takes: letters in lower case, digits, - _ .")
            if not (value.isascii() and value.isprintable()):
                raise ValueError(f"headers: the value of {name} is not printable ASCII")
        return self


class TopicSettings(Section):
    requests: tuple[TopicName, ...] = Field(
        default=("inference.requests",), min_length=1, description="Topics to consume inference requests from."
    )
    results: TopicName = Field(default="inference.results", description="Reply topic of routes that name none.")
    dead_letters: TopicName = Field(
        default="inference.dead-letters", description="Where records go that cannot be processed."
    )
    runs: TopicName = Field(
        default="inference.runs", description="Where replays keep what they do and how far they are."
    )
    shadow: TopicName = Field(default="inference.shadow", description="Where what the routes' shadows answer goes.")
    retry: TopicPrefix | None = Field(
        default=None,
        description="What delay topics' names begin with; default `NAME.retry`, as in `x.retry.5s`.",
    )
    redriven: TopicName | None = Field(
        default=None, description="Where dead letters go that are to be tried again; default `NAME.redriven`."
    )
    seen: TopicPrefix | None = Field(
        default=None,
        description="What the names of topics begin with that remember ids: `seen: y` makes "
        "`y.NAME.inference.requests`; default `NAME.seen`, as in `x.seen.inference.requests`.",
    )
    emitted: dict[TopicName, ValueKind] = Field(
        default_factory=dict,
        description="Topics that user code may emit to; their values: `result`, `request`, `json` or `bytes`.",
    )
    partitions: int = Field(default=8, ge=1, le=10_000, description="Partitions of topics that headrace creates.")
    replication_factor: int = Field(default=1, ge=1, le=10, description="Replicas of topics that headrace creates.")
    min_insync_replicas: int | None = Field(
        default=None,
        ge=1,
        le=10,
        description="`min.insync.replicas` of topics that headrace creates: 2 with 3 replicas, or what is committed "
        "can be lost with one broker. Not set: the brokers' default.",
    )
    config: dict[TopicName, dict[str, str | int | float | bool]] = Field(
        default_factory=dict,
        description="More of topics' configuration, by Kafka's own names: `config: {inference.results: {retention.ms: "
        "604800000}}`.",
    )
    max_message_bytes: int = Field(
        default=8 * 1024 * 1024,
        ge=96 * 1024,  # results keep 64 KiB for key and headers
        le=512 * 1024 * 1024,
        description="`max.message.bytes` of the request topics; senders refuse larger events. "
        "The dead-letter topic allows 1 MiB more, so that a record of this size still fits as a dead letter.",
    )


class WorkerSettings(Section):
    slot: Slot = Field(
        default=0,
        description="This worker's slot: unique and stable, its identity towards Kafka. `hostname`: the ordinal at the "
        "end of the host name, as a StatefulSet's pods have it.",
    )
    max_in_flight_records: int = Field(default=4_000, ge=1, description="Records consumed and not yet committed.")
    max_in_flight_bytes: int = Field(default=256 * 1024 * 1024, ge=1024, description="Their bytes.")
    video_decoders: int = Field(
        default=2, ge=1, le=64, description="Processes that sample videos; each is started when it is first needed."
    )
    max_records_per_transaction: int = Field(
        default=2_000, ge=1, description="Records whose outputs share one transaction."
    )
    max_bytes_per_transaction: int = Field(
        default=64 * 1024 * 1024,
        ge=1,
        description="Bytes of the outputs that share one transaction; a record with more has one for itself.",
    )
    drain_timeout_seconds: float = Field(
        default=10.0,
        ge=0,
        le=200,
        description="On revoke or SIGTERM: how long to finish what is in flight before dropping it.",
    )
    http_host: str = Field(default="127.0.0.1", description="Address of /metrics, /livez and /readyz.")
    http_port: int = Field(
        default=6066, ge=0, le=65535, description="Its port; 0 lets the system choose (it is logged)."
    )
    log_format: str = Field(default="text", pattern="^(text|json)$", description="`text` or `json`.")
    log_level: str = Field(
        default="info", pattern="^(debug|info|warning|error)$", description="`debug`, `info`, `warning`, `error`."
    )


class Settings(Section):
    """The whole of ``pipeline.yaml``."""

    name: Name = Field(default="headrace", description="Consumer group, and prefix of the transactional ids.")
    kafka: KafkaSettings = Field(default_factory=KafkaSettings, description="The brokers and this group.")
    registry: RegistrySettings = Field(default_factory=RegistrySettings, description="The schema registry.")
    triton: TritonSettings = Field(default_factory=TritonSettings, description="The model server.")
    topics: TopicSettings = Field(default_factory=TopicSettings, description="What is read and written.")
    routes: tuple[RouteSettings, ...] = Field(
        default_factory=default_routes,
        min_length=1,
        description="Which model answers what: the first that matches. Default: one a bundled model.",
    )
    user_code: UserCodeSettings = Field(default_factory=UserCodeSettings, description="Your own Python in the worker.")
    worker: WorkerSettings = Field(default_factory=WorkerSettings, description="This process.")

    def delay_topic(self, delay: str) -> str:
        """Of this group alone, as the next: another that read it would answer the same records."""
        return f"{self.topics.retry or f'{self.name}.retry'}.{delay}"

    @property
    def redriven_topic(self) -> str:
        return self.topics.redriven or f"{self.name}.redriven"

    def seen_topic(self, requests: str) -> str:
        """Of this group too, whatever ``topics.seen`` says: where it keeps which ids of a topic had results."""
        prefix = f"{self.topics.seen}.{self.name}" if self.topics.seen else f"{self.name}.seen"
        return f"{prefix}.{requests}"

    @property
    def lanes(self) -> frozenset[str]:
        """Request topics that are for the routes which name them."""
        return frozenset(topic for route in self.routes for topic in route.topics)

    @property
    def idempotent_topics(self) -> dict[str, tuple[IdempotencySettings, ...]]:
        """Request topics from which a route with ``idempotency`` takes events, and those routes' settings."""
        shared = tuple(topic for topic in self.topics.requests if topic not in self.lanes)
        found: dict[str, tuple[IdempotencySettings, ...]] = {}
        for route in self.routes:
            if route.idempotency is not None:
                for topic in route.topics or shared:
                    found[topic] = (*found.get(topic, ()), route.idempotency)
        return found

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [route.name for route in self.routes]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"routes: each name once, but {', '.join(doubled)} stands more than once")
        longest = CALLBACK_SHARE * self.kafka.max_poll_interval_seconds
        if self.worker.drain_timeout_seconds >= longest:
            raise ValueError(
                f"worker.drain_timeout_seconds must be less than {longest:g} ({CALLBACK_SHARE:g} x "
                "kafka.max_poll_interval_seconds): while a worker drains in a rebalance it does not poll"
            )
        for route in self.routes:
            most = int(IDS_PER_SECOND * self.kafka.restore_seconds)
            if route.idempotency is not None and route.idempotency.max_ids > most:
                raise ValueError(
                    f"routes: idempotency.max_ids of {route.name} must be at most {most:,}, for a partition's ids are "
                    f"read in a rebalance, in {self.kafka.restore_seconds:g} s: set fewer, or raise "
                    "kafka.max_poll_interval_seconds"
                )
        inputs = set(self.topics.requests)
        if len(inputs) != len(self.topics.requests):
            raise ValueError("topics.requests: each topic once")
        lanes = self.lanes
        if missing := sorted(lanes - inputs):
            raise ValueError(
                f"routes: {', '.join(missing)} is a route's topic and not in topics.requests: add it there"
            )
        if lanes and all(route.topics for route in self.routes) and (idle := sorted(inputs - lanes)):
            raise ValueError(f"topics.requests: no route takes {', '.join(idle)}: each has topics of its own")
        replies = {self.topics.results}
        replies |= {
            topic for route in self.routes for topic in (route.reply_topic, *route.reply_topics_allowed) if topic
        }
        kinds = _kinds(self, replies)
        taken = {*inputs, *replies, *kinds, self.topics.dead_letters}
        apart = {"runs": self.topics.runs, "redriven": self.redriven_topic}
        if any(route.shadow for route in self.routes):
            apart["shadow"] = self.topics.shadow
        delays = {delay for route in self.routes for delay in route.retries.delays}
        apart |= {f"retry, for {delay}": self.delay_topic(delay) for delay in sorted(delays)}
        apart |= {f"seen, for {topic}": self.seen_topic(topic) for topic in self.idempotent_topics}
        if long := [topic for what, topic in apart.items() if len(topic) > MAX_TOPIC_LENGTH]:
            raise ValueError(f"topics: {', '.join(long)} is longer than {MAX_TOPIC_LENGTH}: set topics.seen")
        for what, topic in apart.items():
            if topic in taken:
                raise ValueError(
                    f"topics: {topic} is topics.{what}, and nothing else's: give one of the two another name"
                )
            taken.add(topic)
        self._check_topic_config(taken - {self.topics.runs})
        if self.topics.dead_letters in replies:
            problem = "is both for dead letters and for results: their schemas differ"
            raise ValueError(f"topics: {self.topics.dead_letters} {problem}")
        others = {topic for topic, kind in kinds.items() if kind is not ValueKind.REQUEST}
        if loops := sorted(inputs & {*replies, *others, self.topics.dead_letters}):
            raise ValueError(f"topics: {', '.join(loops)} is both a request topic and an output, which would loop")
        return self

    def _check_topic_config(self, topics: set[str]) -> None:
        for topic, config in self.topics.config.items():
            if topic not in topics:
                raise ValueError(f"topics.config: {topic} is no topic of this pipeline")
            if "max.message.bytes" in config:
                raise ValueError(
                    f"topics.config: set topics.max_message_bytes instead of max.message.bytes of {topic}: senders and "
                    "workers go by it, too"
                )
        wanted, replicas = self.topics.min_insync_replicas, self.topics.replication_factor
        if wanted is not None and wanted > replicas:
            raise ValueError(f"topics: min_insync_replicas {wanted} needs as many replicas, and not {replicas}")


def _kinds(settings: Settings, replies: set[str]) -> dict[str, ValueKind]:
    """What is in the topics that routes and user code write beside results and dead letters.

    Raises:
        ValueError: a topic is to hold two kinds, or what only headrace may write to it.
    """
    kinds = dict(settings.topics.emitted)
    for route in settings.routes:
        for also in route.also_to:
            if kinds.setdefault(also.topic, also.write) is not also.write:
                raise ValueError(f"topics: {also.topic} is to hold both {kinds[also.topic]} and {also.write} values")
    if taken := sorted(kinds.keys() & {*replies, settings.topics.dead_letters}):
        raise ValueError(
            f"topics: {', '.join(taken)} cannot be written to by also_to or user code: its readers count on one "
            "record for each event"
        )
    return kinds
