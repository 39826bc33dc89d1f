"""Bad records among good ones: one dead letter each that says why and holds the record untouched."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.connectors.embedded.state import Endpoints
from tests.integration.avro_ends import (
    DATA,
    SCHEMAS,
    Position,
    audio,
    delayed,
    event,
    image,
    numbers,
    output_numbers,
    tensor,
    text,
)
from tests.integration.harness import Scene, Sent

JPEG = (DATA / "photos" / "cat.jpg").read_bytes()
WAV = (DATA / "speech" / "tea.wav").read_bytes()
HEADERS = (("x-mine", b"\x00\xff"), ("x-mine", None), ("correlation_id", b"order-7"), ("", b""))
MAX_MESSAGE_BYTES = 1024 * 1024
RAW_HEADER_PRODUCER = Path(__file__).with_name("raw_header_producer.py")


@pytest.fixture(scope="module")
def scene(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    prefix = f"worker-dead-letters.{stack.bootstrap_servers.rpartition(':')[2]}"
    topics = {"max_message_bytes": MAX_MESSAGE_BYTES}
    with Scene(stack, prefix, tmp_path_factory.mktemp("dead"), topics=topics) as scene:
        scene.worker()
        yield scene


def bad_values(scene: Scene) -> dict[tuple[str, str, int], bytes | None]:
    """By stage, code and number of infer attempts."""
    good = scene.value(event(text("good")))
    schema_id = struct.unpack_from(">I", good, 1)[0]
    result_schema = (SCHEMAS / "inference_result.avsc").read_text("utf-8")
    wrong_id = scene.registry.register_request_schema(f"{scene.group}.elsewhere", result_schema)
    holes = JPEG[:2000] + bytes(2000) + JPEG[4000:-4000]
    return {
        ("decode", "EMPTY_VALUE", 0): None,
        ("decode", "NOT_WIRE_FORMAT", 0): json.dumps({"text": "not Avro"}).encode(),
        ("decode", "UNKNOWN_SCHEMA", 0): struct.pack(">bI", 0, 2_000_000_000) + good[5:],
        ("decode", "WRONG_SCHEMA", 0): struct.pack(">bI", 0, wrong_id) + good[5:],
        ("decode", "CORRUPT", 0): good[: len(good) // 2],
        ("decode", "TRAILING_BYTES", 0): good + b"\x00",
        ("decode", "NO_PARTS", 0): scene.value(event()),
        ("decode", "BAD_ID", 0): struct.pack(">bI", 0, schema_id) + b"\x06abc" + good[5 + 37 :],
        ("route", "UNKNOWN_MODEL", 0): scene.value(event(text("good"), model="nobody")),
        ("prepare", "BAD_IMAGE", 0): scene.value(event(image(b"\xff\xd8\xff" + b"no picture" * 100))),
        ("prepare", "BAD_AUDIO", 0): scene.value(event(audio(WAV[:3000]))),
        ("prepare", "TENSOR_MISMATCH", 0): scene.value(event(tensor("INT64", [1], bytes(8)), model="affine")),
        ("infer", "MODEL_REJECTED", 1): scene.value(event(image(holes))),
        ("infer", "INVALID_INPUT", 1): scene.value(event(numbers(1), model="delay", parameters={"delay_ms": -1})),
        ("infer", "RETRIES_EXHAUSTED", 4): scene.value(
            event(numbers(1), model="delay", parameters={"fail": "INTERNAL"})
        ),
    }


def test_bad_records_become_dead_letters_and_their_neighbours_results(scene: Scene) -> None:
    bad = bad_values(scene)
    values: list[bytes | None] = []
    for index, value in enumerate(bad.values()):
        values += [scene.value(event(numbers(index))), value, scene.value(event(image(JPEG), text("beside it")))]
    sent = scene.send(values, headers=HEADERS, partition=0, key=lambda index: b"\x00key%d" % index if index else None)
    found = scene.settle(sent)
    answers = [found[each.position] for each in sent]

    neighbours = [answer for index, answer in enumerate(answers) if index % 3 != 1]
    assert [answer.content for answer in neighbours if answer.dead] == []
    assert [output_numbers(answer) for answer in answers[::3]] == [(index,) for index in range(len(bad))]

    letters = answers[1::3]
    assert [
        (each.content["stage"], each.content["code"], each.content["attempts"]) if each.dead else each.content
        for each in letters
    ] == list(bad)
    for record, letter in zip(sent[1::3], letters, strict=True):
        assert letter.topic == scene.dead_letters
        assert letter.key == record.key
        assert letter.content["key"] == record.key
        assert letter.content["value"] == record.value
        assert [(each["key"], each["value"]) for each in letter.content["headers"]] == list(record.headers)
        assert letter.content["omitted_bytes"] == 0
        assert letter.content["message"]
        assert letter.content["worker"] == f"{scene.group}-0"
        assert letter.header("dead_letter_code") == letter.content["code"].encode()
        assert letter.header("correlation_id") == b"order-7"


def test_event_near_the_limit_is_answered_or_told_that_its_result_is_too_large(scene: Scene) -> None:
    """Requests and results share a limit; a result needs room for its headers beside its value."""
    small_answer = event(text("a" * 60_000), *(text("b" * 60_000, f"part {index}") for index in range(15)))
    largest = (MAX_MESSAGE_BYTES - 1000) // 4
    echoed = event(tensor("FP32", [largest], bytes(4 * largest)), model="identity")
    whole = scene.value(echoed)
    assert MAX_MESSAGE_BYTES - 1000 < len(whole) < MAX_MESSAGE_BYTES - 500
    sent = scene.send([scene.value(small_answer), whole], key=lambda index: None)
    found = scene.settle(sent)
    first, second = (found[each.position] for each in sent)
    assert (first.dead, len(first.content["outputs"])) == (False, 16)
    assert (second.content["stage"], second.content["code"]) == ("encode", "RESULT_TOO_LARGE")
    assert second.content["value"] == whole
    assert second.content["route"] == "identity"


def test_record_whose_headers_cannot_be_read_is_a_dead_letter(scene: Scene) -> None:
    value = scene.value(event(text("good")))
    done = subprocess.run(
        [sys.executable, RAW_HEADER_PRODUCER, scene.endpoints.bootstrap_servers, scene.requests],
        input=value,
        env={**os.environ, "AIOKAFKA_NO_EXTENSIONS": "1"},
        capture_output=True,
        check=True,
        timeout=30,
    )
    partition, offset = map(int, done.stdout.split())
    sent = [
        Sent(Position(scene.requests, partition, offset), None, value, ()),
        *scene.send_events([event(text("beside"))]),
    ]
    found = scene.settle(sent)
    letter, beside = (found[each.position] for each in sent)
    assert (letter.content["stage"], letter.content["code"]) == ("decode", "BAD_HEADER")
    assert letter.content["value"] == value
    assert not beside.dead


def test_expired_deadline_makes_a_dead_letter_without_inference(scene: Scene) -> None:
    sent = scene.send_events([delayed(0)], headers=[("deadline", b"1000")])
    (letter,) = scene.settle(sent).values()
    assert (letter.content["stage"], letter.content["attempts"]) == ("admit", 0)
