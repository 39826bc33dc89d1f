"""What fails and may succeed later waits in a delay topic: nothing behind it waits, nothing is lost or doubled."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.connectors.embedded.state import Endpoints
from tests.integration.avro_ends import Answer, Datum, Position, event, numbers, output_numbers
from tests.integration.harness import Scene, wait_until

HEADERS = (("x-mine", b"\x00\xff"), ("x-mine", None))
DELAYS = ("1s", "2s", "3s")


def failing(number: float, until: float | None = None) -> Datum:
    """An event that the model fails to answer: until then, in seconds since 1970, or for ever."""
    parameters: dict[str, Any] = {"fail": "INTERNAL"}
    if until is not None:
        parameters["fail_until_ms"] = int(until * 1000)
    return event(numbers(number), model="delay", parameters=parameters)


class Retries(Scene):
    """One route with delays of seconds, and one infer attempt each time."""

    def __init__(self, endpoints: Endpoints, prefix: str, folder: Path, more: Sequence[str] = (), **route: Any) -> None:
        retries = {"max_attempts": 1, "delays": [*DELAYS, *more], "jitter": 0.1}
        super().__init__(
            endpoints,
            prefix,
            folder,
            routes=[{"name": "delay", "model": "delay", "retries": retries, **route}],
            kafka={"transaction_timeout_seconds": 5},  # what a killed worker left open is waited for
        )

    def delay_topic(self, delay: str) -> str:
        return f"{self.group}.retry.{delay}"

    def put_off(self, delay: str) -> int:
        """Records that the delay topic has taken in, committed or not, and transaction markers."""
        consumer = Consumer({"bootstrap.servers": self.endpoints.bootstrap_servers, "group.id": "looks"})
        try:
            topic = self.delay_topic(delay)
            known = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            return sum(consumer.get_watermark_offsets(TopicPartition(topic, each), timeout=10)[1] for each in known)
        finally:
            consumer.close()


@pytest.fixture
def make(stack: Endpoints, names: Callable[[str], str], tmp_path: Path) -> Callable[..., Retries]:
    return lambda **route: Retries(stack, names("scene"), tmp_path, **route)


def retried(answer: Answer) -> float:
    """Seconds from a dead letter's first failure to its last."""
    between: timedelta = answer.content["last_failed"] - answer.content["first_failed"]
    return between.total_seconds()


def test_what_fails_is_tried_again_later_and_nothing_behind_it_waits(make: Callable[..., Retries]) -> None:
    with make(ordering="partition") as scene:
        scene.worker()
        until = time.time() + 4
        values = [
            scene.value(failing(0, until)),
            *(scene.value(event(numbers(each), model="delay")) for each in (1, 2)),
        ]
        sent = scene.send(values, headers=HEADERS, partition=1)
        scene.read_until(2, 3.5)  # before the first could have succeeded
        assert {each.answers for each in scene.answers} == {each.position for each in sent[1:]}
        answers = scene.settle(sent)
        late = answers[sent[0].position]
        assert not late.dead
        assert output_numbers(late) == (0.0,)
        assert late.key == sent[0].key
        assert late.content["attempt"] in (3, 4)  # at once, after 1 s, after 2 s, after 3 s
        assert late.header("correlation_id") == values_id(scene, values[0])
        assert [answers[each.position].content["attempt"] for each in sent[1:]] == [1, 1]
        assert all(scene.put_off(delay) for delay in DELAYS[:2])


def values_id(scene: Scene, value: bytes) -> bytes:
    """The request's id, which is the correlation id of what comes of it."""
    return str(scene.registry.decode(value)["id"]).encode()


def test_what_fails_every_time_is_a_dead_letter_after_its_last_delay(make: Callable[..., Retries]) -> None:
    with make() as scene:
        worker = scene.worker()
        sent = scene.send_events([failing(1)], headers=HEADERS)
        (letter,) = scene.settle(sent).values()
        assert letter.dead
        assert (letter.content["code"], letter.content["attempts"]) == ("RETRIES_EXHAUSTED", 4)
        assert 6 <= retried(letter) < 15
        assert (letter.content["key"], letter.content["value"]) == (sent[0].key, sent[0].value)
        assert tuple((each["key"], each["value"]) for each in letter.content["headers"]) == HEADERS
        for delay in DELAYS:
            assert worker.metric(f'headrace_retries_total{{route="delay",topic="{scene.delay_topic(delay)}"}}') == 1


def test_what_waits_outlives_its_worker(make: Callable[..., Retries]) -> None:
    with make(more=["5s", "10s"]) as scene:
        worker = scene.worker()
        until = time.time() + 15
        sent = scene.send_events([failing(each, until) for each in range(40)])
        wait_until(lambda: scene.put_off("1s"), 20, "records in the first delay topic")
        worker.kill()
        worker.start()
        worker.wait_ready()
        worker.kill()
        scene.worker(slot=1)
        worker.start()
        answers = scene.settle(sent)
        assert sorted(output_numbers(each) for each in answers.values()) == [(float(each),) for each in range(40)]


def test_deadline_is_not_waited_past(make: Callable[..., Retries]) -> None:
    with make() as scene:
        scene.worker()
        deadline = (("deadline", b"%d" % int((time.time() + 2.5) * 1000)),)
        (letter,) = scene.settle(scene.send_events([failing(1)], headers=deadline)).values()
        assert (letter.content["code"], letter.content["attempts"]) == ("RETRIES_EXHAUSTED", 2)
        assert retried(letter) < 2.5


def test_what_somebody_else_writes_to_a_delay_topic_is_a_dead_letter(make: Callable[..., Retries]) -> None:
    with make() as scene:
        scene.worker()
        topic = scene.delay_topic("1s")
        producer = Producer({"bootstrap.servers": scene.endpoints.bootstrap_servers})
        producer.produce(topic, scene.value(event(numbers(1), model="delay")), b"k", 2)
        producer.produce(topic, b"", b"k", 2, headers=[("headrace_retry", json.dumps({"topic": "x"}).encode())])
        assert producer.flush(10) == 0
        scene.read_until(2)
        assert {each.content["code"] for each in scene.answers} == {"BAD_HEADER"}
        assert {each.answers for each in scene.answers} == {Position(topic, 2, 0), Position(topic, 2, 1)}


def test_delay_topics_are_as_wide_as_the_others(make: Callable[..., Retries]) -> None:
    with make() as scene:
        scene.worker()
        known = AdminClient({"bootstrap.servers": scene.endpoints.bootstrap_servers}).list_topics(timeout=10).topics
        assert {len(known[scene.delay_topic(delay)].partitions) for delay in DELAYS} == {4}
