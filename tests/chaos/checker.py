"""What came of a chaos run, counted by position. Owes the code under test nothing: topics, headers and Avro alone.

``check`` reads everything once the load has settled; ``Watcher`` tells while it runs how far the answers are.
"""

from __future__ import annotations

import threading
import time
import urllib.error
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self, cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, IsolationLevel, KafkaError, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # not in its __all__

from tests.chaos.progress import Progress, Stall
from tests.chaos.tally import ONCE, Asked, Said, Tally, Topics, Verdict
from tests.integration.avro_ends import Datum, Registry

ENDS_SECONDS = 90.0
"""For open transactions to end: the broker aborts them after transaction.timeout.ms and up to ten seconds more."""
READ_SECONDS = 240.0
CLIENT: dict[str, str | int | bool] = {
    "metadata.recovery.strategy": "none",  # never forget brokers that have been killed
    "reconnect.backoff.max.ms": 500,  # librdkafka's ten seconds would count as a stall
    "retry.backoff.max.ms": 500,
}
DROPPED = ("dropped", b"1")
"""A header of inputs that are to have no outcome: the ``Watcher`` waits for none. ``check`` does not look at it."""


# --- what records mean


def asked_by(registry: Registry, unknown: set[int], key: bytes | None, value: bytes | None) -> Asked:
    """What must come of a record in the request topic.

    Args:
        registry: for its schema.
        unknown: schema ids that the registry is known to lack; what is found is added.
        key: the record's.
        value: the record's.
    """
    untouched = hash((key, value))
    if not value:
        return Asked("", "EMPTY_VALUE", untouched)
    if value[0] or len(value) < 5:
        return Asked("", "NOT_WIRE_FORMAT", untouched)
    schema_id = int.from_bytes(value[1:5], "big")
    try:
        event = None if schema_id in unknown else registry.decode(value)
    except EOFError:
        return Asked("", "CORRUPT", untouched)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 404:
            raise
        unknown.add(schema_id)
        event = None
    if event is None:
        return Asked("", "UNKNOWN_SCHEMA", untouched)
    route = str(event["type"])
    parameters = event["parameters"]
    once_id = str(event["id"]) if route == ONCE else ""
    if "fail" in parameters and "fail_until_ms" not in parameters:  # what fails for a while has a result in the end
        code = "INVALID_INPUT" if parameters["fail"] == "INVALID_ARG" else "RETRIES_EXHAUSTED"
        return Asked(route, code, untouched, once_id)
    (part,) = event["parts"]
    return Asked(route, "", _identity(key, route, event["id"], part["content"]), once_id)


def said_by(registry: Registry, key: bytes | None, headers: object, value: bytes | None) -> Said:
    """What a record of an output topic says.

    Raises:
        AssertionError: it is not in the wire format.
    """
    answer = registry.decode(value or b"\xff")
    where = answer["provenance"]
    topic, partition, offset = where["topic"], where["partition"], where["offset"]
    if "stage" in answer:
        untouched = answer["key"] == key and not answer["headers"] and not answer["omitted_bytes"]
        identity = hash((key, answer["value"])) if untouched else 0
        code = str(answer["code"])
    else:
        outputs, code = answer["outputs"], ""
        tensors = [named["tensor"] for output in outputs for named in output["tensors"]]
        identity = _identity(key, outputs[0]["route"], answer["request_id"], tensors[0]) if len(tensors) == 1 else 0
    if position_in(headers) != (topic, partition, offset):
        identity = 0
    return Said(topic, partition, offset, code, key, identity)


def _identity(key: bytes | None, route: str, request_id: object, tensor: Datum) -> int:
    return hash((key, route, str(request_id), tensor["datatype"], tuple(tensor["shape"]), tensor["data"]))


def position_in(headers: object) -> tuple[str, int, int] | None:
    """The request's position as the header ``ce_id`` of a result or dead letter states it; None without that header."""
    for name, value in cast("list[tuple[str, bytes | None]]", headers or ()):
        if name == "ce_id":
            topic, partition, offset = (value or b"").rsplit(b"-", 2)
            return topic.decode(), int(partition), int(offset)
    return None


# --- after the run


