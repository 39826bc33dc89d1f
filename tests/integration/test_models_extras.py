"""The optional models, on a stack of this module's own: equal to a direct run, sensible, and routes from end to end.

Their packages are downloaded if need be: without a package index these tests fail, and say what is missing.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from headrace.connectors.embedded.extras import packages_folder
from headrace.connectors.embedded.paths import cache_dir
from headrace.connectors.embedded.stack import Stack
from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.embedded.triton_env import environment_folder, probe
from headrace.connectors.triton import TritonInferenceClient
from headrace.pipeline.ports import Array, InferCall, ModelSignature, TensorSpec
from tests.integration.avro_ends import audio, event, image, output, text
from tests.integration.harness import Scene
from tests.integration.test_models import PHOTO_FILES, SPEECH_FILES, column, pcm, rate_of, rows_of

DIRECT = Path(__file__).with_name("direct_models.py")
REPOSITORY = Path(str(files("headrace"))).parent
SPOKEN = {
    "alarm.wav": "the alarm rang twice and then the lights went out",
    "bridge.wav": "cross the old bridge and turn left at the church",
    "harbour.wav": "three small boats came back to the harbour before the storm",
    "library.wav": "please return the books to the library by friday",
    "market.wav": "she sells fresh bread and apples at the market on saturday",
    "mill.wav": "the river turns the mill wheel all night long",
    "rain.wav": "heavy rain is expected across the hills tomorrow morning",
    "tea.wav": "would you like another cup of tea with your toast",
    "telephone.wav": "your call is important to us please stay on the line",
    "train.wav": "the last train leaves from platform nine at half past ten",
}
"""What a synthetic voice says in the demo's recordings."""
WORD_ERROR = 0.3
"""At most. The smallest Whisper has 0.2 to 0.25 on these voices, and well below 0.1 on people's."""

Direct = Callable[[str, dict[str, Array]], dict[str, Array]]


@pytest.fixture(scope="module")
def extras() -> Iterator[Endpoints]:
    with Stack(extras=["all"]) as stack:
        yield stack.endpoints


@pytest.fixture
async def client(extras: Endpoints) -> AsyncIterator[TritonInferenceClient]:
    client = TritonInferenceClient(extras.triton_grpc)
    yield client
    await client.close()


@pytest.fixture(scope="module")
def direct(extras: Endpoints) -> Direct:
    """Runs a task of ``direct_models.py`` in Triton's interpreter with the extras' packages."""
    interpreter = probe(environment_folder(cache_dir()))
    path = [str(packages_folder(cache_dir(), interpreter, name)) for name in ("content_type", "speech_to_text")]

    def run(task: str, inputs: dict[str, Array]) -> dict[str, Array]:
        buffer = io.BytesIO()
        np.savez(buffer, **inputs)  # type: ignore[arg-type] # its stub mixes the arrays' names up with its options
        done = subprocess.run(
            [interpreter.python, DIRECT, "-", task],
            input=buffer.getvalue(),
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": ":".join(path)},
        )
        assert done.returncode == 0
        return dict(np.load(io.BytesIO(done.stdout), allow_pickle=True))

    return run


async def infer(client: TritonInferenceClient, model: str, **inputs: Array) -> dict[str, Array]:
    return dict((await client.infer(InferCall(model, "", inputs), 120)).outputs)


async def test_signatures_are_as_documented(client: TritonInferenceClient) -> None:
    def specs(*texts: str) -> tuple[TensorSpec, ...]:
        parts = [text.split() for text in texts]
        return tuple(TensorSpec(name, datatype, tuple(map(int, shape))) for name, datatype, *shape in parts)

    assert await client.signature("speech_to_text") == ModelSignature(
        "speech_to_text",
        "1",
        8,
        specs("AUDIO BYTES 1"),
        specs("TEXT BYTES 1", "SEGMENTS FP32 -1 2", "SEGMENT_TEXTS BYTES -1", "ERROR BYTES 1"),
    )
    assert await client.signature("content_type") == ModelSignature(
        "content_type", "1", 64, specs("CONTENT BYTES 1"), specs("LABELS BYTES 3", "SCORES FP32 3", "MIME_TYPE BYTES 1")
    )


