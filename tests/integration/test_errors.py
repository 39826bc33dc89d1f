"""Errors of records, contents, answers and user code, provoked in a real worker, become what docs/errors.md says."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from confluent_kafka import Producer

from headrace.connectors.embedded.state import Endpoints
from headrace.pipeline.limits import MAX_HOPS, MAX_TEXT_BYTES
from tests.docs.error_table import SECTIONS
from tests.integration.avro_ends import DATA, SCHEMAS, Answer, Datum, audio, event, image, numbers, tensor, text
from tests.integration.error_checks import Letter, reason, rows, tells
from tests.integration.harness import Scene, WorkerProcess
from tests.unit.mp4_files import Mp4, plain

JPEG = (DATA / "photos" / "cat.jpg").read_bytes()
WAV = (DATA / "speech" / "tea.wav").read_bytes()
MAX_MESSAGE_BYTES = 2 * MAX_TEXT_BYTES
FRAMES = [plain(value) for value in (0, 100, 200)]
USER_CODE = """
import asyncio
from headrace import InferenceApp, Record, RejectError, RetriableError


async def misbehave(record: Record, where: str) -> None:
    match record.request.parameters.get(where):
        case "rejects":
            raise RejectError("TOO_ODD", "one is odd")
        case "retries":
            raise RetriableError("the lexicon does not answer")
        case "hangs":
            await asyncio.sleep(60)
        case "fails":
            raise KeyError("x")


def setup(app: InferenceApp) -> None:
    @app.before
    async def before(record: Record) -> None:
        await misbehave(record, "before")

    @app.after("echo")
    async def after(record: Record) -> None:
        await misbehave(record, "after")
"""


class Wrong(NamedTuple):
    """A record with which something is wrong."""

    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


class Running(NamedTuple):
    scene: Scene
    worker: WorkerProcess


@pytest.fixture(scope="module")
def running(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A worker that puts nothing off."""
    prefix = f"worker-errors.{stack.bootstrap_servers.rpartition(':')[2]}"
    folder = tmp_path_factory.mktemp("errors")
    (folder / "misbehaving.py").write_text(USER_CODE)
    quick = {"max_attempts": 2, "initial_backoff_seconds": 0.05, "max_backoff_seconds": 0.1}
    settings: dict[str, Any] = {
        "topics": {"max_message_bytes": MAX_MESSAGE_BYTES},
        "user_code": {"modules": ["misbehaving"], "timeout_seconds": 1.0},
        "routes": [
            {"name": "slow", "model": "delay", "match": {"type": ["slow"]}, "timeout_seconds": 0.3, "retries": quick},
            {"name": "delay", "model": "delay", "match": {"explicit": True}, "retries": quick},
            {"name": "echo", "model": "identity", "match": {"explicit": True}, "retries": quick},
            {
                "name": "chain",
                "model": "identity",
                "match": {"type": ["chain"]},
                "also_to": [{"topic": f"{prefix}.next", "write": "request", "parts": "tensors"}],
            },
            {
                "name": "numbers",
                "model": "identity",
                "match": {"modality": ["TENSOR"]},
                "reply_topics_allowed": [f"{prefix}.replies"],
            },
            {"name": "text", "model": "text_embedding", "match": {"modality": ["TEXT"], "source": ["/tests"]}},
            {"name": "image", "model": "image_jpeg", "match": {"modality": ["IMAGE"]}},
            {"name": "audio", "model": "audio_vad", "match": {"modality": ["AUDIO"]}},
            {"name": "video", "model": "image_jpeg", "match": {"modality": ["VIDEO"]}},
        ],
    }
    with Scene(stack, prefix, folder, **settings) as scene:
        yield Running(scene, scene.worker())


# --- dead letters ---------------------------------------------------------------------------------------------------


def part(modality: str, content: Any, content_type: str = "") -> Datum:
    return {"name": "p", "modality": modality, "content_type": content_type, "content": content}


