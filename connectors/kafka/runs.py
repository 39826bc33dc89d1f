"""The runs topic, compacted: the newest record with a run's id as key is the run.

Each record in it is written in a transaction of its run (see ``run_transactions``): by whoever begins, resumes or
removes the run and so takes it from every other process, and after that by this one alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from confluent_kafka import KafkaError, KafkaException

from headrace.connectors.kafka.admin import REQUEST_SECONDS, admin_client, ensure_topics, mapped, partition_counts
from headrace.connectors.kafka.history import KafkaTopicHistory
from headrace.connectors.kafka.reader import Beginning, CommittedReader
from headrace.connectors.kafka.run_transactions import (
    KafkaRunTransactions,
    LostProgressError,
    last_value,
    newest_value,
    run_transactions,
    take_over,
)
from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.config import Settings
from headrace.pipeline.errors import ConfigError, FatalError, FencedError, HeadraceError, PoisonError, UnavailableError
from headrace.pipeline.ports import SchemaRegistry
from headrace.pipeline.records import OutputRecord
from headrace.pipeline.replay.manifest import (
    Plan,
    Progress,
    ProgressDecoder,
    Run,
    RunDecoder,
    RunState,
    encode_progress,
    encode_run,
)
from headrace.pipeline.replay.settings import (
    progress_topic_spec,
    run_topic_specs,
    run_topics,
    runs_topic_spec,
)
from headrace.pipeline.setup import COMPATIBILITY

log = logging.getLogger(__name__)

READ_SECONDS = 30.0
TAKE_OVERS = 10
"""Tries to take it for good, for its process may come in between."""
ABORT_SECONDS = 15.0
"""The broker aborts a transaction whose process is gone after its time-out and up to ten seconds more."""
POLL_SECONDS = 0.1


def unknown_run(run_id: str) -> ConfigError:
    """There is no run of this id."""
    return ConfigError(f"there is no run {run_id}: `headrace runs list` shows them")


def _taken(run_id: str) -> ConfigError:
    return ConfigError(f"there is a run {run_id}: go on with it by --resume {run_id}, or give another --run")


class RunStore:
    """Finds, begins and removes runs, and makes what a run is written with.

    Args:
        live: the pipeline's settings.
        registry: for the schemas that runs are written with.
    """

    def __init__(self, live: Settings, registry: SchemaRegistry) -> None:
        self._live = live
        self._registry = registry
        self._topic = live.topics.runs
        self._runs = RunDecoder()
        self._progress = ProgressDecoder()
        self._schema_ids: tuple[int, int] | None = None

    # --- records

    def register(self) -> tuple[int, int]:
        """Ids of the schemas of runs and progress, which it registers. Raises UnavailableError or FatalError."""
        if self._schema_ids is None:
            run, progress = schema_json(Contract.REPLAY_RUN), schema_json(Contract.REPLAY_PROGRESS)
            run_id = self._registry.register(f"{self._topic}-value", run, COMPATIBILITY)
            # Of no topic: every run has one of its own for it.
            progress_id = self._registry.register(f"{self._topic}.progress-value", progress, COMPATIBILITY)
            self._runs.add_schema(run_id, run)  # so that reading what this release wrote asks nobody
            self._progress.add_schema(progress_id, progress)
            self._schema_ids = run_id, progress_id
        return self._schema_ids

    def manifest(self, run: Run) -> OutputRecord:
        """How a run is, for the runs topic. Raises as ``register``."""
        return OutputRecord(self._topic, run.plan.run.encode(), encode_run(run, self.register()[0]))

    def encode_progress(self, progress: Progress) -> bytes:
        """Raises as ``register``."""
        return encode_progress(progress, self.register()[1])

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

    def transactions(self, plan: Plan, on_unreachable: Callable[[bool], None]) -> KafkaRunTransactions:
        """For a process that goes on with a run.

        Args:
            plan: of the run, which must be the one that is there.
            on_unreachable: as of ``KafkaTransactions``.
        """
        return run_transactions(self._live, plan.run, partial(self._newest, plan), on_unreachable)

    def check_new(self, run_id: str) -> None:
        """Raises ConfigError if there is a run of this id, or what is left of one; else as ``all``."""
        kafka, (_, _, progress) = self._live.kafka, run_topics(self._live, run_id)
        if partition_counts(kafka.bootstrap_servers, [progress], kafka.client)[progress]:
            raise _taken(run_id)

    def begin(self, run: Run) -> None:
        """Put a run there that is new.

        Raises:
            ConfigError: there is one of that id.
            UnavailableError, FatalError: Kafka or the registry does not let us.
        """
        kafka, plan = self._live.kafka, run.plan
        manifest, first = self.manifest(run), self._no_progress(plan.run, run.updated_ms)
        ensure_topics(kafka.bootstrap_servers, [runs_topic_spec(self._live)], kafka.client)
        # A topic is created once, however many try: so it is also what two processes with one id are told apart by.
        spec = progress_topic_spec(self._live, plan.run)
        if not ensure_topics(kafka.bootstrap_servers, [spec], kafka.client):
            raise _taken(plan.run)
        ensure_topics(kafka.bootstrap_servers, run_topic_specs(self._live, plan), kafka.client)
        transactions = run_transactions(self._live, plan.run, partial(newest_value, kafka, plan.progress_topic))
        asyncio.run(take_over(transactions, (manifest, first), new=True))

    def remove(self, run_id: str) -> bool:
        """A run and its topics, or what is left of one. False if there was nothing.

        A process that goes on with it, or wakes up to do so, ends: it can write nothing more.

        Raises:
            FencedError: that process keeps it.
            UnavailableError, FatalError: Kafka or the registry does not let us.
        """
        kafka = self._live.kafka
        names = run_topics(self._live, run_id)
        counts = partition_counts(kafka.bootstrap_servers, names, kafka.client)
        if not any(counts.values()) and all(run.plan.run != run_id for run in self._listed()):
            return False
        results, dead_letters, progress = names
        if not counts[progress]:
            ensure_topics(kafka.bootstrap_servers, [progress_topic_spec(self._live, run_id)], kafka.client)
        self._take_for_good(run_id, progress)
        # The one that tells two processes apart goes last: a new run must not be removed with this one.
        self._delete_topics(results, dead_letters)
        self._delete_topics(progress)
        return True

    # --- reading

    def _listed(self) -> list[Run]:
        """As their processes last said they are."""
        deadline = time.monotonic() + self._live.kafka.transaction_timeout_seconds + ABORT_SECONDS
        while True:
            try:
                return self._read()
            except _UnsettledError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(POLL_SECONDS)

    def _read(self) -> list[Run]:
        """Raises UnavailableError or FatalError; UnavailableError, too, while there may be more than can be seen."""
        kafka = self._live.kafka
        if not self._is_there(self._topic):
            return []
        history = KafkaTopicHistory(kafka.bootstrap_servers, self._topic, kafka.client)
        try:
            written = history.written()[0]
            settled = history.retained()[0].end >= written
        except UnavailableError as error:  # between two leaders, for instance
            raise _UnsettledError(str(error)) from error
        if not settled:  # what others have committed behind an open transaction cannot be seen
            raise _UnsettledError(f"{self._topic} has a transaction that is open")
        newest: dict[bytes, bytes | None] = {}
        with CommittedReader(kafka, [self._topic], Beginning()) as reader:
            for record in reader.records(READ_SECONDS, until_end=True):
                newest[record.key or b""] = record.value
        for schema_id in self._runs.missing(newest.values()):
            self._runs.add_schema(schema_id, self._registry.schema(schema_id))
        found = []
        for value in newest.values():
            if value is not None:
                try:
                    found.append(self._runs.decode(value))
                except PoisonError:
                    continue  # somebody else's record
        return sorted(found, key=lambda run: (run.plan.created_ms, run.plan.run))

    def _newest(self, plan: Plan) -> bytes | None:
        """The newest progress of this very run: it may have been removed, and another be there by its id.

        Raises:
            FencedError: it has been removed.
            UnavailableError, FatalError: as ``newest_value`` and ``all``.
        """
        try:
            return newest_value(self._live.kafka, plan.progress_topic)
        finally:  # also if there is no such topic any more: this is why
            if all(run.plan != plan for run in self._read()):
                raise FencedError(f"run {plan.run} has been removed")

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

    # --- writing

    def _no_progress(self, run_id: str, updated_ms: int) -> OutputRecord:
        """Of a writer that answers nothing. As long as it is the newest, every other process finds that it has lost."""
        progress = Progress(run_id, writer=str(uuid.uuid4()), updated_ms=updated_ms)
        return OutputRecord(run_topics(self._live, run_id)[2], None, self.encode_progress(progress), partition=0)

    def _take_for_good(self, run_id: str, progress_topic: str) -> None:
        """Nobody can write anything of the run after this, and what it is is not there any more."""
        tombstones = (OutputRecord(self._topic, run_id.encode(), None),) if self._is_there(self._topic) else ()

        def newest() -> bytes | None:
            try:
                return newest_value(self._live.kafka, progress_topic)
            except LostProgressError:
                return None

        for tries_left in reversed(range(TAKE_OVERS)):
            try:
                transactions = run_transactions(self._live, run_id, newest)
                taken = self._no_progress(run_id, time.time_ns() // 1_000_000)
                asyncio.run(take_over(transactions, (*tombstones, taken)))
                return
            except FencedError:  # its process has committed meanwhile
                if not tries_left:
                    raise

    def _delete_topics(self, *names: str) -> None:
        """Those that are there; until they are not listed any more, or a new run would take them for its own."""
        kafka = self._live.kafka
        client = admin_client(kafka.bootstrap_servers, kafka.client)
        for name, future in client.delete_topics(list(names), request_timeout=REQUEST_SECONDS).items():
            try:
                future.result(REQUEST_SECONDS + 1)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise mapped(error, kafka.bootstrap_servers, f"{name} could not be removed") from error
        deadline = time.monotonic() + REQUEST_SECONDS
        while any(partition_counts(kafka.bootstrap_servers, names, kafka.client).values()):
            if time.monotonic() > deadline:
                raise UnavailableError(f"Kafka at {kafka.bootstrap_servers} still lists {', '.join(names)}")
            time.sleep(POLL_SECONDS)


class _UnsettledError(UnavailableError):
    """It cannot be seen yet what has been committed."""