def check(
    bootstrap_servers: str,
    registry_url: str,
    topics: Topics,
    group: str,
    ends_seconds: float = ENDS_SECONDS,
    read_seconds: float = READ_SECONDS,
) -> Verdict:
    """Reads all inputs and outputs, ``read_committed``, to the ends that the topics have now.

    Args:
        bootstrap_servers: of the cluster.
        registry_url: of the registry that has the schemas.
        topics: of the run, which has settled.
        group: whose offsets must be committed.
        ends_seconds: for open transactions to end.
        read_seconds: for reading.

    Raises:
        AssertionError: reading takes too long.
    """
    tally = Tally(topics.requests)
    registry, unknown = Registry(registry_url), set[int]()
    ends = _frozen_ends(bootstrap_servers, topics, tally, ends_seconds)
    consumer = Consumer(
        {
            **CLIENT,
            "bootstrap.servers": bootstrap_servers,
            "group.id": group,  # for its committed offsets; never joined
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "queued.min.messages": 5_000,  # a partition; the default takes half a gigabyte
            "fetch.queue.backoff.ms": 10,
            "fetch.wait.max.ms": 50,
        }
    )
    deadline = time.monotonic() + read_seconds
    try:
        for record in _read(consumer, [topics.requests], ends, deadline):
            asked = asked_by(registry, unknown, record.key(), record.value())
            sent_ms = record.timestamp()[1]
            tally.add_input(cast("int", record.partition()), cast("int", record.offset()), asked, sent_ms)
        kinds = {topic: kind for kind, topic in enumerate(topics.outputs)}
        for record in _read(consumer, topics.outputs, ends, deadline):
            said = said_by(registry, record.key(), record.headers(), record.value())
            kind = kinds[cast("str", record.topic())]
            tally.add_output(kind, cast("int", record.partition()), cast("int", record.offset()), said)
        past_put_off: Ends = {}
        for record in _read(consumer, topics.delays, ends, deadline):
            where = cast("str", record.topic()), cast("int", record.partition())
            past_put_off[where] = cast("int", record.offset()) + 1
            tally.add_put_off()
        requests = {where: end for where, end in ends.items() if where[0] == topics.requests and end}
        _check_committed(consumer, requests, tally, beyond=False)
        _check_committed(consumer, past_put_off, tally, beyond=True)
    finally:
        consumer.close()
    return tally.verdict()


Ends = dict[tuple[str, int], int]


def _frozen_ends(bootstrap_servers: str, topics: Topics, tally: Tally, seconds: float) -> Ends:
    """The ends of the topics' partitions now, once all transactions that were open before them have ended."""
    admin = AdminClient({**CLIENT, "bootstrap.servers": bootstrap_servers})
    known = admin.list_topics(timeout=30).topics
    names = (topics.requests, *topics.outputs, *topics.delays)
    partitions = [TopicPartition(topic, partition) for topic in names for partition in known[topic].partitions]
    frozen = _ends(admin, partitions, IsolationLevel.READ_UNCOMMITTED)
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while True:
        stable = _ends(admin, partitions, IsolationLevel.READ_COMMITTED)
        open_ones = [where for where, end in frozen.items() if stable[where] < end]
        if not open_ones or time.monotonic() > deadline:
            break
        pause.wait(0.2)
    for topic, partition in open_ones:
        text = f"{topic}[{partition}] is stable up to {stable[topic, partition]} of {frozen[topic, partition]}"
        tally.add_partition_error("unended", text)
    return {where: min(end, stable[where]) for where, end in frozen.items()}


def _ends(admin: AdminClient, partitions: Sequence[TopicPartition], isolation: IsolationLevel) -> Ends:
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # the client declares no types there
    asked = dict.fromkeys(partitions, latest)
    found = admin.list_offsets(asked, isolation_level=isolation, request_timeout=30)
    return {(where.topic, where.partition): result.result().offset for where, result in found.items()}


def _read(consumer: Consumer, topics: Sequence[str], ends: Ends, deadline: float) -> Iterator[Message]:
    """The committed records of these topics from their beginnings to these ends."""
    unread = {where for where, end in ends.items() if where[0] in topics and end}
    consumer.assign([TopicPartition(*where, OFFSET_BEGINNING) for where in unread])
    trouble: KafkaError | None = None
    while unread:
        assert time.monotonic() < deadline, f"reading takes too long; not at their ends: {sorted(unread)}; {trouble}"
        for record in consumer.consume(2000, 0.05):
            error = record.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                assert error.code() != KafkaError._AUTO_OFFSET_RESET, error  # a topic has lost records
                trouble = error
                continue
            where = (cast("str", record.topic()), cast("int", record.partition()))
            offset = cast("int", record.offset())
            if error is None and offset < ends[where]:
                yield record
            if offset >= ends[where]:
                unread.discard(where)