def wrong_records(scene: Scene) -> dict[Letter, Wrong]:
    """By stage and code."""
    good = scene.value(event(text("good")))
    schema_id = struct.unpack_from(">I", good, 1)[0]
    result_schema = (SCHEMAS / "inference_result.avsc").read_text("utf-8")
    wrong_id = scene.registry.register_request_schema(f"{scene.group}.elsewhere", result_schema)

    def changed(*parts: Datum, **fields: Any) -> Wrong:
        return Wrong(scene.value({**event(*(parts or (text("good"),))), **fields}))

    broken_tensor = ("io.headrace.Tensor", {"datatype": "FP32", "shape": [2], "data": b"\0"})
    reference = ("io.headrace.Reference", {"uri": "", "size_bytes": 1, "sha256": bytes(32)})
    beyond = (("reply_topic", f"{scene.group}.replies".encode()), ("reply_partition", b"99"))
    largest = (MAX_MESSAGE_BYTES - 1000) // 4  # the request fits its topic, and the result has no room for its headers
    return {
        ("decode", "EMPTY_VALUE"): Wrong(None),
        ("decode", "NOT_WIRE_FORMAT"): Wrong(b'{"text": "not Avro"}'),
        ("decode", "UNKNOWN_SCHEMA"): Wrong(struct.pack(">bI", 0, 2_000_000_000) + good[5:]),
        ("decode", "WRONG_SCHEMA"): Wrong(struct.pack(">bI", 0, wrong_id) + good[5:]),
        ("decode", "CORRUPT"): Wrong(good[: len(good) // 2]),
        ("decode", "TRAILING_BYTES"): Wrong(good + b"\0"),
        ("decode", "BAD_ID"): Wrong(struct.pack(">bI", 0, schema_id) + b"\x06abc" + good[5 + 37 :]),
        ("decode", "BAD_TIME"): changed(time=2**62),
        ("decode", "BAD_FIELD"): changed(source=""),
        ("decode", "NO_PARTS"): Wrong(scene.value(event())),
        ("decode", "TOO_MANY_PARTS"): changed(*(text("good", str(number)) for number in range(257))),
        ("decode", "TOO_MANY_PARAMETERS"): changed(parameters={str(number): 1 for number in range(257)}),
        ("decode", "BAD_PART_NAME"): changed(text("one"), text("another")),
        ("decode", "BAD_CONTENT_TYPE"): changed(part("TEXT", "good", "a" * 1025)),
        ("decode", "UNKNOWN_MODALITY"): changed(part("UNKNOWN", "good")),
        ("decode", "NO_CONTENT"): changed(part("TEXT", None)),
        ("decode", "BAD_TENSOR"): changed(part("TENSOR", broken_tensor)),
        ("decode", "BAD_REFERENCE"): changed(part("TEXT", reference)),
        ("decode", "BAD_HEADER"): Wrong(good, (("deadline", b"tomorrow"),)),
        ("route", "NO_ROUTE"): changed(source="/elsewhere"),
        ("route", "UNKNOWN_MODEL"): changed(model="nobody"),
        ("route", "VERSION_WITHOUT_MODEL"): changed(model_version="1"),
        ("route", "BAD_VERSION"): changed(model="text_embedding", model_version="latest"),
        ("route", "BAD_HEADER"): Wrong(scene.value(event(numbers(1))), beyond),
        ("admit", "DEADLINE_EXCEEDED"): Wrong(good, (("deadline", b"1000"),)),
        ("encode", "RESULT_TOO_LARGE"): changed(tensor("FP32", [largest], bytes(4 * largest))),
        ("encode", "TOO_MANY_HOPS"): changed(numbers(1), type="chain")._replace(headers=(("hops", b"%d" % MAX_HOPS),)),
    }


def wrong_contents(scene: Scene) -> dict[tuple[str, str], Wrong]:
    """By kind of part and code."""

    def of(modality: str, content: Any, content_type: str = "") -> Wrong:
        return Wrong(scene.value(event(part(modality, content, content_type))))

    def tensor_of(made: Datum, model: str) -> Wrong:
        return Wrong(scene.value(event(made, model=model)))

    reference = ("io.headrace.Reference", {"uri": "s3://bucket/key", "size_bytes": 5, "sha256": bytes(32)})
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 20_000, 30) + bytes(9)
    mp4 = Mp4(FRAMES).content()
    return {
        ("any part", "REFERENCE_UNSUPPORTED"): of("IMAGE", reference),
        ("any part", "MODALITY_MISMATCH"): Wrong(scene.value(event(text("words"), model="identity"))),
        ("tensor", "BAD_CONTENT"): of("TENSOR", b"\0\0\0\0"),
        ("tensor", "TENSOR_MISMATCH"): tensor_of(tensor("INT64", [1], bytes(8)), "identity"),
        ("text", "EMPTY_CONTENT"): of("TEXT", ""),
        ("text", "UNSUPPORTED_CONTENT_TYPE"): of("TEXT", "words", "text/plain; charset=latin-1"),
        ("text", "BAD_TEXT"): of("TEXT", b"\xff\xfe"),
        ("text", "TOO_LARGE"): of("TEXT", "x" * (MAX_TEXT_BYTES + 1)),
        ("image", "BAD_CONTENT"): of("IMAGE", "words"),
        ("image", "EMPTY_CONTENT"): of("IMAGE", b""),
        ("image", "UNSUPPORTED_CONTENT_TYPE"): of("IMAGE", JPEG, "image/gif"),
        ("image", "CONTENT_TYPE_MISMATCH"): of("IMAGE", JPEG, "image/png"),
        ("image", "BAD_IMAGE"): of("IMAGE", b"\xff\xd8\xff" + b"no picture" * 100),
        ("image", "TOO_LARGE"): of("IMAGE", png),
        ("audio", "BAD_CONTENT"): of("AUDIO", "words"),
        ("audio", "EMPTY_CONTENT"): of("AUDIO", b""),
        ("audio", "UNSUPPORTED_CONTENT_TYPE"): of("AUDIO", WAV, "audio/flac"),
        ("audio", "CONTENT_TYPE_MISMATCH"): of("AUDIO", WAV, "audio/pcm"),
        ("audio", "BAD_AUDIO"): Wrong(scene.value(event(audio(WAV[:3000])))),
        ("video", "BAD_CONTENT"): of("VIDEO", "words"),
        ("video", "EMPTY_CONTENT"): of("VIDEO", b""),
        ("video", "UNSUPPORTED_CONTENT_TYPE"): of("VIDEO", mp4, "video/webm"),
        ("video", "BAD_VIDEO"): of("VIDEO", Mp4(FRAMES, reference=b"url file:///etc/hostname\0").content()),
        ("video", "VIDEO_TRUNCATED"): of("VIDEO", mp4[:-300]),
        ("video", "VIDEO_EMPTY"): of("VIDEO", Mp4([]).content()),
        ("video", "VIDEO_TOO_LARGE"): of("VIDEO", Mp4(FRAMES, size=(9000, 9000)).content()),
        ("video", "VIDEO_TOO_LONG"): of("VIDEO", Mp4(FRAMES, ticks=[10**6] * 3).content()),
        ("video", "UNSUPPORTED_CODEC"): of("VIDEO", Mp4(FRAMES, codec=b"av01").content()),
    }


def wrong_answers(scene: Scene) -> dict[Letter, Wrong]:
    """Of models, by stage and code."""
    holes = JPEG[:2000] + bytes(2000) + JPEG[4000:-4000]
    slow = {**event(numbers(1), parameters={"delay_ms": 2000}), "type": "slow"}
    version = {**event(numbers(1), model="identity"), "model_version": "7"}
    return {
        ("infer", "MODEL_REJECTED"): Wrong(scene.value(event(image(holes)))),
        ("infer", "RETRIES_EXHAUSTED"): Wrong(scene.value(slow)),
        ("infer", "MODEL_NOT_FOUND"): Wrong(scene.value(version)),
        ("infer", "INVALID_INPUT"): Wrong(
            scene.value(event(numbers(1), model="delay", parameters={"delay_ms": -1})),
        ),
        ("infer", "MODEL_UNAVAILABLE"): Wrong(
            scene.value(event(numbers(1), model="delay", parameters={"fail": "UNAVAILABLE"})),
        ),
    }


def settled(scene: Scene, wrongs: Sequence[Wrong]) -> list[Answer]:
    """What each comes to. Events with which nothing is wrong are among them, and answered."""
    plain_values = [wrong.value for wrong in wrongs if not wrong.headers]
    good = [scene.value(event(numbers(number))) for number in range(len(plain_values))]
    mixed = scene.send([value for pair in zip(plain_values, good, strict=True) for value in pair], partition=0)
    bare = iter(mixed[::2])
    sent = [
        scene.send([wrong.value], headers=wrong.headers, partition=0)[0] if wrong.headers else next(bare)
        for wrong in wrongs
    ]
    answers = scene.settle([*sent, *mixed[1::2]])
    assert [each for each in mixed[1::2] if answers[each.position].dead] == []
    return [answers[each.position] for each in sent]


def test_wrong_records_contents_and_answers_become_the_dead_letters_of_their_rows(running: Running) -> None:
    scene, worker = running
    records, contents, answers = wrong_records(scene), wrong_contents(scene), wrong_answers(scene)
    told = {row.letter for row in rows("The record", "Routes and deadlines", "Results", "Models")}
    assert records.keys() | answers.keys() <= told
    by_name = {(row.name, row.letter[1]): row.letter for row in rows("Contents") if row.letter}
    expected = [*records, *(by_name[each] for each in contents), *answers]
    found = settled(scene, [*records.values(), *contents.values(), *answers.values()])
    assert [reason(each) for each in found] == expected
    tells(worker, found)
    assert worker.metric('headrace_infer_calls_total{outcome="retry",route="slow"}') == 2
    assert worker.metric('headrace_infer_calls_total{outcome="unavailable",route="delay"}') >= 1
    assert worker.metric('headrace_infer_calls_total{outcome="poison",route="delay"}') >= 1
    assert "route delay: waiting for model delay: " in worker.log


def test_value_that_unpacks_to_more_than_is_allowed_becomes_the_dead_letter_of_its_row(running: Running) -> None:
    """The broker counts compressed bytes."""
    scene = running.scene
    (row,) = (row for row in SECTIONS["The record"] if row.letter == ("decode", "TOO_LARGE"))
    value = scene.value(event(text("x" * (MAX_MESSAGE_BYTES + 1))))
    packed = {"compression.type": "gzip", "message.max.bytes": 2 * len(value)}
    producer = Producer({"bootstrap.servers": scene.endpoints.bootstrap_servers, **packed})
    producer.produce(scene.requests, value, partition=0)
    assert producer.flush(30) == 0
    before = len(scene.answers)
    scene.read_until(before + 1)
    assert reason(scene.answers[-1]) == row.letter


MISBEHAVED = {
    "rejects": "headrace.RejectError",
    "retries": "headrace.RetriableError",
    "hangs": "time-out",
    "fails": "any other exception",
}


@pytest.mark.parametrize("where", ["before", "after"])
def test_user_code_that_misbehaves_costs_its_record_what_its_row_says(running: Running, where: str) -> None:
    scene = running.scene
    by_name = {row.name: row for row in SECTIONS["Your own code"]}
    events = [event(numbers(1), model="identity", parameters={where: how}) for how in MISBEHAVED]
    found = settled(scene, [Wrong(scene.value(each)) for each in events])
    for name, answer in zip(MISBEHAVED.values(), found, strict=True):
        stage, code = reason(answer)
        letter = by_name[name].letter
        assert letter is not None
        assert (stage, code) == (letter[0], "TOO_ODD" if name == "headrace.RejectError" else letter[1])
