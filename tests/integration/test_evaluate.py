"""Evaluation on the real servers: each event of a range joined once with all that was said of it, and judged."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest
from confluent_kafka import Producer

from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.admin import ensure_topics
from headrace.connectors.registry import ConfluentRegistry
from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.records import TopicSpec
from headrace.pipeline.setup import COMPATIBILITY
from tests.integration.avro_ends import DATA, Answer, Datum, Position, encode, event, image, text
from tests.integration.harness import Sent
from tests.integration.replays import Replays

PHOTOS = [path.read_bytes() for path in sorted((DATA / "photos").glob("*.jpg"))]
WRONG_EVERY = 4
"""So many labels are of something else, so that the accuracy is known."""
LARGEST_BYTES = 5_000_000
LOADS = re.compile(
    r"""(?:\b(?:src|href|srcset|action|data)\s*=\s*["']?|url\(\s*["']?|@import\s+["']?)(?!data:|#)[^"'\s>]"""
)
"""What makes a browser ask somebody, or a person leave the page."""


@pytest.fixture
def scene(stack: Endpoints, names: Callable[[str], str], tmp_path: Path) -> Iterator[Replays]:
    shadow = {"version": "1", "share": 0.5, "patience_seconds": 30}
    routes = [
        {"name": "text", "model": "text_embedding", "match": {"modality": ["TEXT"]}, "shadow": shadow},
        {"name": "image", "model": "image_jpeg", "match": {"modality": ["IMAGE"]}, "batch": {"max_records": 8}},
    ]
    scene = Replays(stack, names("w"), tmp_path, routes=routes, topics={"shadow": names("shadow")})
    with scene:
        ensure_topics(stack.bootstrap_servers, [TopicSpec(scene.requests, 4)])
        yield scene


def photos(count: int) -> list[Datum]:
    return [event(image(PHOTOS[index % len(PHOTOS)]), text(f"photo number {index}")) for index in range(count)]