def _check_committed(consumer: Consumer, wanted: Ends, tally: Tally, beyond: bool) -> None:
    """Offsets are committed there, without metadata; ``beyond``: or higher, for markers of transactions come after."""
    if not wanted:
        return
    for found in consumer.committed([TopicPartition(*where) for where in wanted], timeout=30):
        end = wanted[found.topic, found.partition]
        if found.offset < end or (found.offset > end and not beyond) or found.metadata:
            text = f"{found.topic}[{found.partition}]@{found.offset} of {end}, metadata {(found.metadata or '')[:60]!r}"
            tally.add_partition_error("uncommitted", text)


# --- during the run


class Watcher:
    """A thread that reads inputs and outputs as they are committed, from the topics' beginnings.

    Args:
        bootstrap_servers: of the cluster.
        topics: of the run; they exist.
    """

    def __init__(self, bootstrap_servers: str, topics: Topics) -> None:
        self._topics = topics
        self._kinds = {topic: kind for kind, topic in enumerate(topics.outputs)}
        self._progress = Progress()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._consumer = Consumer(
            {
                **CLIENT,
                "bootstrap.servers": bootstrap_servers,
                "group.id": f"{topics.requests}.watcher",  # never joined
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "queued.min.messages": 2_000,
            }
        )
        self._thread = threading.Thread(target=self._run, name="watcher")

    def start(self) -> None:
        known = self._consumer.list_topics(timeout=30).topics
        names = (self._topics.requests, *self._topics.outputs)
        self._consumer.assign(
            [TopicPartition(topic, each, OFFSET_BEGINNING) for topic in names for each in known[topic].partitions]
        )
        self._thread.start()

    def close(self) -> None:
        """Ends the thread. Raises what has ended it before."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._consumer.close()
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def inputs(self) -> int:
        """Inputs seen, but for those that are to have no outcome."""
        return self._progress.inputs

    @property
    def answered(self) -> int:
        """Inputs that have a dead letter, or a result and its twin."""
        return self._progress.answered

    @property
    def slowest_seconds(self) -> float:
        """The longest that an input was unanswered, of those that have been answered."""
        return self._progress.slowest_seconds

    @property
    def longest_stall(self) -> Stall:
        with self._lock:
            return self._progress.longest_stall

    @property
    def longest_stall_s(self) -> float:
        return self.longest_stall.seconds

    @property
    def stalls(self) -> dict[int, Stall]:
        """The longest of each input partition."""
        with self._lock:
            return self._progress.stalls

    def wait_answered(self, count: int, seconds: float) -> None:
        """Until so many inputs are answered.

        Raises:
            AssertionError: not in time, or the thread has ended.
        """
        deadline = time.monotonic() + seconds
        while self.answered < count:
            assert self._failure is None, f"the watcher has ended: {self._failure!r}"
            assert time.monotonic() < deadline, f"{self.answered} of {count} inputs are answered after {seconds:.0f} s"
            self._stopping.wait(0.05)

    def _run(self) -> None:
        began = time.monotonic()
        try:
            while not self._stopping.is_set():
                records = self._consumer.consume(1000, 0.1)
                now = time.monotonic() - began
                with self._lock:
                    for record in records:
                        self._take(record, now)
                    self._progress.look(now)
        except BaseException as error:  # noqa: BLE001 - raised by close
            self._failure = error

    def _take(self, record: Message, now: float) -> None:
        error = record.error()
        if error is not None:
            assert error.code() != KafkaError._AUTO_OFFSET_RESET, error  # a topic has lost records
            return  # brokers come and go in a chaos run
        kind = self._kinds.get(cast("str", record.topic()))
        if kind is None:
            if DROPPED in (record.headers() or ()):
                return
            self._progress.add_input(cast("int", record.partition()), cast("int", record.offset()), now)
            return
        position = position_in(record.headers())
        if position is not None and position[0] == self._topics.requests:
            self._progress.add_output(kind, position[1], position[2], now)
