"""The chaos suite's checker on a real broker: it finds each fault that is planted, and none where there is none."""

from __future__ import annotations

import io
import json
import random
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import fastavro
import pytest
import yaml
from confluent_kafka import Consumer, Producer, TopicPartition

from headrace.connectors.embedded.ports import PortReservation
from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.admin import ensure_topics
from headrace.pipeline.records import TopicSpec
from tests.chaos.checker import Watcher, check
from tests.chaos.load import Load, pipeline_settings
from tests.chaos.tally import RETRIED, ROUTES, Topics, Verdict
from tests.integration.avro_ends import SCHEMAS, Datum, Registry, delayed
from tests.integration.foreign_producer import register
from tests.integration.harness import LOG_SHOWN, WorkerProcess, wait_until

PARTITIONS = 3
WORKER_EVENTS = 1600
WORKER_RATE = 400.0
ENDS_SECONDS = 2.0


@dataclass(frozen=True)
class Output:
    """A record of an output topic before it is written: which topic (result, twin, dead), where in it, for which input.

    ``content`` and ``headers`` replace fields of what an honest worker would write.
    """

    kind: str
    index: int
    partition: int = 0
    offset_shift: int = 0
    aborted: bool = False
    content: Datum = field(default_factory=dict)


@dataclass(frozen=True)
class Input:
    key: bytes | None
    value: bytes | None
    event: Datum | None
    code: str = ""