def evaluated(scene: Replays, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = scene.run("evaluate", *arguments, "--json")
    assert done.returncode == code, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


def metrics(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def of_all(measures: Iterable[dict[str, Any]], name: str, route: str) -> dict[str, Any]:
    (found,) = [each for each in measures if (each["name"], each["route"], each["slice"]) == (name, route, None)]
    return found


def labels(sent: list[Sent], live: dict[Position, Answer]) -> list[tuple[Position, str, str]]:
    """Position, event id and label of each photo: what live says of it, but for those that are wrong on purpose."""
    found = []
    for index, each in enumerate(sent):
        answer = live[each.position].content
        (output,) = [output for output in answer["outputs"] if output["route"] == "image"]
        label = "submarine" if index % WRONG_EVERY == 0 else output["labels"][0]["name"]
        found.append((each.position, str(answer["request_id"]), label))
    return found


def produce(scene: Replays, topic: str, records: Iterable[tuple[str | None, bytes | None]]) -> None:
    producer = Producer({"bootstrap.servers": scene.endpoints.bootstrap_servers, "enable.idempotence": True})
    for key, value in records:
        producer.produce(topic, value, key)
    assert producer.flush(30) == 0


def redriven(scene: Replays, answer: Answer) -> bytes:
    """A result as a worker writes it that answers an event a second time."""
    with ConfluentRegistry(scene.endpoints.registry_url, 10) as registry:
        schema_id = registry.register(f"{scene.results}-value", schema_json(Contract.RESULT), COMPATIBILITY)
    return encode(schema_id, answer.content, schema_json(Contract.RESULT))


def gate(folder: Path, name: str, least: float) -> str:
    path = folder / name
    path.write_text(
        f"thresholds: [{{metric: accuracy, route: image, min: {least}}}, {{metric: failed, max_rise: 0}}]\n"
    )
    return str(path)


def test_run_is_joined_with_live_and_labels_exactly_and_judged(scene: Replays, tmp_path: Path) -> None:
    worker = scene.worker()
    sent = scene.send_events(photos(60))
    late = scene.send_events(photos(1), headers=[("deadline", b"1")])  # live refuses it, a replay does not
    broken = scene.send([b"no Avro"])
    live = scene.settle([*sent, *late, *broken])
    assert worker.terminate() == 0
    told = labels(sent, live)
    scene.replay(scene.requests, "--run", "r")
    answers = {each.answers: each for each in scene.outcomes("r")}

    file = tmp_path / "labels.csv"
    by_id = "".join(f"{event_id},{label},photo\n" for _, event_id, label in told)
    file.write_text(f"id,label,part\n{by_id}")
    junit = tmp_path / "build" / "junit.xml"
    arguments = ("r", "--labels", str(file), "--junit", str(junit))
    outcome = evaluated(scene, *arguments, "--gate", gate(tmp_path, "gate.yaml", 0.7))
    assert outcome["events"] == 62
    assert outcome["candidate"] == {"results": 61, "dead_letters": 1, "missing": 0, "duplicates": 0}
    assert outcome["baseline"] == {"results": 60, "dead_letters": 2, "missing": 0, "duplicates": 0}
    assert (outcome["gate"], outcome["failed"]) == ("pass", [])
    assert [case.find("failure") for case in Xml.parse(junit).getroot().iter("testcase")] == [None] * 3

    folder = tmp_path / "evaluations" / "r"
    measures = metrics(folder)["measures"]
    accuracy = of_all(measures, "accuracy", "image")
    assert (accuracy["records"], accuracy["candidate"]["value"]) == (60, 0.75)
    agreement = of_all(measures, "agreement", "image")
    assert (agreement["records"], agreement["candidate"]["value"]) == (60, 1)
    report = (folder / "report.html").read_text()
    assert len(report.encode()) < LARGEST_BYTES
    assert LOADS.search(report) is None
    assert (folder / "report.md").read_text().startswith("#")

    # What was redriven is answered in live too, and counts once, by its result; a second result is told of.
    again = redriven(scene, answers[late[0].position])
    produce(scene, scene.results, [("k", again)])
    failing = evaluated(scene, *arguments, "--gate", gate(tmp_path, "strict.yaml", 0.9), code=1)
    assert failing["baseline"] == {"results": 61, "dead_letters": 1, "missing": 0, "duplicates": 0}
    assert failing["gate"] == "fail"
    assert [each["check"] for each in failing["failed"]] == ["image/accuracy"]
    assert [case.find("failure") is None for case in Xml.parse(junit).getroot().iter("testcase")] == [False, True, True]
    produce(scene, scene.results, [("k", again)])
    assert evaluated(scene, "r")["baseline"]["duplicates"] == 1


def test_labels_of_a_topic_are_those_that_hold_now(scene: Replays, tmp_path: Path) -> None:
    scene.worker()
    sent = scene.send_events(photos(12))
    told = labels(sent, scene.settle(sent))
    topic = f"{scene.requests}.labels"
    ensure_topics(scene.endpoints.bootstrap_servers, [TopicSpec(topic, 2)])
    corrected = {event_id: json.dumps({"label": label, "part": "photo"}).encode() for _, event_id, label in told}
    produce(scene, topic, [(event_id, b"no JSON") for event_id in corrected])
    produce(scene, topic, corrected.items())
    produce(scene, topic, [(told[1][1], None)])
    scene.replay(scene.requests, "--run", "r", "--route", "image")
    evaluated(scene, "r", "--against", "none", "--labels", f"topic:{topic}", "--out", str(tmp_path / "out"))
    accuracy = of_all(metrics(tmp_path / "out")["measures"], "accuracy", "image")
    right = len(told) - len(range(0, len(told), WRONG_EVERY)) - 1
    assert accuracy["records"] == len(told) - 1
    assert accuracy["candidate"]["value"] == pytest.approx(right / (len(told) - 1))
    assert "data:image/jpeg;base64," in (tmp_path / "out" / "report.html").read_text()  # of what is wrong


def test_run_is_compared_with_another_where_both_were_asked(scene: Replays, tmp_path: Path) -> None:
    """Of one a sample, of the other all; and what is said of them is the same twice, but for times."""
    scene.send_events([event(text(f"sentence number {index}")) for index in range(40)])
    some = scene.replay(scene.requests, "--run", "some", "--filter", "sample=50%")["results"]
    scene.replay(scene.requests, "--run", "all")
    assert 5 < some < 35
    (tmp_path / "checks.py").write_text("def same(one, other, _):\n    return float(one.version == other.version)\n")
    outcome = evaluated(scene, "some", "--against", "all", "--measure", "checks:same")
    assert outcome["events"] == some
    for side in ("candidate", "baseline"):
        assert outcome[side] == {"results": some, "dead_letters": 0, "missing": 0, "duplicates": 0}
    found = metrics(tmp_path / "evaluations" / "some")
    assert of_all(found["measures"], "cosine.EMBEDDING", "text")["candidate"]["value"] == pytest.approx(1, abs=1e-5)
    assert of_all(found["measures"], "same", "text")["candidate"]["value"] == 1
    evaluated(scene, "some", "--against", "all", "--measure", "checks:same")
    again = metrics(tmp_path / "evaluations" / "some")
    assert {**again, "timings": None} == {**found, "timings": None}


def test_shadow_is_compared_with_live_on_its_share_of_the_events(scene: Replays) -> None:
    scene.worker()
    sent = scene.send_events([event(text(f"sentence number {index}")) for index in range(40)])
    scene.settle(sent)
    outcome = evaluated(scene, "shadow", "--filter", "type=org.example.*")
    assert 5 < outcome["events"] < 35
    for side in ("candidate", "baseline"):
        assert outcome[side] == {"results": outcome["events"], "dead_letters": 0, "missing": 0, "duplicates": 0}


def test_what_keeps_from_comparing_has_another_code_than_a_gate_that_fails(scene: Replays, tmp_path: Path) -> None:
    scene.send_events([event(text("a sentence"))])
    scene.replay(scene.requests, "--run", "r")
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("id,label\n7,cat\n")
    for arguments, message in (
        (("nobody",), "there is no run nobody"),
        (("r", "--against", "nobody"), "there is no run nobody"),
        (("r", "--gate", str(tmp_path / "none.yaml")), "none.yaml"),
        (("r", "--labels", str(wrong)), "line 2: id '7' is not a UUID"),
        (("r", "--labels", "topic:nowhere"), "topic nowhere does not exist"),
        (("r", "--slice", "tenant"), "header.NAME"),
        (("r", "--filter", "type=x"), "a run's events are its own"),
        (("r", "--junit", "x.xml"), "--gate"),
        (("shadow", "--from", "latest"), "there is nothing to compare"),
    ):
        done = scene.run("evaluate", *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert message in done.stderr, arguments
        assert "Traceback" not in done.stderr
