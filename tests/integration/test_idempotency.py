"""Upstream duplicates on a real broker, with one worker for all: inside the window an id has one result."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.admin import ensure_topics, partition_counts
from headrace.connectors.kafka.changelog import KafkaChangelog
from headrace.connectors.kafka.history import KafkaTopicHistory
from headrace.connectors.kafka.reader import Beginning, CommittedReader
from headrace.connectors.kafka.topic_states import TopicStates
from headrace.pipeline.config import KafkaSettings, Settings
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.idempotency import Seen, decode_seen
from headrace.pipeline.records import SourceRecord, TopicPartition, TopicSpec
from headrace.pipeline.setup import topic_specs
from headrace.pipeline.topic_check import report
from tests.integration.avro_ends import Datum, delayed, event, numbers
from tests.integration.harness import Scene, Sent, WorkerProcess, wait_until

WINDOW_SECONDS = 60
PARTITIONS = 6
"""Of the request topic, which is there before the workers are, and wider than the settings say."""
COMPACTED_SOON = {
    "cleanup.policy": "compact,delete",
    "segment.ms": "200",
    "min.cleanable.dirty.ratio": "0.01",
    "max.compaction.lag.ms": "200",
}
SECONDS = 30.0


class Duplicated(Scene):
    """A worker of three routes, by the events' type: ``once``; ``off``, which puts off; and ``few`` in a lane."""

    def __init__(self, endpoints: Endpoints, folder: Path) -> None:
        prefix = f"idempotency.{uuid.uuid4().hex[:8]}"
        self.few = f"{prefix}.few"
        retries = {"max_attempts": 1, "delays": ["2s"], "jitter": 0}
        once = {"model": "delay", "idempotency": {"window_seconds": WINDOW_SECONDS}, "retries": {"max_attempts": 1}}
        super().__init__(
            endpoints,
            prefix,
            folder,
            topics={"requests": [f"{prefix}.in", self.few]},
            routes=[
                {**once, "name": "off", "match": {"type": ["off"]}, "retries": retries},
                {**once, "name": "few", "topics": [self.few], "idempotency": {"max_ids": 2}},
                {**once, "name": "once"},
            ],
        )
        self.first: WorkerProcess
        self.changelog = f"{prefix}.seen.{self.requests}"
        changelog = TopicSpec(self.changelog, PARTITIONS, config=COMPACTED_SOON)
        ensure_topics(endpoints.bootstrap_servers, [TopicSpec(self.requests, PARTITIONS), changelog])

    def send_to(self, partition: int, *events: Datum, **options: Any) -> list[Sent]:
        return self.send_events(events, partition=partition, key=lambda _: b"k", **options)

    def answer_often(self) -> None:
        """An event that is sent and answered three times, each time beyond the window: it is to be compacted."""
        this, sent_ms = plain(), int(time.time() * 1000)
        for number in range(3):
            (last,) = self.send_to(0, this, timestamp_ms=sent_ms + number * 1000 * (WINDOW_SECONDS + 1))
            assert self.outcomes([last]) == ["result"]
        self.often = this, last

    def outcomes(self, sent: Sequence[Sent], topic: str | None = None) -> list[str]:
        """Of each, when all is committed: ``result``, ``dead``, or ``none``."""
        wait_until(lambda: self.lag(topic) == 0, SECONDS, "all offsets to be committed")
        found: dict[object, str] = {}
        for answer in self.everything():
            assert answer.answers not in found, "two outcomes"
            found[answer.answers] = "dead" if answer.dead else "result"
        return [found.get(each.position, "none") for each in sent]


@pytest.fixture(scope="module")
def scene(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Duplicated]:
    with Duplicated(stack, tmp_path_factory.mktemp("scene")) as scene:
        scene.first = scene.worker()
        scene.answer_often()
        yield scene


@pytest.fixture
def worker(scene: Duplicated) -> WorkerProcess:
    return scene.first


def dropped(worker: WorkerProcess, route: str = "once") -> float:
    return worker.metric(f'headrace_duplicates_total{{route="{route}"}}')


def plain(number: float = 1.0, **fields: Any) -> Datum:
    return {**event(numbers(number), model="delay"), **fields}


