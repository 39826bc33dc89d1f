"""What the client makes of replies that no worker of ours would give, or not then: a worker is played by hand."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from headrace import (
    DeadLetteredError,
    InferenceClient,
    InferenceResult,
    InferenceTimeoutError,
    Provenance,
    Settings,
    UnreadableRecordError,
)
from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.admin import ensure_topics
from headrace.connectors.kafka.reader import Beginning, CommittedReader
from headrace.pipeline.headers import Delivery, delivery_of
from headrace.pipeline.setup import topic_specs
from tests.integration.harness import Scene, wait_until
from tests.integration.sdk_scene import Writer, sdk_settings


@pytest.fixture
def settings(stack: Endpoints, names: Callable[[str], str], tmp_path: Path) -> Settings:
    with Scene(stack, names("w"), tmp_path):
        settings = sdk_settings(tmp_path, stack)
    ensure_topics(stack.bootstrap_servers, topic_specs(settings))
    return settings


@pytest.fixture
def client(settings: Settings) -> Iterator[InferenceClient]:
    with InferenceClient(settings) as client:
        yield client


class Asked(NamedTuple):
    """A request, as its headers have it, and where it lies."""

    delivery: Delivery
    place: Provenance


class Worker:
    """Sees what the client asks for, and answers as it is told."""

    def __init__(self, settings: Settings) -> None:
        self._writer = Writer(settings)
        self._dead_letters = settings.topics.dead_letters
        self._requests = CommittedReader(settings.kafka, settings.topics.requests, Beginning())
        self._records = self._requests.records(60)

    def request(self) -> Asked:
        """What the next request's headers ask for."""
        record = next(self._records)
        return Asked(delivery_of(record.headers), record.provenance)

    def reply(self, asked: Asked, number: int) -> None:
        self.reply_with(asked, self._writer.result(number, asked.place))

    def reply_with(self, asked: Asked, value: bytes | None, correlation_id: bytes | None = None) -> None:
        delivery = asked.delivery
        assert delivery.reply_topic is not None
        assert delivery.reply_partition is not None
        correlation_id = correlation_id or delivery.correlation_id or b""
        self._writer.write(
            delivery.reply_topic, value, partition=delivery.reply_partition, correlation_id=correlation_id
        )

    def refuse(self, asked: Asked, code: str, place: Provenance | None = None) -> None:
        self._writer.dead_letter(code, asked.delivery.correlation_id or b"", place or asked.place)

    def close(self) -> None:
        self._requests.close()


@pytest.fixture
def worker(settings: Settings) -> Iterator[Worker]:
    worker = Worker(settings)
    yield worker
    worker.close()


def answered(future: Future[InferenceResult]) -> int:
    return uuid.UUID(future.result(15).request_id).int


def test_request_says_where_and_by_when_to_answer(client: InferenceClient, worker: Worker) -> None:
    future = client.submit("words", timeout_seconds=20)
    asked = worker.request()
    delivery = asked.delivery
    assert (delivery.reply_topic, delivery.reply_partition) == (client.reply_topic, client.reply_partition)
    assert delivery.deadline_ms is not None
    worker.reply(asked, 1)
    assert answered(future) == 1


def test_answers_in_another_order_reach_their_own_calls(client: InferenceClient, worker: Worker) -> None:
    futures = []
    asked = []
    for _ in range(5):
        futures.append(client.submit("words"))
        asked.append(worker.request())
    assert len({each.delivery.correlation_id for each in asked}) == 5
    for number in (3, 0, 4, 1, 2):
        worker.reply(asked[number], number)
    assert [answered(future) for future in futures] == [0, 1, 2, 3, 4]


def test_second_answer_is_dropped_and_counted(client: InferenceClient, worker: Worker) -> None:
    future = client.submit("words")
    asked = worker.request()
    worker.reply(asked, 1)
    worker.reply(asked, 2)
    wait_until(lambda: client.late_replies == 1, 15, "the second answer")
    assert answered(future) == 1


def test_others_records_in_the_reply_partition_are_passed_over(client: InferenceClient, worker: Worker) -> None:
    future = client.submit("words")
    asked = worker.request()
    worker.reply_with(asked, b"garbage", b"somebody's")
    worker.reply_with(asked, None, b"else's")
    worker.reply(asked, 1)
    assert answered(future) == 1
    assert client.late_replies == 0


def test_reply_that_cannot_be_read_fails_its_call_alone(client: InferenceClient, worker: Worker) -> None:
    broken, whole = client.submit("words"), client.submit("words")
    by_order = [worker.request(), worker.request()]
    worker.reply_with(by_order[0], b"garbage")
    worker.reply(by_order[1], 1)
    outcomes = [future.exception(15) or answered(future) for future in (broken, whole)]
    (error,) = [outcome for outcome in outcomes if not isinstance(outcome, int)]
    assert isinstance(error, UnreadableRecordError)
    assert error.record.value == b"garbage"
    assert 1 in outcomes


def test_dead_letter_of_a_request_fails_its_call(client: InferenceClient, worker: Worker) -> None:
    future = client.submit("words")
    asked = worker.request()
    worker.refuse(asked, "MODEL_REJECTED")
    error = future.exception(15)
    assert isinstance(error, DeadLetteredError)
    assert (error.stage, error.code, error.message) == ("infer", "MODEL_REJECTED", "wrong")
    assert f"{client.topic}:{asked.place.partition}:{asked.place.offset} became a dead letter" in str(error)
    assert f"headrace dlq show {error.record.provenance.topic}:" in str(error)


def test_dead_letter_of_a_later_stage_that_overtakes_the_result_is_not_the_answer(
    client: InferenceClient, worker: Worker
) -> None:
    """What `also_to` makes of an event has its correlation id, and its outcome another topic's provenance, or place."""
    future = client.submit("words")
    asked = worker.request()
    for foreign in (replace(asked.place, topic="next-stage"), replace(asked.place, offset=asked.place.offset + 1)):
        worker.refuse(asked, "MODEL_REJECTED", foreign)
    marked = client.submit("read when those two are")
    worker.refuse(worker.request(), "MODEL_REJECTED")
    assert isinstance(marked.exception(15), DeadLetteredError)
    worker.reply(asked, 1)
    assert answered(future) == 1
    assert client.late_replies == 0


def test_worker_that_refuses_a_late_request_is_a_time_out(client: InferenceClient, worker: Worker) -> None:
    """Its clock may be a little ahead: the caller sees one kind of error for one cause."""
    future = client.submit("words")
    asked = worker.request()
    worker.refuse(asked, "DEADLINE_EXCEEDED")
    place = f"{client.topic}:{asked.place.partition}:{asked.place.offset}"
    with pytest.raises(InferenceTimeoutError, match=f"refused {place} as late: .*clocks"):
        future.result(15)


def test_answer_before_the_client_was_made_is_not_its_own(settings: Settings, worker: Worker) -> None:
    with InferenceClient(settings, reply_partition=1) as first:
        future = first.submit("words")
        worker.reply(worker.request(), 1)
        assert answered(future) == 1
    with InferenceClient(settings, reply_partition=1) as second:
        future = second.submit("words")
        worker.reply(worker.request(), 2)
        assert answered(future) == 2
        assert second.late_replies == 0