class Forgery:
    """Inputs in partition 0 of the request topic, and outputs as a worker would write them, or not quite."""

    def __init__(self, endpoints: Endpoints, prefix: str) -> None:
        self.endpoints = endpoints
        self.group = prefix
        self.topics = Topics.of(prefix)
        self._registry = Registry(endpoints.registry_url)
        self._schemas = {
            name: json.loads((SCHEMAS / f"{name}.avsc").read_text("utf-8"))
            for name in ("inference_request", "inference_result", "dead_letter")
        }
        self._ids = {
            name: register(endpoints.registry_url, f"{prefix}.{name}-value", json.dumps(schema))
            for name, schema in self._schemas.items()
        }
        good = [self._good(index) for index in range(9)]
        self.inputs = [*good, *self._poison(), self._put_off(), good[0]]
        names = (self.topics.requests, *self.topics.outputs, *self.topics.delays)
        ensure_topics(endpoints.bootstrap_servers, [TopicSpec(name, PARTITIONS) for name in names])

    def _good(self, index: int) -> Input:
        """Three of each route, of one key."""
        event = delayed(0, index) | {"type": list(ROUTES)[index // 3], "model": None}
        return Input(b"k", self._encode("inference_request", event), event)

    def _poison(self) -> list[Input]:
        refused = delayed(0) | {"type": "by-key", "model": None, "parameters": {"fail": "INVALID_ARG"}}
        failing = delayed(0) | {"type": RETRIED, "model": None, "parameters": {"fail": "INTERNAL"}}
        good = self._encode("inference_request", delayed(0) | {"type": "by-key"})
        return [
            Input(b"k", None, None, "EMPTY_VALUE"),
            Input(None, b"no Avro", None, "NOT_WIRE_FORMAT"),
            Input(b"k", struct.pack(">bI", 0, 2_000_000_000) + good[5:], None, "UNKNOWN_SCHEMA"),
            Input(b"k", good[:-20], None, "CORRUPT"),
            Input(b"k", self._encode("inference_request", refused), refused, "INVALID_INPUT"),
            Input(b"k", self._encode("inference_request", refused), refused, "INVALID_INPUT"),
            Input(b"k", self._encode("inference_request", failing), failing, "RETRIES_EXHAUSTED"),
        ]

    def _put_off(self) -> Input:
        """It fails for a while, and then no more."""
        parameters = {"fail": "INTERNAL", "fail_until_ms": int(1000 * time.time())}
        event = delayed(0, 9) | {"type": RETRIED, "model": None, "parameters": parameters}
        return Input(b"k", self._encode("inference_request", event), event)

    def _encode(self, schema: str, datum: Datum) -> bytes:
        stream = io.BytesIO(struct.pack(">bI", 0, self._ids[schema]))
        stream.seek(5)
        fastavro.schemaless_writer(stream, fastavro.parse_schema(self._schemas[schema]), datum)
        return stream.getvalue()

    @property
    def good(self) -> Sequence[int]:
        return [*range(9), 16]

    def outputs(self) -> list[Output]:
        """All as it should be: the last input repeats the first, and has none."""
        answers = [Output(kind, index) for index in self.good for kind in ("result", "twin")]
        return [*answers, *(Output("dead", index) for index in range(9, 16))]

    def write(self, outputs: Iterable[Output]) -> None:
        """Write the inputs, and the outputs in one transaction each run of those that are aborted, or are not."""
        producer = Producer({"bootstrap.servers": self.endpoints.bootstrap_servers})
        for each in self.inputs:
            producer.produce(self.topics.requests, each.value, each.key, 0)
        assert producer.flush(30) == 0
        writer = self.writer()
        for aborted in (True, False):
            writer.begin_transaction()
            for output in outputs:
                if output.aborted is aborted:
                    self.produce(writer, output)
            assert writer.flush(30) == 0
            if aborted:
                writer.abort_transaction(30)
            else:
                writer.commit_transaction(30)

    def writer(self) -> Producer:
        settings = {"bootstrap.servers": self.endpoints.bootstrap_servers, "transactional.id": self.group}
        producer = Producer(settings)
        producer.init_transactions(30)
        return producer

    def produce(self, writer: Producer, output: Output) -> None:
        asked = self.inputs[output.index]
        offset = output.index + output.offset_shift
        content: Datum = {
            "provenance": {"topic": self.topics.requests, "partition": 0, "offset": offset, "timestamp": 0},
        }
        if output.kind == "dead":
            content |= {"key": asked.key, "value": asked.value, "stage": "decode", "code": asked.code, "message": "x"}
        else:
            event = asked.event or delayed(0)
            named = {"name": "OUTPUT0", "tensor": event["parts"][0]["content"][1]}
            answer = {"part": "tensor", "route": event["type"], "model": "delay", "tensors": [named]}
            content |= {"request_id": event["id"], "status": "OK", "outputs": [answer]}
        topic = dict(zip(("result", "twin", "dead", "shadow"), self.topics.outputs, strict=True))[output.kind]
        schema = "dead_letter" if output.kind == "dead" else "inference_result"
        value = self._encode(schema, content | output.content)
        headers: list[tuple[str, str | bytes | None]] = [("ce_id", f"{self.topics.requests}-0-{offset}".encode())]
        writer.produce(topic, value, asked.key, output.partition, headers=headers)

    def put_off(self, count: int) -> None:
        """So many records in the first delay topic, in a transaction, whose marker takes an offset too."""
        writer = self.writer()
        writer.begin_transaction()
        for _ in range(count):
            writer.produce(self.topics.delays[0], b"x", b"k", 0)
        writer.commit_transaction(30)

    def commit(self, offset: int | None = None, metadata: str = "", topic: str | None = None) -> None:
        """Commit an offset of the group, by default the end."""
        end = len(self.inputs) if offset is None else offset
        where = TopicPartition(topic or self.topics.requests, 0, end, metadata)
        consumer = Consumer({"bootstrap.servers": self.endpoints.bootstrap_servers, "group.id": self.group})
        try:
            consumer.commit(offsets=[where], asynchronous=False)
        finally:
            consumer.close()

    def verdict(self) -> Verdict:
        endpoints = self.endpoints
        return check(endpoints.bootstrap_servers, endpoints.registry_url, self.topics, self.group, ENDS_SECONDS)


@pytest.fixture
def forgery(stack: Endpoints, names: Callable[[str], str]) -> Forgery:
    return Forgery(stack, names("w"))


def of_input(outputs: list[Output], index: int, *kinds: str) -> list[Output]:
    return [each for each in outputs if each.index == index and each.kind in (kinds or ("result", "twin", "dead"))]


def without(outputs: list[Output], left_out: list[Output]) -> list[Output]:
    return [each for each in outputs if each not in left_out]


def swapped(outputs: list[Output], first: int, second: int) -> list[Output]:
    """With the outputs of one input in the place of another's."""
    other = {first: second, second: first}
    return [replace(each, index=other.get(each.index, each.index)) for each in outputs]


def changed(outputs: list[Output], chosen: Output, **changes: Any) -> list[Output]:
    return [replace(each, **changes) if each == chosen else each for each in outputs]


def test_honest_outputs_are_no_error(forgery: Forgery) -> None:
    forgery.write(forgery.outputs())
    forgery.commit()
    verdict = forgery.verdict()
    assert verdict.errors == {}, verdict.explain()
    assert (verdict.records, verdict.results, verdict.twins, verdict.dead_letters) == (18, 10, 10, 7)
    assert (verdict.repeats, verdict.dropped) == (2, 1)


Plant = Callable[[list[Output]], list[Output]]
TENSOR = {"name": "OUTPUT0", "tensor": {"datatype": "FP32", "shape": [1], "data": struct.pack("<f", 99)}}
WRONG_ECHO = {"outputs": [{"part": "tensor", "route": "by-key", "model": "delay", "tensors": [TENSOR]}]}
ANOTHER_ID = {"request_id": "11111111-1111-4111-8111-111111111111"}
PLANTED: dict[str, tuple[Plant, dict[str, int]]] = {
    "result again": (lambda all_: [*all_, *of_input(all_, 4, "result")], {"duplicates": 1}),
    "answer again": (lambda all_: [*all_, *of_input(all_, 4)], {"duplicates": 2}),
    "dead letter again": (lambda all_: [*all_, *of_input(all_, 9)], {"duplicates": 1}),
    "no result, no twin": (lambda all_: without(all_, of_input(all_, 8)), {"missing": 1}),
    "no dead letter": (lambda all_: without(all_, of_input(all_, 10)), {"missing": 1}),
    "no twin": (lambda all_: without(all_, of_input(all_, 7, "twin")), {"torn": 1}),
    "no result": (lambda all_: without(all_, of_input(all_, 7, "result")), {"torn": 1}),
    "repeat answered": (lambda all_: [*all_, Output("result", 17), Output("twin", 17)], {"duplicates_answered": 1}),
    "repeat of a dead letter dropped": (lambda all_: without(all_, of_input(all_, 14)), {"wrongly_dropped": 1}),
    "aborted again": (lambda all_: [*all_, *(replace(each, aborted=True) for each in of_input(all_, 1))], {}),
    "aborted": (
        lambda all_: changed(all_, of_input(all_, 8, "result")[0], aborted=True),
        {"torn": 1},
    ),
    "order by key": (lambda all_: swapped(all_, 1, 2), {"order_violations": 2}),
    "order by key, dead letters": (lambda all_: swapped(all_, 13, 14), {"order_violations": 1}),
    "order by partition": (lambda all_: swapped(all_, 4, 5), {"order_violations": 2}),
    "order without one": (lambda all_: swapped(all_, 7, 8), {}),
    "key elsewhere": (lambda all_: changed(all_, of_input(all_, 2, "twin")[0], partition=1), {"order_violations": 1}),
    "position of no input": (lambda all_: [*all_, replace(all_[0], offset_shift=100)], {"foreign": 1}),
    "position of another": (
        lambda all_: changed(all_, of_input(all_, 6, "result")[0], offset_shift=1),
        {"torn": 1, "duplicates": 1, "wrong": 1},
    ),
    "wrong echo": (lambda all_: changed(all_, of_input(all_, 0, "result")[0], content=WRONG_ECHO), {"wrong": 1}),
    "wrong id in a twin": (lambda all_: changed(all_, of_input(all_, 0, "twin")[0], content=ANOTHER_ID), {"wrong": 1}),
    "wrong bytes": (lambda all_: changed(all_, of_input(all_, 12)[0], content={"value": b"\x00"}), {"wrong": 1}),
    "wrong reason": (lambda all_: changed(all_, of_input(all_, 12)[0], content={"code": "BAD_ID"}), {"wrong": 1}),
    "dead letter beside a result": (
        lambda all_: [*all_, Output("dead", 3, content={"code": "RETRIES_EXHAUSTED"})],
        {"torn": 1, "wrong": 1},
    ),
    "given up too early": (
        lambda all_: changed(all_, of_input(all_, 15)[0], content={"code": "INVALID_INPUT"}),
        {"wrong": 1},
    ),
    "given up although it would have passed": (
        lambda all_: [
            *without(all_, of_input(all_, 16)),
            Output("dead", 16, content={"code": "RETRIES_EXHAUSTED"}),
        ],
        {"wrong": 1},
    ),
    "poison answered": (
        lambda all_: [*without(all_, of_input(all_, 13)), Output("result", 13), Output("twin", 13)],
        {"wrong": 2},
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_fault_is_counted_as_what_it_is(forgery: Forgery, name: str) -> None:
    plant, errors = PLANTED[name]
    forgery.write(plant(forgery.outputs()))
    forgery.commit()
    verdict = forgery.verdict()
    assert verdict.errors == errors, verdict.explain()
    assert {kind: len(examples) for kind, examples in verdict.examples.items()} == errors


@pytest.mark.parametrize("commit", [{}, {"offset": 17}, {"metadata": "h1:18:AAAA"}])
def test_offset_that_is_not_committed_at_the_end_is_counted(forgery: Forgery, commit: dict[str, Any]) -> None:
    """Not at all, one too low, and with what was done above it still noted there."""
    forgery.write(forgery.outputs())
    if commit:
        forgery.commit(**commit)
    assert forgery.verdict().errors == {"uncommitted": 1}


@pytest.mark.parametrize(("offset", "errors"), [(None, {"uncommitted": 1}), (1, {"uncommitted": 1}), (2, {}), (3, {})])
def test_delay_topic_must_be_committed_past_its_last_record(
    forgery: Forgery, offset: int | None, errors: dict[str, int]
) -> None:
    """Past the marker of the last transaction, or not: that is nothing to be answered."""
    forgery.write(forgery.outputs())
    forgery.commit()
    forgery.put_off(2)
    if offset is not None:
        forgery.commit(offset, topic=forgery.topics.delays[0])
    verdict = forgery.verdict()
    assert verdict.errors == errors, verdict.explain()
    assert verdict.put_off == 2


def test_transaction_that_stays_open_is_counted_and_hides_what_is_in_it(forgery: Forgery) -> None:
    last = of_input(forgery.outputs(), 8, "twin")
    forgery.write(without(forgery.outputs(), last))
    forgery.commit()
    writer = forgery.writer()
    writer.begin_transaction()
    forgery.produce(writer, last[0])
    assert writer.flush(30) == 0
    try:
        assert forgery.verdict().errors == {"unended": 1, "torn": 1}
    finally:
        writer.commit_transaction(30)
    assert forgery.verdict().errors == {}


def test_watcher_tells_what_is_answered_and_how_long_nothing_was(forgery: Forgery) -> None:
    """An input whose twin never comes is a stall that goes on."""
    outputs = forgery.outputs()
    with Watcher(forgery.endpoints.bootstrap_servers, forgery.topics) as watcher:
        forgery.write(without(outputs, of_input(outputs, 8, "twin")))
        watcher.wait_answered(16, 30)
        wait_until(lambda: watcher.longest_stall_s > 1.0, 30, "a stall of a second")
        assert (watcher.inputs, watcher.answered) == (18, 16)
        assert watcher.longest_stall.partition == 0
        assert set(watcher.stalls) == {0}


def test_load_pauses_while_too_many_inputs_are_unanswered(stack: Endpoints, names: Callable[[str], str]) -> None:
    topic, answered = names("in"), [0]
    ensure_topics(stack.bootstrap_servers, [TopicSpec(topic, PARTITIONS)])
    servers, registry_url = stack.bootstrap_servers, stack.registry_url
    with Load(servers, registry_url, topic, random.Random(1), 500.0, lambda: answered[0], max_unanswered=100) as load:
        wait_until(lambda: load.paused_seconds > 0.5, 30, "a pause")
        assert load.sent == 100
        answered[0] = 60
        wait_until(lambda: load.sent == 160, 30, "as many more")
        load.stop()
        assert load.delivered == load.sent == 160


def test_worker_without_faults_is_found_without_fault(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    topics, group = Topics.of(names("w")), names("w")
    config = tmp_path / "pipeline.yaml"
    config.write_text(yaml.safe_dump(pipeline_settings(topics, group)))
    with PortReservation() as ports:
        worker = WorkerProcess(0, tmp_path, config, stack.environment(), ports.take())
        try:
            worker.start()
            worker.wait_ready()
            servers, registry_url, rng = stack.bootstrap_servers, stack.registry_url, random.Random(20)
            with (
                Watcher(servers, topics) as watcher,
                Load(
                    servers,
                    registry_url,
                    topics.requests,
                    rng,
                    WORKER_RATE,
                    lambda: watcher.answered,
                    variant_every=WORKER_EVENTS // 10,
                    limit=WORKER_EVENTS,
                    repeats=True,
                ) as load,
            ):
                began = time.monotonic()
                load.wait(120)
                watcher.wait_answered(load.owed, 60)
                seconds = time.monotonic() - began
                stall_seconds = watcher.longest_stall_s
        finally:
            worker.kill()
            print(worker.log[-LOG_SHOWN:])
    verdict = check(stack.bootstrap_servers, stack.registry_url, topics, group)
    print(f"{WORKER_EVENTS / seconds:.0f} records/s; longest stall {stall_seconds:.1f} s; {verdict.explain()}")
    assert verdict.errors == {}, verdict.explain()
    assert verdict.records == load.delivered == WORKER_EVENTS
    assert verdict.dead_letters == load.poison > 0
    assert verdict.results == verdict.twins == load.owed - load.poison
    assert verdict.repeats == load.repeats > verdict.dropped == load.sent - load.owed > 0
    assert verdict.shadows > 0
    assert 0 < stall_seconds < 15