def test_duplicates_in_one_batch_give_one_result(scene: Duplicated, worker: WorkerProcess) -> None:
    before = dropped(worker)
    events = [plain(each) for each in range(20)]
    sent = scene.send_to(0, *(each for each in events for _ in range(3)))
    assert scene.outcomes(sent) == ["result", "none", "none"] * 20
    assert dropped(worker) == before + 40


def test_second_waits_for_a_first_in_flight_and_nothing_else_does(scene: Duplicated, worker: WorkerProcess) -> None:
    slow = delayed(2500)
    sent = scene.send_to(1, slow)
    sent += scene.send_to(1, slow)
    other = scene.send_events([plain()], partition=1, key=lambda _: b"other")
    known = {other[0].position}
    wait_until(lambda: scene.read() and known & {each.answers for each in scene.answers}, 2.3, "the other's result")
    assert scene.outcomes(sent + other) == ["result", "none", "result"]


def test_after_the_window_it_is_another_event(scene: Duplicated) -> None:
    this, now_ms = plain(), int(time.time() * 1000)
    times = [now_ms, now_ms + 1000 * WINDOW_SECONDS, now_ms + 1000 * WINDOW_SECONDS + 1]
    sent = [scene.send_to(2, this, timestamp_ms=each)[0] for each in times]
    assert scene.outcomes(sent) == ["result", "none", "result"]


def test_dead_letter_makes_no_duplicates(scene: Duplicated) -> None:
    this = plain()
    failing = {**this, "parameters": {"fail": "INVALID_ARG", "delay_ms": 300}}
    sent = scene.send_to(3, failing, this, this)
    assert scene.outcomes(sent) == ["dead", "result", "none"]


def test_what_is_put_off_makes_no_duplicates_and_is_answered_too(scene: Duplicated) -> None:
    this = plain(type="off")
    failing = {**this, "parameters": {"fail": "INTERNAL", "fail_until_ms": int(time.time() * 1000) + 1500}}
    sent = scene.send_to(4, failing, this, this)
    wait_until(lambda: scene.outcomes(sent) == ["result", "result", "none"], 10, "the outcome of what was put off")


def test_newest_ids_alone_are_remembered(scene: Duplicated, worker: WorkerProcess) -> None:
    events = [plain(each) for each in range(3)]
    sent = scene.send_to(0, *events, topic=scene.few)
    assert scene.outcomes(sent, scene.few) == ["result"] * 3
    again = scene.send_to(0, events[2], events[1], events[0], topic=scene.few)
    assert scene.outcomes(again, scene.few) == ["none", "none", "result"]
    assert dropped(worker, "few") == 2


def test_restart_after_a_kill_forgets_nothing(scene: Duplicated, worker: WorkerProcess) -> None:
    done, slow = plain(), delayed(1500)
    first = scene.send_to(5, done)
    assert scene.outcomes(first) == ["result"]
    sent = scene.send_to(5, slow, slow)
    time.sleep(0.3)  # the kill is to come at any time while both are in flight
    worker.kill()
    sent += scene.send_to(5, done, slow)
    worker.start()
    worker.wait_ready()
    assert scene.outcomes(first + sent) == ["result", "result", "none", "none", "none"]
    assert worker.metric("headrace_restore_seconds_count") >= 1


def test_next_owner_knows_what_the_last_has_answered(scene: Duplicated) -> None:
    events = [plain(each) for each in range(PARTITIONS)]
    sent = [scene.send_to(partition, each)[0] for partition, each in enumerate(events)]
    assert scene.outcomes(sent) == ["result"] * PARTITIONS
    second = scene.worker(1)
    scene.wait_shared(0, 1)
    again = [scene.send_to(partition, each)[0] for partition, each in enumerate(events)]
    assert scene.outcomes(again) == ["none"] * PARTITIONS
    assert dropped(second) > 0
    assert second.terminate() == 0
    scene.wait_shared(0)
    again = [scene.send_to(partition, each)[0] for partition, each in enumerate(events)]
    assert scene.outcomes(again) == ["none"] * PARTITIONS