# --- speech to text


def words(spoken: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", spoken.lower().replace("harbor", "harbour"))


def word_errors(found: list[str], expected: list[str]) -> int:
    """The least number of words to insert, leave out or replace."""
    row = list(range(len(found) + 1))
    for index, word in enumerate(expected, 1):
        previous, row[0] = row[0], index
        for at, other in enumerate(found, 1):
            previous, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, previous + (word != other))
    return row[-1]


def contents() -> list[bytes]:
    return [path.read_bytes() for path in SPEECH_FILES]


async def transcripts(client: TritonInferenceClient, rows: list[bytes]) -> list[str]:
    batches = [rows[start : start + 8] for start in range(0, len(rows), 8)]
    replies = [await infer(client, "speech_to_text", AUDIO=column(batch)) for batch in batches]
    assert not any(reply["ERROR"].any() for reply in replies)
    return [value.decode() for reply in replies for value in reply["TEXT"][:, 0].tolist()]


async def test_speech_equals_a_direct_run_batched_or_not(client: TritonInferenceClient, direct: Direct) -> None:
    given = {path.name: pcm(path) for path in SPEECH_FILES[:6] if rate_of(path) == 16_000}
    expected = {name: value.item().decode() for name, value in direct("speech", given).items()}
    together = await transcripts(client, [samples.tobytes() for samples in given.values()])
    found = dict(zip(given, together, strict=True))
    # The direct run's spectrum is in double precision: where two beams are as good as equal, it depends on the CPU's
    # kernels for 8-bit numbers which one wins.
    differing = [name for name in given if found[name] != expected[name]]
    assert len(differing) <= 1, (found, expected)
    calls = (transcripts(client, [samples.tobytes()]) for samples in given.values())  # Triton batches these
    assert [row for rows in await asyncio.gather(*calls) for row in rows] == together


async def test_speech_is_understood(client: TritonInferenceClient) -> None:
    found = dict(zip([path.name for path in SPEECH_FILES], await transcripts(client, contents()), strict=True))
    errors = {name: word_errors(words(found[name]), words(spoken)) for name, spoken in SPOKEN.items()}
    total = sum(len(words(spoken)) for spoken in SPOKEN.values())
    print(f"word error {sum(errors.values()) / total:.3f}: {errors}")
    assert sum(errors.values()) / total < WORD_ERROR, found
    assert errors["mill.wav"] == 0


async def test_nothing_is_heard_in_silence_noise_and_next_to_nothing(client: TritonInferenceClient) -> None:
    random = np.random.default_rng(4)
    hum = (3000 * np.sin(2 * np.pi * 100 * np.arange(80_000) / 16_000)).astype("<i2")
    rows = {
        "silence": np.zeros(16_000 * 40, "<i2"),
        "quiet noise": (random.standard_normal(16_000 * 5) * 30).astype("<i2"),
        "noise": (random.standard_normal(16_000 * 35) * 3000).astype("<i2"),
        "hum": hum,
        "one sample": np.zeros(1, "<i2"),
    }
    assert await transcripts(client, [samples.tobytes() for samples in rows.values()]) == [""] * len(rows)


async def test_segments_of_a_long_recording_say_what_is_said_when(client: TritonInferenceClient) -> None:
    """More than two windows, with pauses: each sentence within its own stretch, whatever the windows cut."""
    clear = ["mill.wav", "bridge.wav", "library.wav"]
    clips = {path.name: pcm(path) for path in SPEECH_FILES if path.name in clear}
    pause = np.zeros(16_000 * 6, "<i2")
    order = [clear[index % 3] for index in range(8)]
    stretches, pieces, at = [], [], 0.0
    for name in order:
        stretches.append((at, at + len(clips[name]) / 16_000))
        pieces += [clips[name], pause]
        at += (len(clips[name]) + len(pause)) / 16_000
    reply = await infer(client, "speech_to_text", AUDIO=column([np.concatenate(pieces).tobytes(), contents()[0]]))
    spans = rows_of(reply["SEGMENTS"][0])
    texts = [value.decode() for value in reply["SEGMENT_TEXTS"][0].tolist()]
    assert len(spans) == sum(map(bool, texts))
    assert reply["TEXT"][0, 0].decode() == " ".join(texts).strip()
    assert (np.diff(spans.reshape(-1)) >= 0).all()
    for name, (start, end) in zip(order, stretches, strict=True):
        heard = [text for (begin, finish), text in zip(spans, texts, strict=False) if begin < end and finish > start]
        assert word_errors(words(" ".join(heard)), words(SPOKEN[name])) <= 3, (name, start, heard)
    assert len(rows_of(reply["SEGMENTS"][1])) == 1  # filled up with NaN


