"""The composition root: settings + connectors → the Faust app. ``faust -A pipeline.app worker`` starts ``app``."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.connectors.kafka.admin import BrokerProbe, ensure_topics, partition_counts
from headrace.connectors.kafka.changelog import KafkaChangelog
from headrace.connectors.kafka.consumer import GroupConsumer
from headrace.connectors.kafka.consumer_settings import ConsumerSettings
from headrace.connectors.kafka.group import wait_until_slot_is_free
from headrace.connectors.kafka.transaction import KafkaTransactions
from headrace.connectors.kafka.transactional import BATCH_BYTES, TransactionSettings
from headrace.connectors.registry import ConfluentRegistry
from headrace.connectors.triton import TritonInferenceClient
from headrace.connectors.video.sampler import ProcessSampler
from headrace.pipeline.agents import InferenceApp, build_app
from headrace.pipeline.budget import Budget
from headrace.pipeline.clock import SystemClock
from headrace.pipeline.config import Settings
from headrace.pipeline.health import Health
from headrace.pipeline.http_port import listenable
from headrace.pipeline.ports import Changelog, FrameSampler, InferenceClient, RecordSource, SchemaRegistry, Transactions
from headrace.pipeline.retrying import consumed_topics, delay_topics
from headrace.pipeline.setup import DEAD_LETTER_HEADROOM_BYTES, ContractIds, register_contracts, topic_specs
from headrace.pipeline.slot import slot_number
from headrace.pipeline.worker import Connections

log = logging.getLogger(__name__)


class KafkaTritonConnections:
    """``worker.Connections`` on Kafka, a Confluent-compatible registry and Triton.

    Args:
        settings: of the worker.
        inference: in place of Triton.
    """

    registry: SchemaRegistry
    inference: InferenceClient
    sampler: FrameSampler

    def __init__(self, settings: Settings, inference: InferenceClient | None = None) -> None:
        self._settings = settings
        self._instance_id = f"{settings.name}-{settings.worker.slot}"
        self.registry = ConfluentRegistry.of(settings.registry)
        self.inference = inference or TritonInferenceClient.of(settings.triton, self._instance_id)
        self.sampler = ProcessSampler(settings.worker.video_decoders)
        self._probe = BrokerProbe(settings.kafka.bootstrap_servers, settings.kafka.client)

    def prepare(self) -> Mapping[str, int]:
        settings = self._settings
        kafka = settings.kafka
        wait_until_slot_is_free(
            kafka.bootstrap_servers, settings.name, self._instance_id, kafka.session_timeout_seconds, kafka.client
        )
        specs = topic_specs(settings)
        ensure_topics(kafka.bootstrap_servers, specs, kafka.client)
        return partition_counts(kafka.bootstrap_servers, [spec.name for spec in specs], kafka.client)

    def contracts(self) -> ContractIds:
        return register_contracts(self.registry, self._settings)

    def kafka_answers(self) -> bool:
        return self._probe.answers()

    def changelog(self) -> Changelog | None:
        settings = self._settings
        kafka, topics = settings.kafka, settings.idempotent_topics
        changelogs = {topic: settings.seen_topic(topic) for topic in topics}
        if not changelogs:
            return None
        where, client = kafka.bootstrap_servers, kafka.client
        return KafkaChangelog(where, client, settings.name, changelogs, kafka.restore_seconds)

    def open(self, budget: Budget, health: Health) -> tuple[RecordSource, Transactions]:
        settings = self._settings
        kafka = settings.kafka
        delays = delay_topics(settings)
        consumer = GroupConsumer(
            ConsumerSettings(
                bootstrap_servers=kafka.bootstrap_servers,
                group_id=settings.name,
                instance_id=self._instance_id,
                topics=consumed_topics(settings),
                session_timeout_seconds=kafka.session_timeout_seconds,
                max_poll_interval_seconds=kafka.max_poll_interval_seconds,
                assignment=kafka.assignment,
                max_message_bytes=settings.topics.max_message_bytes,
                client=kafka.client,
                delays=delays,
            ),
            budget,
        )
        transactions = KafkaTransactions(
            TransactionSettings(
                bootstrap_servers=kafka.bootstrap_servers,
                group_id=settings.name,
                transactional_id=self._instance_id,
                producers=kafka.producers,
                transaction_timeout_seconds=kafka.transaction_timeout_seconds,
                max_message_bytes=settings.topics.max_message_bytes + DEAD_LETTER_HEADROOM_BYTES,
                max_batch_bytes=min(BATCH_BYTES, settings.topics.max_message_bytes),
                client=kafka.client,
            ),
            consumer,
            lambda down: health.report("kafka", not down, "transactions are not answered"),
        )
        return consumer, transactions


Connect = Callable[[Settings], Connections]


def create_app(settings: Settings, connect: Connect = KafkaTritonConnections) -> InferenceApp:
    """The Faust app of one worker with these settings.

    Args:
        settings: of the worker.
        connect: makes what it needs of the outside, inside the running event loop.

    Raises:
        FatalError: its HTTP port is taken, or (a ConfigError) its slot is to be found in a host name that has none.
    """
    worker = settings.worker
    slot = slot_number(worker.slot)
    port = listenable(worker.http_host, worker.http_port)
    log.info("serving /metrics, /livez and /readyz on %s port %d", worker.http_host, port)
    settings = settings.model_copy(update={"worker": worker.model_copy(update={"http_port": port, "slot": slot})})
    return build_app(settings, lambda: connect(settings), SystemClock())


if TYPE_CHECKING:
    app: InferenceApp


def __getattr__(name: str) -> Any:
    """``app`` is made when Faust's command asks for it, from HEADRACE_CONFIG and the environment."""
    if name != "app":
        raise AttributeError(name)
    from headrace.connectors.discovery import settings_in_force
    from headrace.pipeline.log import configure_logging

    path = os.environ.get("HEADRACE_CONFIG")
    settings = settings_in_force(Path(path) if path else None)
    configure_logging(settings.worker.log_format, settings.worker.log_level, slot_number(settings.worker.slot))
    globals()["app"] = made = create_app(settings)
    return made
