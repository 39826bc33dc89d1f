"""Real worker processes under test, what is sent to them, and what they commit, counted by position."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import yaml
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.connectors.embedded.ports import LOOPBACK, PortReservation
from headrace.connectors.embedded.process import ServerProcess
from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.errors import PASSING
from headrace.connectors.kafka.lost_brokers import lost_brokers
from tests.integration.avro_ends import Answer, Datum, Position, Registry, encode

READY_SECONDS = 40.0
ANSWER_SECONDS = 60.0
SESSION_SECONDS = 3.0
"""The workers' session time-out: as short as two busy cores allow."""
DRAIN_SECONDS = 5.0
LOG_SHOWN = 6000
"""Characters of each worker's log that a failed test shows."""
_POLL_SECONDS = 0.05


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(_POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class Sent:
    """A record in the request topic."""

    position: Position
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


class WorkerProcess:
    """``headrace worker`` in one slot; can be started again after it ended."""

    def __init__(self, slot: int, folder: Path, config: Path, environment: Mapping[str, str], http_port: int) -> None:
        self.slot = slot
        self._folder = folder
        self._environment = {**os.environ, **environment}
        self._command = [sys.executable, "-m", "headrace", "worker", "-c", str(config)]
        self._command += ["--slot", str(slot), "--http-port", str(http_port)]
        self.url = f"http://{LOOPBACK}:{http_port}"
        self._process = ServerProcess(f"worker {slot}", folder / f"worker-{slot}-{http_port}.log")

    def start(self) -> None:
        self._process.spawn(self._command, self._environment, self._folder)

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        self._process.wait_until(lambda: self.readyz()[0] == 200, seconds)

    def readyz(self) -> tuple[int, str]:
        """Status and text; status 0 while nothing listens."""
        return self._get("/readyz")

    def metric(self, sample: str) -> float:
        """The value of a sample, 0 if there is none: ``name_total{label="x"}``."""
        found = re.search(rf"^{re.escape(sample)} (\S+)$", self._get("/metrics")[1], re.MULTILINE)
        return float(found[1]) if found else 0.0

    def _get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=2) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    @property
    def running(self) -> bool:
        return self._process.running

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has written since its last start; empty if it never was."""
        path = self._process.log_path
        return path.read_text() if path.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()

    def wait_ended(self, seconds: float) -> int:
        """The exit code."""
        wait_until(lambda: not self.running, seconds, f"worker {self.slot} to end; its log:\n{self.log}")
        return cast("int", self._process.exit_code)

    def stop(self, seconds: float) -> bool:
        """SIGTERM, and SIGKILL if it has not ended in so many seconds. True if it has."""
        return self._process.stop(seconds)

    def terminate(self, seconds: float = DRAIN_SECONDS + 5) -> int:
        """SIGTERM, and its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait_ended(seconds)