async def test_broken_recording_fails_alone(client: TritonInferenceClient) -> None:
    [alone] = await transcripts(client, contents()[1:2])
    rows = [contents()[0][:-100], contents()[1], b"fLaC" + bytes(100), b"", bytes(32_000 * 301)]
    reply = await infer(client, "speech_to_text", AUDIO=column(rows))
    errors = [error.decode() for error in reply["ERROR"][:, 0].tolist()]
    assert [bool(error) for error in errors] == [True, False, True, True, True]
    for error, reason in zip(errors, ("cut short", "", "FLAC", "empty", "301.0 s"), strict=True):
        assert reason in error
    assert reply["TEXT"][:, 0].tolist() == [b"", alone.encode(), b"", b"", b""]


# --- content type


def samples() -> dict[str, bytes]:
    """Files of many kinds, some of them from this repository."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.txt", "water " * 500)
    random = np.random.default_rng(5)
    return {
        **{path.name: path.read_bytes() for path in PHOTO_FILES},
        **{path.name: path.read_bytes() for path in SPEECH_FILES[:3]},
        **{path.name: path.read_bytes() for path in sorted((REPOSITORY / "pipeline").glob("*.py"))[:10]},
        **{path.name: path.read_bytes() for path in sorted((REPOSITORY / "schemas").glob("*.avsc"))},
        **{path.name: path.read_bytes() for path in sorted((REPOSITORY / "docs").glob("*.md"))},
        "zip": archive.getvalue(),
        "random": random.bytes(10_000),
        "short random": random.bytes(12),
        "empty": b"",
        "few": b"hi",
        "few bytes": b"\xff\xfe\x00",
        "white": b" \n" * 3_000,
        "padded": b" " * 100 + b"import os\nprint(os.name)\n" + b"\n" * 5_000,
        "html": b"<!DOCTYPE html><html><head><title>x</title></head><body><p>hello</p></body></html>",
        "csv": b"name,age\n" + b"ann,12\nben,15\n" * 40,
        "shell": b"#!/bin/sh\nset -e\nfor f in *.txt; do echo $f; done\n",
    }


async def kinds(client: TritonInferenceClient, rows: Array) -> dict[str, Array]:
    """All rows' outputs, asked for in requests of the model's largest batch."""
    largest = (await client.signature("content_type")).max_batch_size
    parts = np.split(rows, range(largest, len(rows), largest))
    replies = [await infer(client, "content_type", CONTENT=part) for part in parts]
    return {name: np.concatenate([reply[name] for reply in replies]) for name in replies[0]}


async def test_content_type_is_magikas_own_answer(client: TritonInferenceClient, direct: Direct) -> None:
    given = samples()
    rows = column(list(given.values()))
    expected = direct("kind", {"contents": rows[:, 0]})
    reply = await kinds(client, rows)
    assert [label.decode() for label in reply["LABELS"][:, 0].tolist()] == expected["labels"].tolist()
    assert [kind.decode() for kind in reply["MIME_TYPE"][:, 0].tolist()] == expected["mime_types"].tolist()
    # The package asks for one file at a time: sums in another order, through 2,048 embeddings.
    assert np.abs(reply["SCORES"][:, 0] - expected["scores"]).max() < 5e-4
    calls = (infer(client, "content_type", CONTENT=column([content])) for content in given.values())
    singles = await asyncio.gather(*calls)  # Triton batches these
    assert [each["LABELS"][0, 0] for each in singles] == reply["LABELS"][:, 0].tolist()


async def test_content_type_knows_common_files(client: TritonInferenceClient) -> None:
    given = samples()
    reply = await kinds(client, column(list(given.values())))
    found = {name: label.decode() for name, label in zip(given, reply["LABELS"][:, 0].tolist(), strict=True)}
    wanted = {"cat.jpg": "jpeg", "clock.png": "png", "alarm.wav": "wav", "zip": "zip", "html": "html", "shell": "shell"}
    assert {name: found[name] for name in wanted} == wanted
    assert {found[name] for name in given if name.endswith(".py")} == {"python"}
    assert (np.diff(reply["SCORES"], axis=1) <= 0).all()


# --- through a worker


def test_events_become_text_and_content_types(extras: Endpoints, tmp_path: Path) -> None:
    """With the default routes events name the model; with a route of its own none need to."""
    routes = [
        {
            "name": "kinds",
            "model": "content_type",
            "match": {"type": ["org.example.file"]},
            "video": {"sample": "none"},
        },
        {"name": "speech", "model": "speech_to_text", "match": {"modality": ["AUDIO"]}, "batch": {"max_records": 4}},
    ]
    mill = next(path for path in SPEECH_FILES if path.name == "mill.wav").read_bytes()
    python = b"import os\n\n\ndef name() -> str:\n    return os.name\n" * 5
    with Scene(extras, f"extras-{os.getpid()}", tmp_path, routes=routes) as scene:
        scene.worker()
        kinds = [
            {**event(image(python)), "type": "org.example.file"},
            {**event(audio(PHOTO_FILES[0].read_bytes())), "type": "org.example.file"},
            {
                **event(text("# A title\n\nSome *words* and a [link](https://example.org).\n")),
                "type": "org.example.file",
            },
        ]
        sent = scene.send_events([event(audio(mill)), event(audio(b"fLaC" + bytes(50))), *kinds])
        found = scene.settle(sent)
        spoken, refused, *files = (found[record.position] for record in sent)
    assert word_errors(words(output(spoken)["text"]), words(SPOKEN["mill.wav"])) == 0
    [segment] = output(spoken)["segments"]
    assert segment["text"] == output(spoken)["text"]
    assert 0 <= segment["start_seconds"] < segment["end_seconds"] <= 3
    assert refused.dead
    assert refused.content["stage"] == "prepare"  # the worker looks at headers before the model does
    assert [output(each)["labels"][0]["name"] for each in files] == ["python", "jpeg", "markdown"]
    [mime_type] = output(files[0])["tensors"]
    assert mime_type["name"] == "MIME_TYPE"


def test_default_routes_serve_extras_to_events_that_name_them(extras: Endpoints, tmp_path: Path) -> None:
    mill = next(path for path in SPEECH_FILES if path.name == "mill.wav").read_bytes()
    with Scene(extras, f"extras-default-{os.getpid()}", tmp_path) as scene:
        scene.worker()
        sent = scene.send_events(
            [event(audio(mill), model="speech_to_text"), event(audio(mill), model="content_type"), event(audio(mill))]
        )
        found = scene.settle(sent)
        spoken, kind, plain = (output(found[record.position]) for record in sent)
    assert (spoken["route"], kind["route"], plain["route"]) == ("speech-to-text", "content-type", "audio")
    assert words(spoken["text"]) == words(SPOKEN["mill.wav"])
    assert kind["labels"][0]["name"] == "wav"


# --- how they come


OFFLINE = """
import sys
def refuse(event, arguments):
    if event == "socket.getaddrinfo" or (event == "socket.connect" and isinstance(arguments[1], tuple)):
        raise SystemExit(f"went to the network: {arguments[:2]}")
sys.addaudithook(refuse)
from headrace.connectors.embedded.stack import Stack
for names in ((), ("content_type",), ("all",)):
    installed = Stack(extras=names).prepare()
    print(len(installed.extras), installed.repository, *(extra.repository for extra in installed.extras))
"""


@pytest.mark.usefixtures("extras")
def test_extras_are_cached_beside_what_every_stack_has_and_need_no_network_then() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        env={**os.environ, "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    none, one, both = (line.split() for line in done.stdout.splitlines())
    assert [none[0], one[0], both[0]] == ["0", "1", "2"]
    assert none[1] == one[1] == both[1]
    assert one[2] == both[2] != both[3]
    assert done.stderr == ""  # nothing is built again: that would be told
