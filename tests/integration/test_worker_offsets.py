"""What is done above the committed offset: how far it may reach, who reads it, and how a person sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from confluent_kafka import Consumer, Producer, TopicPartition

from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.admin import ensure_topics
from headrace.pipeline.config import Settings
from headrace.pipeline.offsets import NEAR, OffsetBitmap
from headrace.pipeline.setup import topic_specs
from tests.integration.avro_ends import delayed, event, numbers
from tests.integration.harness import Scene

SLOW_MS = 120_000
"""Longer than the test needs: the record is not answered before its worker is killed."""
QUICK = NEAR + 3000
ROUTES = [
    {"name": "delay", "model": "delay", "match": {"modality": ["TENSOR"], "explicit": True}, "ordering": "none"},
    {
        "name": "identity",
        "model": "identity",
        "match": {"modality": ["TENSOR"]},
        "ordering": "none",
        "batch": {"max_records": 64},
    },
]


def offsets_shown(config: Path, endpoints: Endpoints, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headrace", "offsets", "show", "-c", str(config), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=endpoints.environment(), check=False)


def only_partition(config: Path, endpoints: Endpoints, topic: str) -> dict[str, Any]:
    done = offsets_shown(config, endpoints, "--json")
    assert done.returncode == 0, done.stderr
    (found,) = (each for each in json.loads(done.stdout)["partitions"] if each["topic"] == topic)
    assert isinstance(found, dict)
    return found


def test_worker_of_the_older_format_goes_on_where_one_of_the_newer_was_killed(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    """One slow record holds up none of the many behind it, and a successor skips those, whichever format it writes."""
    with Scene(stack, names("w"), tmp_path, routes=ROUTES, topics={"partitions": 1}) as scene:
        config = tmp_path / "pipeline.yaml"
        newer = scene.worker(0)
        slow = scene.send_events([delayed(SLOW_MS)])
        sent = slow + scene.send_events([event(numbers(index % 100)) for index in range(QUICK)])
        scene.read_until(QUICK)
        newer.kill()
        shown = only_partition(config, stack, scene.requests)
        assert shown["committed"] == slow[0].position.offset
        assert shown["runs"] == [{"first": 1, "last": QUICK}]
        assert (shown["format"], shown["done_above"], shown["owed"]) == ("h2", QUICK, 1)
        told = offsets_shown(config, stack)
        assert f"1-{QUICK}" in told.stdout

        # The slow record's value, sent anew as a quick one, would be another record: so let the older one refuse it.
        settings = yaml.safe_load(config.read_text())
        settings["kafka"]["offset_metadata"] = "h1"
        settings["routes"][0]["deadline_seconds"] = 1
        config.write_text(yaml.safe_dump(settings))
        older = scene.worker(1)
        sent += scene.send_events([event(numbers(index)) for index in range(50)])
        answers = scene.settle(sent)
        assert {position for position, answer in answers.items() if answer.dead} == {slow[0].position}
        assert older.running
        shown = only_partition(config, stack, scene.requests)
        assert (shown["committed"], shown["owed"], shown["metadata"]) == (len(sent), 0, "")


def test_delay_topics_are_shown_as_request_topics_are(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    routes = [{"name": "identity", "model": "identity", "retries": {"delays": ["5s"]}}]
    with Scene(stack, names("w"), tmp_path, routes=routes, topics={"partitions": 1}) as scene:
        config = tmp_path / "pipeline.yaml"
        delayed_topic, redriven = f"{scene.group}.retry.5s", f"{scene.group}.redriven"
        ensure_topics(stack.bootstrap_servers, topic_specs(Settings.model_validate(yaml.safe_load(config.read_text()))))
        producer = Producer({"bootstrap.servers": stack.bootstrap_servers})
        for _ in range(7):
            producer.produce(delayed_topic, b"x")
        assert producer.flush(30) == 0
        done = OffsetBitmap(3)
        done.add(5)
        consumer = Consumer({"bootstrap.servers": stack.bootstrap_servers, "group.id": scene.group})
        try:
            consumer.commit(offsets=[TopicPartition(delayed_topic, 0, 3, done.encode(3))], asynchronous=False)
        finally:
            consumer.close()

        shown = only_partition(config, stack, delayed_topic)
        assert (shown["committed"], shown["end"], shown["owed"], shown["format"]) == (3, 7, 3, "h1")
        assert shown["runs"] == [{"first": 5, "last": 5}]
        assert only_partition(config, stack, redriven)["committed"] is None
        assert f"{delayed_topic}[0]" in offsets_shown(config, stack).stdout

        settings = yaml.safe_load(config.read_text())
        settings["routes"][0]["retries"]["delays"] = ["5s", "1m"]
        config.write_text(yaml.safe_dump(settings))
        told = offsets_shown(config, stack)
        assert (told.returncode, told.stderr) == (
            0,
            f"topic {scene.group}.retry.1m does not exist: `headrace topics create` makes it\n",
        )
