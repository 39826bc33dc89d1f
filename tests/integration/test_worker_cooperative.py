"""Cooperative assignment in real workers: partitions that stay with one go on, and every request has one answer."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer

from headrace.connectors.embedded.state import Endpoints
from tests.integration.avro_ends import delayed, event, numbers
from tests.integration.harness import SESSION_SECONDS, Scene, Sent, wait_until
from tests.integration.mixed import mixed

PARTITIONS = 6
CHUNK = 40
PAUSE_SECONDS = 0.2
"""Between chunks: about 200 requests a second."""
COOPERATIVE: dict[str, Any] = {"assignment": "cooperative-sticky"}


@contextmanager
def load(scene: Scene) -> Iterator[list[Sent]]:
    """Requests without end while the block lasts, and with it what was sent so far."""
    sent: list[Sent] = []
    failed: list[BaseException] = []
    stop = threading.Event()
    events = iter(mixed(100_000))

    def run() -> None:
        try:
            while not stop.wait(PAUSE_SECONDS):
                chunk = [scene.value(each) for each in itertools.islice(events, CHUNK)]
                sent.extend(scene.send(chunk, key=lambda index: f"key-{len(sent) + index}".encode()))
        except BaseException as error:  # noqa: BLE001 - raised again by the block's end
            failed.append(error)

    thread = threading.Thread(target=run, name="load")
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]


def read_for_more(scene: Scene, count: int = 150) -> None:
    scene.read_until(len(scene.answers) + count)


def test_workers_that_join_leave_and_are_killed_under_load_answer_each_request_once(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    topics = {"partitions": PARTITIONS}
    with Scene(stack, names("w"), tmp_path, kafka=COOPERATIVE, topics=topics) as scene:
        first, second = scene.worker(0, wait=False), scene.worker(1, wait=False)
        first.wait_ready()
        second.wait_ready()
        scene.wait_shared(0, 1)
        with load(scene) as sent:
            read_for_more(scene)
            third = scene.worker(2)
            scene.wait_shared(0, 1, 2)
            read_for_more(scene)
            second.kill()
            wait_until(lambda: len(scene.members()) == 2, 3 * SESSION_SECONDS, "the killed worker's session to end")
            scene.wait_shared(0, 2)
            read_for_more(scene)
            assert third.terminate() == 0
            scene.wait_shared(0)
            read_for_more(scene)
            second.start()
            scene.wait_shared(0, 1)
            read_for_more(scene)
        answers = scene.settle(sent)
        assert not any(each.dead for each in answers.values())
        assert {each.content["worker"] for each in answers.values()} == {f"{scene.group}-{slot}" for slot in range(3)}
        for worker in (first, second, third):
            assert "Traceback" not in worker.log, worker.log
        assert first.running
        assert second.terminate() == 0
        assert first.terminate() == 0


SLOW_MS = 5000
QUICK = 800
"""In each partition, one call after the other: more work than there is time while the slow calls are awaited."""
IN_TURN: list[dict[str, Any]] = [
    {"name": "delay", "model": "delay", "match": {"modality": ["TENSOR"], "explicit": True}},
    {
        "name": "identity",
        "model": "identity",
        "match": {"modality": ["TENSOR"]},
        "batch": {"max_records": 1},
        "max_concurrency": 1,
    },
]


def test_partitions_that_stay_go_on_being_answered_while_others_are_drained(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    drain = {"drain_timeout_seconds": 15}
    with Scene(stack, names("w"), tmp_path, kafka=COOPERATIVE, routes=IN_TURN, worker=drain) as scene:
        worker = scene.worker()
        slow = [scene.send_events([delayed(SLOW_MS, each)], partition=each) for each in range(4)]
        quick = scene.send_events([event(numbers(1))] * 4 * QUICK, key=lambda index: f"key-{index}".encode())
        sent = [*(each for some in slow for each in some), *quick]
        gone: set[int] = set()
        with joiner(scene) as other:
            before = answered(scene)
            deadline = time.monotonic() + 40
            while not (gone := held(other)):
                scene.read(0.05)
                assert time.monotonic() < deadline, "the joiner has no share"
            meanwhile = answered(scene) - before
        stayed = {0, 1, 2, 3} - gone
        assert len(stayed) == 2  # of five partitions: the topic of what is redriven has one
        assert sum(meanwhile[each] for each in stayed) > QUICK / 10, meanwhile
        scene.settle(sent)
        assigned = re.findall(r"(assigned|revoked) (\d+) partitions", worker.log)
        assert [(what, int(count)) for what, count in assigned if count != "0"] == [
            ("assigned", 5),
            ("revoked", 2),
            ("assigned", 2),
        ]


def answered(scene: Scene) -> Counter[int]:
    """Answers so far, by the partition of their requests."""
    return Counter(each.answers.partition for each in scene.answers)


@contextmanager
def joiner(scene: Scene) -> Iterator[Consumer]:
    """Another member, which does nothing with what it gets. It joins at once: a worker has to start first."""
    consumer = Consumer(
        {
            "bootstrap.servers": scene.endpoints.bootstrap_servers,
            "group.id": scene.group,
            "partition.assignment.strategy": "cooperative-sticky",
            "enable.auto.commit": False,
        }
    )
    try:
        consumer.subscribe([scene.requests])
        yield consumer
    finally:
        consumer.close()


def held(consumer: Consumer) -> set[int]:
    consumer.poll(0.05)
    return {each.partition for each in consumer.assignment()}


def test_worker_with_another_assignment_is_let_in_when_the_others_have_stopped(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    """So to change it all are stopped, in whatever order the new ones are started."""
    with Scene(stack, names("w"), tmp_path) as scene:
        eager = scene.worker(0)
        other = scene.worker(1, wait=False, environment={"HEADRACE_KAFKA__ASSIGNMENT": "cooperative-sticky"})
        wait_until(lambda: "INCONSISTENT_GROUP_PROTOCOL" in other.log, 40, "the group to refuse the worker")
        sent = scene.send_events(mixed(60))
        scene.settle(sent)
        assert scene.members() == {f"{scene.group}-0": 4}
        assert eager.terminate() == 0
        scene.wait_shared(1)
        other.wait_ready()
        sent += scene.send_events(mixed(60))
        scene.settle(sent)
        assert other.terminate() == 0