def test_compaction_leaves_what_counts(scene: Duplicated) -> None:
    """An id that had results at several times is there once, with the last of them."""
    this, last = scene.often
    wait_until(lambda: scene.send_to(0, plain()) and times_kept(scene, this) == 1, 40, "compaction")
    where, changelogs = scene.endpoints.bootstrap_servers, {scene.requests: scene.changelog}
    changelog = KafkaChangelog(where, {}, scene.group, changelogs, SECONDS)
    found: dict[bytes | None, Seen] = {}

    def take(record: SourceRecord) -> None:
        assert record.key not in found or record.key == this["id"].encode()
        found[record.key] = decode_seen(record.value)

    asyncio.run(changelog.restore({TopicPartition(scene.requests, 0): take}, 1000))
    assert found[this["id"].encode()].offset == last.position.offset


def times_kept(scene: Duplicated, this: Datum) -> int:
    """How often an event's id is in the changelog; a segment is only closed by what is written after it."""
    settings = KafkaSettings(bootstrap_servers=scene.endpoints.bootstrap_servers)
    with CommittedReader(settings, [scene.changelog], Beginning()) as reader:
        return sum(record.key == this["id"].encode() for record in reader.records(10, until_end=True))


def test_changelog_that_is_less_wide_than_its_topic_is_refused(
    stack: Endpoints, names: Callable[[str], str], make_topics: Callable[..., tuple[str, ...]]
) -> None:
    (requests,) = make_topics("in", partitions=3)
    settings = Settings.model_validate(
        {
            "name": names("group"),
            "topics": {"requests": [requests], "results": names("out"), "dead_letters": names("dead"), "partitions": 2},
            "routes": [{"name": "once", "model": "delay", "idempotency": {}}],
        }
    )
    changelog = settings.seen_topic(requests)
    specs = [spec for spec in topic_specs(settings) if spec.name in (requests, changelog)]
    assert ensure_topics(stack.bootstrap_servers, specs) == (changelog,)
    assert partition_counts(stack.bootstrap_servers, [changelog]) == {changelog: 3}
    assert ensure_topics(stack.bootstrap_servers, specs) == ()
    assert KafkaTopicHistory(stack.bootstrap_servers, changelog, {}).written() == {0: 0, 1: 0, 2: 0}
    (wider,) = make_topics("wider", partitions=4)
    (spec,) = (spec for spec in specs if spec.as_wide_as)
    with pytest.raises(ConfigError, match=rf"{changelog} has 3 partitions, but {wider}, whose ids it keeps, has 4"):
        ensure_topics(stack.bootstrap_servers, [TopicSpec(spec.name, 1, as_wide_as=wider)])
    (narrower,) = make_topics("narrower", partitions=2)
    ensure_topics(stack.bootstrap_servers, [TopicSpec(spec.name, 1, as_wide_as=narrower)])


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"cleanup.policy": "compact,delete", "retention.ms": "599999"}, r"keeps ids for 599999 ms, .* \(600000 ms\)"),
        ({"retention.ms": "-1"}, r"is not compacted \(cleanup\.policy is delete\)"),
        ({"cleanup.policy": "compact", "retention.ms": "1"}, None),
    ],
)
def test_changelog_that_forgets_too_early_is_refused(
    stack: Endpoints, names: Callable[[str], str], config: dict[str, str], said: str | None
) -> None:
    where = stack.bootstrap_servers
    topics = {"requests": [names("in")], "results": names("out"), "dead_letters": names("dead"), "partitions": 1}
    routes = [{"name": "once", "model": "delay", "idempotency": {}}]
    settings = Settings.model_validate({"name": names("group"), "topics": topics, "routes": routes})
    changelog = settings.seen_topic(settings.topics.requests[0])
    ensure_topics(where, [TopicSpec(changelog, 1, config=config)])
    specs = topic_specs(settings)
    if said is None:
        ensure_topics(where, specs)
    else:
        with pytest.raises(ConfigError, match=f"topic {changelog} {said}"):
            ensure_topics(where, specs)
    states = TopicStates(where, {}).states([spec.name for spec in specs])
    (found,) = (each for each in report(settings, states, {}) if each.spec.name == changelog)
    assert len(found.problems) == (said is not None)
    assert all(re.search(f"{changelog} {said}", problem) for problem in found.problems)
