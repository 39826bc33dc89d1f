"""The runs topic, compacted: the newest record with a run's id as key is the run."""

from __future__ import annotations

import logging
from dataclasses import replace

from confluent_kafka import KafkaError, KafkaException

from headrace.connectors.kafka.admin import REQUEST_SECONDS, admin_client, ensure_topics, mapped, partition_counts
from headrace.connectors.kafka.history import KafkaTopicHistory
from headrace.connectors.kafka.producer import EventSender
from headrace.connectors.kafka.reader import Beginning, CommittedReader
from headrace.connectors.kafka.run_transactions import last_value
from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.config import Settings
from headrace.pipeline.errors import ConfigError, FatalError, HeadraceError, PoisonError
from headrace.pipeline.ports import SchemaRegistry
from headrace.pipeline.replay.manifest import Progress, ProgressDecoder, Run, RunDecoder, RunState, encode_run
from headrace.pipeline.replay.settings import (
    RECORD_BYTES,
    progress_topic_spec,
    run_topic_specs,
    run_topics,
    runs_topic_spec,
)
from headrace.pipeline.setup import COMPATIBILITY

log = logging.getLogger(__name__)

READ_SECONDS = 30.0


def unknown_run(run_id: str) -> ConfigError:
    """There is no run of this id."""
    return ConfigError(f"there is no run {run_id}: `headrace runs list` shows them")


class RunStore:
    """Finds, writes and removes runs.

    Args:
        live: the pipeline's settings.
        registry: for the schemas that runs are written with.
    """

    def __init__(self, live: Settings, registry: SchemaRegistry) -> None:
        self._live = live
        self._registry = registry
        self._topic = live.topics.runs
        self._progress = ProgressDecoder()
        self._schema_id: int | None = None

    # --- schemas

    def register_progress(self) -> int:
        """The id of progress's schema. Raises UnavailableError or FatalError."""
        subject = f"{self._topic}.progress-value"  # of no topic: every run has one of its own
        schema = schema_json(Contract.REPLAY_PROGRESS)
        schema_id = self._registry.register(subject, schema, COMPATIBILITY)
        self._progress.add_schema(schema_id, schema)  # so that reading what this release wrote asks nobody
        return schema_id

    def decode_progress(self, value: bytes) -> Progress:
        """Raises UnavailableError, or FatalError if it cannot be read."""
        for schema_id in self._progress.missing([value]):
            self._progress.add_schema(schema_id, self._registry.schema(schema_id))
        try:
            return self._progress.decode(value)
        except PoisonError as error:
            raise FatalError(f"how far the run is cannot be read: {error.message}") from error

    # --- runs

    def all(self) -> tuple[Run, ...]:
        """Every run, the oldest first; counts are exact if they can be read. Raises UnavailableError or FatalError."""
        return tuple(map(self._exact, self._listed()))

    def find(self, run_id: str) -> Run | None:
        """The run with this id, if there is one. Raises as ``all``."""
        return next((self._exact(run) for run in self._listed() if run.plan.run == run_id), None)

    def named(self, run_id: str) -> Run:
        """The run with this id. Raises as ``all``, and ConfigError if there is none."""
        run = self.find(run_id)
        if run is None:
            raise unknown_run(run_id)
        return run

    def _listed(self) -> list[Run]:
        """As their processes last said they are."""
        kafka = self._live.kafka
        if not self._is_there(self._topic):
            return []
        newest: dict[bytes, bytes | None] = {}
        with CommittedReader(kafka, [self._topic], Beginning()) as reader:
            for record in reader.records(READ_SECONDS, until_end=True):
                newest[record.key or b""] = record.value
        decoder = RunDecoder()
        for schema_id in decoder.missing(newest.values()):
            decoder.add_schema(schema_id, self._registry.schema(schema_id))
        found = []
        for value in newest.values():
            if value is not None:
                try:
                    found.append(decoder.decode(value))
                except PoisonError:
                    continue  # somebody else's record
        return sorted(found, key=lambda run: (run.plan.created_ms, run.plan.run))

    def begin(self, run: Run) -> None:
        """Put a run there that is new.

        Raises:
            ConfigError: there is one of that id.
            UnavailableError, FatalError: Kafka or the registry does not let us.
        """
        kafka, plan = self._live.kafka, run.plan
        ensure_topics(kafka.bootstrap_servers, [runs_topic_spec(self._live)], kafka.client)
        # A topic is created once, however many try: so it is also what two processes with one id are told apart by.
        spec = progress_topic_spec(self._live, plan.run)
        if not ensure_topics(kafka.bootstrap_servers, [spec], kafka.client):
            raise ConfigError(f"there is a run {plan.run}: go on with it by --resume {plan.run}, or give another --run")
        ensure_topics(kafka.bootstrap_servers, run_topic_specs(self._live, plan), kafka.client)
        self.write(run)

    def write(self, run: Run) -> None:
        """Say how a run is. Raises UnavailableError or FatalError."""
        if self._schema_id is None:
            schema = schema_json(Contract.REPLAY_RUN)
            self._schema_id = self._registry.register(f"{self._topic}-value", schema, COMPATIBILITY)
        self._send(run.plan.run, encode_run(run, self._schema_id))

    def remove(self, run_id: str) -> bool:
        """A run and its topics, or what is left of one. False if there was nothing.

        Raises:
            UnavailableError, FatalError: Kafka does not let us.
        """
        kafka = self._live.kafka
        client = admin_client(kafka.bootstrap_servers, kafka.client)
        results, dead_letters, progress = run_topics(self._live, run_id)
        there = False
        # The one that tells two processes apart goes last, after the run: a new one must not be removed with it.
        for names in ([results, dead_letters], [progress]):
            for name, future in client.delete_topics(names, request_timeout=REQUEST_SECONDS).items():
                try:
                    future.result(REQUEST_SECONDS + 1)
                    there = True
                except KafkaException as error:
                    if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                        raise mapped(error, kafka.bootstrap_servers, f"{name} could not be removed") from error
            if results in names and self._is_there(self._topic):
                self._send(run_id, None)
        return there

    def _exact(self, run: Run) -> Run:
        """A process that was killed has said nothing since; its transactions have."""
        if run.state is RunState.COMPLETE:
            return run
        kafka, topic = self._live.kafka, run.plan.progress_topic
        try:
            held = KafkaTopicHistory(kafka.bootstrap_servers, topic, kafka.client).retained()[0]
            value = last_value(kafka, topic, held)
            progress = None if value is None else self.decode_progress(value)
        except HeadraceError as error:  # one run must not keep the others from being seen
            log.warning("how far run %s is cannot be read: %s", run.plan.run, error)
            return run
        if progress is None:
            return run
        return replace(
            run,
            results=progress.results,
            dead_letters=progress.dead_letters,
            resumed=progress.resumed,
            updated_ms=max(run.updated_ms, progress.updated_ms),
            active_seconds=progress.active_seconds,
        )

    def _is_there(self, topic: str) -> bool:
        kafka = self._live.kafka
        return partition_counts(kafka.bootstrap_servers, [topic], kafka.client)[topic] > 0

    def _send(self, run_id: str, value: bytes | None) -> None:
        with EventSender(self._live.kafka, RECORD_BYTES) as sender:
            sender.send(self._topic, value, key=run_id.encode(), on_delivery=lambda _: None)
            sender.flush(READ_SECONDS)
