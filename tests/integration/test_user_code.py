"""User code and second records in real workers: the example of docs/user-code.md, and both under a kill."""

from __future__ import annotations

import json
import re
import textwrap
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.reader import Beginning, CommittedReader
from headrace.pipeline.config import KafkaSettings
from headrace.pipeline.records import SourceRecord
from tests.docs.pages import DOCS, read
from tests.integration.avro_ends import Position, delayed, event, image, output, text
from tests.integration.harness import Scene, wait_until
from tests.integration.mixed import mixed

PAGE = read(DOCS / "user-code.md")
PHOTOS = Path(__file__).parents[2] / "pipeline" / "demo" / "data" / "photos"
EVENTS = 900
SLOW_EVENTS, SLOW_MS = 16, 4000
"""At the end, so that the load is never over before the worker is killed, however quick the machine."""


def committed(stack: Endpoints, topic: str) -> list[SourceRecord]:
    with CommittedReader(KafkaSettings(bootstrap_servers=stack.bootstrap_servers), [topic], Beginning()) as reader:
        return list(reader.records(30.0, until_end=True))


def write_example(folder: Path, alerts: str) -> dict[str, Any]:
    """The page's module, and its settings with a topic of our own."""
    code = next(PAGE.blocks("python"))
    settings: dict[str, Any] = yaml.safe_load(next(PAGE.blocks("yaml")))
    assert "photo.alerts" in code
    (folder / "labels.py").write_text(code.replace("photo.alerts", alerts).replace("timer(60.0)", "timer(0.1)"))
    settings["topics"] = {"emitted": {alerts: "json"}}
    return settings


def test_example_of_the_page_does_what_it_says(stack: Endpoints, names: Callable[[str], str], tmp_path: Path) -> None:
    alerts = names("alerts")
    with Scene(stack, names("w"), tmp_path, **write_example(tmp_path, alerts)) as scene:
        worker = scene.worker()
        photos = ["coffee.jpg", "rocket.jpg", "gravel.jpg"]
        sent = scene.send_events(
            [*(event(image((PHOTOS / name).read_bytes())) for name in photos), event(text("write to jo@mill.org"))]
        )
        answers = scene.settle(sent)
        found = [answers[each.position] for each in sent]
        assert output(found[0])["labels"][0]["name"] == "espresso"
        assert all(label["score"] >= 0.1 for each in found[:2] for label in output(each)["labels"])
        # the address is hidden: its sentence has the embedding of the one without
        (plain,) = scene.send_events([event(text("write to (address)"))])
        assert output(scene.settle([plain])[plain.position])["tensors"] == output(found[3])["tensors"]
        best = {str(each.content["request_id"]): output(each)["labels"][0] for each in found[:3] if not each.dead}
        wanted = {id_: (label["name"], label["score"]) for id_, label in best.items() if label["score"] > 0.9}
        records = [json.loads(record.value or b"") for record in committed(stack, alerts)]
        assert {each["id"]: (each["label"], each["score"]) for each in records} == wanted
        assert wanted
        with urllib.request.urlopen(f"{worker.url}/seen") as response:
            assert json.load(response) == Counter(label["name"] for label in best.values())
        wait_until(lambda: "most seen: [" in worker.log, 10, "the timer to tell")


def test_second_records_of_the_page_make_a_chain(stack: Endpoints, names: Callable[[str], str], tmp_path: Path) -> None:
    """With text in place of speech: the page's own model is an extra that is tested with the models."""
    following, audit = names("next"), names("audit")
    settings: dict[str, Any] = yaml.safe_load(list(PAGE.blocks("yaml"))[1])
    stage_one, stage_two = settings["routes"]
    stage_one |= {"model": "image_jpeg", "match": {"modality": ["IMAGE"]}}
    stage_one["also_to"][0] |= {"topic": following, "parts": "original"}
    stage_one["also_to"][1] |= {"topic": audit}
    stage_two |= {"model": "image_jpeg", "match": {"type": ["transcript"]}}
    stage_one["match"]["type"] = ["org.example.*"]
    prefix = names("w")
    settings["topics"] = {"requests": [f"{prefix}.in", following]}
    with Scene(stack, prefix, tmp_path, **settings) as scene:
        scene.worker()
        sent = scene.send_events(
            [event(image((PHOTOS / "cat.jpg").read_bytes()))], headers=[("tenant", b"mill"), ("correlation_id", b"c-1")]
        )
        scene.read_until(2)
        first, second = sorted(scene.answers, key=lambda each: each.answers.topic != scene.requests)
        assert first.answers == sent[0].position
        assert second.answers.topic == following
        assert second.header("correlation_id") == b"c-1"
        assert output(second)["labels"] == output(first)["labels"]
        assert second.content["request_id"] != first.content["request_id"]
        (record,) = committed(stack, audit)
        assert json.loads(record.value or b"") == {
            "event": str(first.content["request_id"]),
            "said": None,
            "tenant": "mill",
            "offset": sent[0].position.offset,
        }


MODULE = textwrap.dedent(
    """
    import asyncio

    def setup(app):
        @app.after("identity", "delay", "text")
        async def twice(record):
            record.emit("{topic}", "hook")
            await asyncio.sleep(0.001 * (record.provenance.offset % 7))

        @app.agent(app.results(), concurrency=8)
        async def twin(records):
            async for record in records:
                await asyncio.sleep(0.001 * (record.provenance.offset % 5))
                where = record.provenance
                record.emit("{topic}", f"agent {{where.topic}} {{where.partition}} {{where.offset}}")
    """
)


def test_what_user_code_emits_is_as_exact_as_the_results_under_a_kill(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    emitted, twins = names("emitted"), names("twins")
    (tmp_path / "mine.py").write_text(MODULE.format(topic=emitted))
    routes: list[dict[str, Any]] = [
        {"name": "text", "model": "text_embedding", "match": {"modality": ["TEXT"]}},
        {"name": "identity", "model": "identity", "match": {"modality": ["TENSOR"]}},
        {"name": "delay", "model": "delay", "match": {"modality": ["TENSOR"], "explicit": True}},
    ]
    for route in routes:
        route["also_to"] = [{"topic": twins}]
    with Scene(
        stack,
        names("w"),
        tmp_path,
        user_code={"modules": ["mine"]},
        topics={"emitted": {emitted: "bytes"}},
        routes=routes,
    ) as scene:
        victim, other = scene.worker(0, wait=False), scene.worker(1, wait=False)
        victim.wait_ready()
        other.wait_ready()
        scene.wait_shared(0, 1)
        sent = scene.send_events([*mixed(EVENTS), *(delayed(SLOW_MS, index) for index in range(SLOW_EVENTS))])
        scene.read_until(EVENTS // 4)
        victim.kill()
        assert scene.lag() > 0, "the load was over before the worker was killed"
        victim.start()
        scene.settle(sent)
        positions = Counter(each.position for each in sent)
        values = Counter((record.value or b"").decode() for record in committed(stack, emitted))
        assert values.pop("hook") == len(sent)
        agents = Counter({_position(value): count for value, count in values.items()})
        assert agents == positions
        scene.output_topics = [twins]
        assert Counter(each.answers for each in scene.everything()) == positions


def _position(value: str) -> Position:
    found = re.fullmatch(r"agent (\S+) (\d+) (\d+)", value)
    assert found, value
    return Position(found[1], int(found[2]), int(found[3]))