class Scene:
    """The topics, group and workers of one test.

    Args:
        endpoints: the servers.
        prefix: of the names of group and topics.
        folder: for the settings file and the logs.
        settings: sections of the settings that differ from the defaults, as in ``pipeline.yaml``.
    """

    def __init__(self, endpoints: Endpoints, prefix: str, folder: Path, **settings: Any) -> None:
        self.endpoints = endpoints
        self.group = prefix
        self.requests, self.results, self.dead_letters = (f"{prefix}.{name}" for name in ("in", "out", "dead"))
        self.registry = Registry(endpoints.registry_url)
        self._folder = folder
        topics = {"requests": [self.requests], "results": self.results, "dead_letters": self.dead_letters}
        self._config = folder / "pipeline.yaml"
        whole = {
            **settings,
            "name": prefix,
            "kafka": {"session_timeout_seconds": SESSION_SECONDS, **settings.get("kafka", {})},
            "topics": {**topics, "partitions": 4, **settings.get("topics", {})},
            "worker": {"drain_timeout_seconds": DRAIN_SECONDS, **settings.get("worker", {})},
        }
        self._config.write_text(yaml.safe_dump(whole))
        self._ports = PortReservation()
        self._workers: list[WorkerProcess] = []
        self.output_topics = [self.results, self.dead_letters]
        """What is read; a test adds the other topics that it has results sent to."""
        self._reader: Consumer | None = None
        self._lost_brokers = lost_brokers(endpoints.bootstrap_servers)
        self._schema_id: int | None = None
        self.answers: list[Answer] = []
        """All that was read from the output topics so far."""

    # --- workers

    def worker(self, slot: int = 0, wait: bool = True, environment: Mapping[str, str] | None = None) -> WorkerProcess:
        """A worker that has been started, by default one that is ready."""
        environment = {**self.endpoints.environment(), **(environment or {})}
        worker = WorkerProcess(slot, self._folder, self._config, environment, self._ports.take())
        self._workers.append(worker)
        worker.start()
        if wait:
            worker.wait_ready()
        return worker

    def members(self) -> dict[str, int]:
        """Partitions of the request topic that each member of the group has, by its instance id."""
        admin = AdminClient({"bootstrap.servers": self.endpoints.bootstrap_servers})
        group = admin.describe_consumer_groups([self.group], request_timeout=10)[self.group].result()
        return {
            each.group_instance_id: sum(held.topic == self.requests for held in each.assignment.topic_partitions)
            for each in group.members
        }

    def wait_shared(self, *slots: int) -> None:
        """Until these workers and no others hold partitions."""
        wanted = {f"{self.group}-{slot}" for slot in slots}
        wait_until(
            lambda: {name for name, held in self.members().items() if held} == wanted, 30, f"partitions held by {slots}"
        )

    # --- requests

    def value(self, datum: Datum) -> bytes:
        if self._schema_id is None:
            self._schema_id = self.registry.register_request_schema(self.requests)
        return encode(self._schema_id, datum)

    def send(
        self,
        values: Iterable[bytes | None],
        *,
        key: Callable[[int], bytes | None] = lambda index: f"key-{index % 16}".encode(),
        headers: Sequence[tuple[str, bytes | None]] = (),
        partition: int = -1,
        topic: str | None = None,
        timestamp_ms: int = 0,
    ) -> list[Sent]:
        """Produce values; returns when all are delivered. A timestamp of 0 is now."""
        producer = Producer(
            {
                "bootstrap.servers": self.endpoints.bootstrap_servers,
                "enable.idempotence": True,  # a retry must not make a record that no delivery report tells of
                "delivery.timeout.ms": 60_000,
                "message.max.bytes": 32 * 1024 * 1024,
                "linger.ms": 2,
            }
        )
        sent: dict[int, Sent] = {}
        to = topic or self.requests
        for index, value in enumerate(values):

            def report(error: KafkaError | None, record: Message, index: int = index) -> None:
                assert error is None, error
                position = Position(str(record.topic()), int(record.partition() or 0), int(record.offset() or 0))
                sent[index] = Sent(position, record.key(), record.value(), tuple(headers))

            producer.produce(to, value, key(index), partition, report, timestamp=timestamp_ms, headers=list(headers))
            producer.poll(0)
        assert producer.flush(60) == 0
        return [sent[index] for index in sorted(sent)]

    def send_events(self, events: Iterable[Datum], **options: Any) -> list[Sent]:
        return self.send((self.value(each) for each in events), **options)

    # --- answers, read_committed

    def read(self, seconds: float = 0.2) -> list[Answer]:
        """What was committed since the last call, waiting at most this long for the first of it."""
        if self._reader is None:
            self._reader = self._open_reader()
        records = self._reader.consume(500, seconds)
        if not records and self._lost_brokers.by(self._reader):
            self._reader.close()
            self._reader, self.answers = None, []  # read from the beginning again
            return []
        fresh = [self._answer(record) for record in records if not record.error()]
        self.answers += fresh
        return fresh

    def _open_reader(self) -> Consumer:
        reader = Consumer(
            {
                "bootstrap.servers": self.endpoints.bootstrap_servers,
                "group.id": f"{self.group}-reader",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 50,
                "error_cb": self._lost_brokers.note,
                "enable.partition.eof": True,
            }
        )
        known = reader.list_topics(timeout=10).topics
        reader.assign(
            [
                TopicPartition(topic, partition, OFFSET_BEGINNING)
                for topic in self.output_topics
                for partition in known[topic].partitions
            ]
        )
        return reader

    def _answer(self, record: Message) -> Answer:
        content = self.registry.decode(cast("bytes", record.value()))
        headers = cast("list[tuple[str, bytes | None]]", record.headers() or [])
        topic, partition, offset = str(record.topic()), int(record.partition() or 0), int(record.offset() or 0)
        return Answer(topic, partition, offset, record.key(), tuple(headers), content)

    def read_until(self, count: int, seconds: float = ANSWER_SECONDS) -> None:
        """Read until there are this many answers in all."""
        self._read_while(lambda: len(self.answers) < count, seconds, f"{count} answers")

    def _read_while(self, wanting: Callable[[], object], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while wanting():
            self.read()
            assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}; {len(self.answers)} came"

    def read_until_or(self, count: int, ended: Callable[[], bool], seconds: float) -> None:
        """Read until there are this many answers in all, or something has ended."""
        self._read_while(lambda: len(self.answers) < count and not ended(), seconds, f"{count} answers, or an end")

    def read_for(self, seconds: float) -> None:
        """Read whatever comes in this time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.read()

    def settle(self, sent: Sequence[Sent], seconds: float = ANSWER_SECONDS) -> dict[Position, Answer]:
        """Read until every request is answered, its offset committed, and the output topics are read to their ends.

        Asserts that every position in ``sent`` has one answer, neither more nor less.
        """
        wanted = {each.position for each in sent}
        self._read_while(lambda: wanted - {each.answers for each in self.answers}, seconds, "an answer to each request")
        wait_until(self.is_committed, 30, "all offsets to be committed")
        self.answers = self.everything()
        counts = Counter(each.answers for each in self.answers if each.answers in wanted)
        assert {position: number for position, number in counts.items() if number != 1} == {}
        assert len(counts) == len(sent)
        return {each.answers: each for each in self.answers if each.answers in wanted}

    def everything(self) -> list[Answer]:
        """The output topics from their beginnings to their ends, which a transaction that is open holds up."""
        reader = self._open_reader()
        found: list[Answer] = []
        unfinished = len(reader.assignment())
        deadline = time.monotonic() + ANSWER_SECONDS
        try:
            while unfinished:
                assert time.monotonic() < deadline, "waited in vain for the ends of the output topics"
                for record in reader.consume(500, 0.2):
                    error = record.error()
                    if error is None:
                        found.append(self._answer(record))
                    elif error.code() == KafkaError._PARTITION_EOF:
                        unfinished -= 1
        finally:
            reader.close()
        return found

    def is_committed(self) -> bool:
        """Whether every request's offset is; not known while the group's coordinator has just come back."""
        try:
            return self.lag() == 0
        except KafkaException as exception:
            if exception.args[0].code() not in PASSING:
                raise
            return False

    def lag(self, topic: str | None = None) -> int:
        """Records of the request topic, or of this one, from the committed offsets on."""
        topic = topic or self.requests
        consumer = Consumer(
            {
                "bootstrap.servers": self.endpoints.bootstrap_servers,
                "group.id": self.group,
                "isolation.level": "read_uncommitted",  # else a transaction that is pending is waited for
            }
        )
        try:
            known = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            partitions = [TopicPartition(topic, partition) for partition in known]
            committed = consumer.committed(partitions, timeout=10)
            return sum(
                consumer.get_watermark_offsets(each, timeout=10)[1] - max(0, done.offset)
                for each, done in zip(partitions, committed, strict=True)
            )
        finally:
            consumer.close()

    # --- end

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        if self._reader is not None:
            self._reader.close()
        self._ports.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is not None:
            for worker in self._workers:  # pytest shows it with the failure, and the folder may soon be gone
                print(f"--- the end of worker {worker.slot}'s log\n{worker.log[-LOG_SHOWN:]}", file=sys.stderr)
        self.close()
