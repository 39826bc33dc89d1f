"""What workers answer, read without any code of theirs."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from headrace.connectors.embedded.state import Endpoints
from headrace.pipeline.config_routes import default_routes
from tests.integration.avro_ends import DATA, audio, event, image, numbers, output, output_numbers, tensor, text
from tests.integration.harness import Scene

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = (
    ("traceparent", f"00-{TRACE_ID}-00f067aa0ba902b7-01".encode()),
    ("correlation_id", b"order-7"),
)


@pytest.fixture(scope="module")
def scene(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    prefix = f"worker-results.{stack.bootstrap_servers.rpartition(':')[2]}"
    allowed = f"{prefix}.allowed"
    routes = [route.model_dump(mode="json", exclude_defaults=True) for route in default_routes()]
    for route in routes:
        route["reply_topics_allowed"] = [allowed]
    with Scene(stack, prefix, tmp_path_factory.mktemp("results"), routes=routes) as scene:
        scene.output_topics.append(allowed)
        scene.worker()
        yield scene


def photo(name: str) -> bytes:
    return (DATA / "photos" / name).read_bytes()


def test_every_modality_is_answered_by_its_route(scene: Scene) -> None:
    jpeg, png = photo("cat.jpg"), photo("clock.png")
    raw_image = tensor("UINT8", [224, 224, 3], bytes(224 * 224 * 3))
    events = {
        "text": event(text("a river turns the mill")),
        "jpeg": event(image(jpeg)),
        "png": event(image(png, content_type="image/png")),
        "audio": event(audio((DATA / "speech" / "mill.wav").read_bytes())),
        "identity": event(numbers(1, 2, 3)),
        "affine": event(tensor("FP32", [64], struct.pack("<64f", *[0.0] * 64)), model="affine"),
        "image-tensor": event(raw_image, model="image_classification"),
        "parts": event(text("a cat"), image(jpeg), numbers(4, 5)),
    }
    sent = scene.send_events(events.values(), headers=HEADERS)
    found = scene.settle(sent)
    answers = {name: found[record.position] for name, record in zip(events, sent, strict=True)}

    assert [name for name, answer in answers.items() if answer.dead] == []
    assert {
        name: [(each["part"], each["route"], each["model"]) for each in answers[name].content["outputs"]]
        for name in events
    } == {
        "text": [("sentence", "text", "text_embedding")],
        "jpeg": [("photo", "image", "image_jpeg")],
        "png": [("photo", "image", "image_jpeg")],
        "audio": [("speech", "audio", "audio_vad")],
        "identity": [("tensor", "identity", "identity")],
        "affine": [("tensor", "affine", "affine")],
        "image-tensor": [("tensor", "image-tensor", "image_classification")],
        "parts": [
            ("sentence", "text", "text_embedding"),
            ("photo", "image", "image_jpeg"),
            ("tensor", "identity", "identity"),
        ],
    }
    (embedding,) = output(answers["text"])["tensors"]
    assert (embedding["tensor"]["datatype"], embedding["tensor"]["shape"]) == ("FP32", [384])
    assert "cat" in output(answers["jpeg"])["labels"][0]["name"]
    labels = {
        name: {each["name"]: each["score"] for each in output(answers[name], part)["labels"]}
        for name, part in (("jpeg", 0), ("parts", 1))
    }
    assert labels["parts"] == pytest.approx(labels["jpeg"], abs=1e-4)
    assert (
        output(answers["audio"])["segments"][0]["end_seconds"]
        > output(answers["audio"])["segments"][0]["start_seconds"]
    )
    assert output_numbers(answers["identity"]) == (1, 2, 3)
    assert output_numbers(answers["affine"]) == tuple(index / 4 for index in range(16))

    for record, (name, datum) in zip(sent, events.items(), strict=True):
        answer = answers[name]
        assert str(answer.content["request_id"]) == datum["id"]
        assert answer.key == record.key
        assert answer.header("correlation_id") == b"order-7"
        assert (answer.header("traceparent") or b"").split(b"-")[1].decode() == TRACE_ID
        assert answer.header("traceparent") != HEADERS[0][1], "the result is a span of its own"
        assert answer.header("ce_type") == b"io.headrace.result"
        assert answer.content["status"] == "OK"
        assert answer.content["attempt"] == 1
        assert answer.content["worker"] == f"{scene.group}-0"
        assert answer.content["timings"]["inference_ms"] > 0


def test_load_is_answered_in_batches(scene: Scene) -> None:
    """Every answer is of its own request, whatever shared a call with it."""
    events = [event(numbers(index, -index)) if index % 2 else event(text(f"number {index}")) for index in range(400)]
    sent = scene.send_events(events)
    found = scene.settle(sent)
    answers = [found[record.position] for record in sent]
    assert [str(answer.content["request_id"]) for answer in answers] == [each["id"] for each in events]
    assert [output_numbers(answers[index]) for index in range(1, 400, 2)] == [
        (index, -index) for index in range(1, 400, 2)
    ]
    for route, limit in (("identity", 64), ("text", 32)):
        sizes = {output(answer)["batch_size"] for answer in answers if output(answer)["route"] == route}
        assert 4 < max(sizes) <= limit


def test_reply_topic_is_honoured_if_the_route_allows_it(scene: Scene) -> None:
    allowed = scene.output_topics[-1]
    wanted = (allowed, scene.requests, "somewhere-else")
    sent = [
        record
        for topic in wanted
        for record in scene.send_events([event(numbers(1))], headers=[("reply_topic", topic.encode())])
    ]
    found = scene.settle(sent)
    assert [found[each.position].topic for each in sent] == [allowed, scene.results, scene.results]


def test_reply_partition_is_honoured_in_the_topic_it_was_asked_for(scene: Scene) -> None:
    allowed = scene.output_topics[-1].encode()
    sent = scene.send_events([event(numbers(1))], headers=[("reply_topic", allowed), ("reply_partition", b"3")])
    sent += scene.send_events([event(numbers(1))], headers=[("reply_topic", allowed), ("reply_partition", b"4")])
    found = scene.settle(sent)
    good, bad = (found[each.position] for each in sent)
    assert (good.topic, good.partition) == (allowed.decode(), 3)
    assert bad.dead
    assert bad.content["code"] == "BAD_HEADER"
