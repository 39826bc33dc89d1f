"""The bundled models as Triton serves them: equal to a direct run, batched or not, and sensible."""

from __future__ import annotations

import asyncio
import io
import subprocess
import time
import wave
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pytest

from headrace.connectors.embedded.paths import cache_dir
from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.embedded.triton_env import environment_folder, executable, models_folder
from headrace.connectors.triton import TritonInferenceClient
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.ports import Array, InferCall, ModelSignature, TensorSpec

PHOTOS = Path(str(files("headrace") / "pipeline" / "demo" / "data" / "photos"))
PHOTO_FILES = sorted(PHOTOS.iterdir())
SPEECH_FILES = sorted(Path(str(files("headrace") / "pipeline" / "demo" / "data" / "speech")).glob("*.wav"))
DIRECT = Path(__file__).with_name("direct_models.py")
# Sums in another order (batching, padding, fused kernels) change the last bits of a float32.
TOLERANCE = 1e-5
TEXTS = [
    "A man is playing a guitar.",
    "Someone plays an instrument.",
    "The stock market fell sharply today.",
    "Share prices dropped a lot this afternoon.",
    "",
    "x",
    "Ünïcode ✓ 水車 and a rather longer sentence, with more words in it than any of the others have",
    "word " * 400,
]

Direct = Callable[[str, dict[str, Array]], dict[str, Array]]


@pytest.fixture
async def client(stack: Endpoints) -> AsyncIterator[TritonInferenceClient]:
    client = TritonInferenceClient(stack.triton_grpc)
    yield client
    await client.close()


@pytest.fixture(scope="session")
def direct(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Direct:
    """Runs a task of ``direct_models.py`` in Triton's interpreter, on a native repository made for it."""
    python = executable(environment_folder(cache_dir()))
    repository = tmp_path_factory.mktemp("native") / "repository"
    setup = [str(python), str(models_folder() / "setup_models.py"), "--repository", str(repository), "--form", "native"]
    subprocess.run(setup, check=True, stdout=subprocess.DEVNULL)

    def run(task: str, inputs: dict[str, Array]) -> dict[str, Array]:
        buffer = io.BytesIO()
        np.savez(buffer, **inputs)  # type: ignore[arg-type] # its stub mixes the arrays' names up with its options
        done = subprocess.run([python, DIRECT, repository, task], input=buffer.getvalue(), stdout=subprocess.PIPE)
        assert done.returncode == 0
        return dict(np.load(io.BytesIO(done.stdout)))

    return run


def column(rows: list[bytes]) -> Array:
    array = np.empty((len(rows), 1), np.object_)
    array[:, 0] = rows
    return array


async def infer(client: TritonInferenceClient, model: str, **inputs: Array) -> dict[str, Array]:
    return dict((await client.infer(InferCall(model, "", inputs), 60)).outputs)


async def test_signatures_are_as_documented(client: TritonInferenceClient) -> None:
    def spec(text: str) -> TensorSpec:
        name, datatype, *shape = text.split()
        return TensorSpec(name, datatype, tuple(map(int, shape)))

    documented = {
        "text_embedding": (["TEXT BYTES 1"], ["EMBEDDING FP32 384"]),
        "image_jpeg": (["ENCODED BYTES 1"], ["LABELS BYTES 5", "SCORES FP32 5", "ERROR BYTES 1"]),
        "image_classification": (["IMAGE UINT8 224 224 3"], ["PROBS FP32 1000", "FEATURES FP32 1280"]),
        "audio_vad": (["AUDIO BYTES 1"], ["SEGMENTS FP32 -1 2", "SPEECH_SECONDS FP32 1", "ERROR BYTES 1"]),
        "identity": (["INPUT0 FP32 -1"], ["OUTPUT0 FP32 -1"]),
        "affine": (["X FP32 64"], ["Y FP32 16"]),
        "delay": (["INPUT0 FP32 -1"], ["OUTPUT0 FP32 -1"]),
    }
    for model, (inputs, outputs) in documented.items():
        expected = ModelSignature(model, "1", 64, tuple(map(spec, inputs)), tuple(map(spec, outputs)))
        assert await client.signature(model) == expected


REFUSALS = """
import sys
from pathlib import Path
import numpy
sys.path.insert(0, sys.argv[1])
from triton_models.serving.instance import Instance
from triton_models.serving.session import open_session
try:
    open_session(Instance(Path("."), "GPU", 0, {}))
except RuntimeError as error:
    print(error)
numpy.__version__ = "2.1.0"
try:
    Instance.of({})
except RuntimeError as error:
    print(error)
"""


def test_models_refuse_what_would_silently_be_wrong() -> None:
    """A GPU's model on the CPU, and numpy 2, with which this backend hands out zeros."""
    python = executable(environment_folder(cache_dir()))
    command = [str(python), "-c", REFUSALS, str(models_folder().parent)]
    no_gpu, no_numpy = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert "has no CUDA provider: install onnxruntime-gpu" in no_gpu
    assert "numpy 2.1.0: Triton's python backend needs numpy < 2" in no_numpy


async def test_text_embedding_equals_a_direct_run(client: TritonInferenceClient, direct: Direct) -> None:
    texts = [text.encode() for text in TEXTS]
    expected = direct("text", {"texts": column(texts)[:, 0]})
    assert np.abs(expected["graph"] - expected["pooled"]).max() < TOLERANCE
    together = (await infer(client, "text_embedding", TEXT=column(texts)))["EMBEDDING"]
    assert np.abs(together - expected["graph"]).max() < TOLERANCE
    calls = (infer(client, "text_embedding", TEXT=column([text])) for text in texts * 3)  # Triton batches these
    singles = np.concatenate([reply["EMBEDDING"] for reply in await asyncio.gather(*calls)])
    assert np.abs(singles - np.concatenate([expected["graph"]] * 3)).max() < TOLERANCE


async def test_text_embedding_finds_paraphrases(client: TritonInferenceClient) -> None:
    texts = [text.encode() for text in TEXTS[:4]]
    embedding = (await infer(client, "text_embedding", TEXT=column(texts)))["EMBEDDING"]
    similarity = embedding @ embedding.T
    assert np.allclose(np.diag(similarity), 1, atol=TOLERANCE)
    assert min(similarity[0, 1], similarity[2, 3]) > 0.5
    assert similarity[:2, 2:].max() < 0.2


async def test_text_embedding_takes_bytes_that_are_no_utf8(client: TritonInferenceClient) -> None:
    embedding = (await infer(client, "text_embedding", TEXT=column([b"\xff\xfe\x00", bytes(1_000_000)])))["EMBEDDING"]
    assert np.allclose(np.linalg.norm(embedding, axis=1), 1, atol=TOLERANCE)


def photo(name: str) -> bytes:
    return (PHOTOS / name).read_bytes()


async def test_image_models_equal_a_direct_run(client: TritonInferenceClient, direct: Direct) -> None:
    encoded = [path.read_bytes() for path in PHOTO_FILES]
    pixels = np.random.default_rng(3).integers(0, 256, (9, 224, 224, 3), np.uint8)
    expected = direct("image", {"pixels": pixels, "encoded": column(encoded)[:, 0]})
    served = await infer(client, "image_classification", IMAGE=pixels)
    assert np.abs(served["PROBS"] - expected["probs"]).max() < TOLERANCE
    assert np.abs(served["FEATURES"] - expected["features"]).max() < TOLERANCE
    calls = (infer(client, "image_jpeg", ENCODED=column([content])) for content in encoded)  # Triton batches these
    scores = np.concatenate([reply["SCORES"] for reply in await asyncio.gather(*calls)])
    assert np.abs(scores - -np.sort(-expected["encoded"], axis=1)[:, :5]).max() < TOLERANCE


@pytest.mark.parametrize(("name", "word"), [("cat.jpg", "cat"), ("coffee.jpg", "espresso"), ("camera.jpg", "tripod")])
async def test_image_jpeg_says_what_is_on_a_photo(client: TritonInferenceClient, name: str, word: str) -> None:
    reply = await infer(client, "image_jpeg", ENCODED=column([photo(name)]))
    assert reply["ERROR"].tolist() == [[b""]]
    assert word in reply["LABELS"][0, 0].decode()
    assert (np.diff(reply["SCORES"][0]) <= 0).all()


async def test_image_jpeg_takes_png(client: TritonInferenceClient) -> None:
    pixels = cv2.imread(str(PHOTOS / "cat.jpg"))
    assert pixels is not None
    png = cv2.imencode(".png", pixels)[1].tobytes()
    reply = await infer(client, "image_jpeg", ENCODED=column([photo("cat.jpg"), png]))
    assert reply["LABELS"][0].tolist() == reply["LABELS"][1].tolist()


async def test_image_jpeg_lets_a_corrupt_image_fail_alone(client: TritonInferenceClient) -> None:
    alone = await infer(client, "image_jpeg", ENCODED=column([photo("cat.jpg")]))
    cut = photo("coffee.jpg")[:5000]
    reply = await infer(client, "image_jpeg", ENCODED=column([b"no image", photo("cat.jpg"), cut, b""]))
    assert [bool(error) for error in reply["ERROR"][:, 0]] == [True, False, True, True]
    assert b"cut short" in reply["ERROR"][2, 0]
    assert reply["LABELS"][1].tolist() == alone["LABELS"][0].tolist()
    assert np.abs(reply["SCORES"][1] - alone["SCORES"][0]).max() < TOLERANCE
    assert not reply["SCORES"][[0, 2, 3]].any()


def rate_of(path: Path) -> int:
    with wave.open(str(path), "rb") as reader:
        return reader.getframerate()


def pcm(path: Path) -> Array:
    """Samples of a recording of the demo, mono of 16 bits."""
    with wave.open(str(path), "rb") as reader:
        assert (reader.getnchannels(), reader.getsampwidth()) == (1, 2)
        return np.frombuffer(reader.readframes(reader.getnframes()), "<i2")


def recordings() -> dict[str, Array]:
    """Ragged: speech with pauses of its own, noise, silence, and next to nothing."""
    speech = {}
    for path in SPEECH_FILES:
        if rate_of(path) == 16_000:
            speech[path.name] = pcm(path)
    silence = np.zeros(24_000, "<i2")
    noise = (np.random.default_rng(4).standard_normal(48_000) * 1000).astype("<i2")
    first, second, *_ = speech.values()
    spaced = np.concatenate([silence, first, silence, second, silence[:1234]])
    return {**speech, "silence": silence, "noise": noise, "spaced": spaced, "tiny": silence[:1]}


def rows_of(segments: Array) -> Array:
    return segments[~np.isnan(segments[:, 0])]


async def test_audio_vad_equals_a_direct_run(client: TritonInferenceClient, direct: Direct) -> None:
    given = recordings()
    expected = direct("audio", given)
    reply = await infer(client, "audio_vad", AUDIO=column([value.tobytes() for value in given.values()]))
    calls = (infer(client, "audio_vad", AUDIO=column([value.tobytes()])) for value in given.values())
    singles = await asyncio.gather(*calls)
    for row, (name, single) in enumerate(zip(given, singles, strict=True)):
        segments = rows_of(reply["SEGMENTS"][row])
        assert segments.shape == expected[name].shape, name
        assert np.abs(segments - expected[name]).max(initial=0) < TOLERANCE, name
        assert np.array_equal(segments, rows_of(single["SEGMENTS"][0])), name
        length = (segments[:, 1] - segments[:, 0]).sum()
        assert reply["SPEECH_SECONDS"][row, 0] == pytest.approx(length, abs=1e-4), name
    assert not reply["ERROR"].any()


async def test_audio_vad_tells_speech_from_noise(client: TritonInferenceClient) -> None:
    given = recordings()
    reply = await infer(client, "audio_vad", AUDIO=column([value.tobytes() for value in given.values()]))
    seconds = dict(zip(given, reply["SPEECH_SECONDS"][:, 0], strict=True))
    for name, value in given.items():
        if name.endswith(".wav"):
            assert seconds[name] > 0.5 * len(value) / 16_000, name
    assert seconds["silence"] == seconds["noise"] == seconds["tiny"] == 0
    first = rows_of(reply["SEGMENTS"][list(given).index("spaced")])[0]
    assert 1.4 < first[0] < 2.0  # a second and a half of silence goes before


async def test_audio_vad_finds_the_same_speech_at_every_rate(client: TritonInferenceClient) -> None:
    """The demo's recordings at other rates than the model's own."""
    other = [path for path in SPEECH_FILES if rate_of(path) != 16_000]
    assert {rate_of(path) for path in other} >= {8_000, 22_050}
    reply = await infer(client, "audio_vad", AUDIO=column([path.read_bytes() for path in other]))
    for row, path in enumerate(other):
        seconds = len(pcm(path)) / rate_of(path)
        assert 0.5 * seconds < reply["SPEECH_SECONDS"][row, 0] <= seconds


async def test_audio_vad_lets_a_broken_file_fail_alone(client: TritonInferenceClient) -> None:
    good = [path.read_bytes() for path in SPEECH_FILES[:2]]
    alone = await infer(client, "audio_vad", AUDIO=column([good[1]]))
    rows = [good[0][:-100], good[1], b"fLaC" + bytes(100), b"", bytes(32_000 * 601)]
    reply = await infer(client, "audio_vad", AUDIO=column(rows))
    errors = [error.decode() for error in reply["ERROR"][:, 0]]
    assert "cut short" in errors[0]
    assert errors[1] == ""
    assert "FLAC" in errors[2]
    assert "empty" in errors[3]
    assert "601.0 s" in errors[4]
    assert np.array_equal(rows_of(reply["SEGMENTS"][1]), rows_of(alone["SEGMENTS"][0]))
    assert np.isnan(reply["SPEECH_SECONDS"][[0, 2, 3, 4]]).all()
    assert all(len(rows_of(reply["SEGMENTS"][row])) == 0 for row in (0, 2, 3, 4))


@pytest.mark.parametrize("shape", [(1, 1), (64, 3), (2, 100_000), (1, 5_000_000)])
async def test_identity_gives_back_what_it_gets(client: TritonInferenceClient, shape: tuple[int, int]) -> None:
    given = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    assert np.array_equal((await infer(client, "identity", INPUT0=given))["OUTPUT0"], given)


async def test_affine_is_exact_and_keeps_rows_apart(client: TritonInferenceClient) -> None:
    given = np.random.default_rng(6).integers(-8, 9, (64, 64)).astype(np.float32)
    row, col = np.indices((64, 16))
    expected = given @ (((7 * row + 3 * col) % 11 - 5) / 8) + np.arange(16) / 4
    assert np.array_equal((await infer(client, "affine", X=given))["Y"], expected)
    calls = (infer(client, "affine", X=given[index : index + 1]) for index in range(64))  # Triton batches these
    assert np.array_equal(np.concatenate([reply["Y"] for reply in await asyncio.gather(*calls)]), expected)


async def test_delay_sleeps_without_holding_up_others(client: TritonInferenceClient) -> None:
    given = {"INPUT0": np.ones((1, 2), np.float32)}
    slow = asyncio.create_task(client.infer(InferCall("delay", "", given, {"delay_ms": 1500}), 10))
    await asyncio.wait([slow], timeout=0.2)
    quick = await asyncio.wait_for(client.infer(InferCall("delay", "", given), 10), 1.0)
    assert not slow.done()
    assert np.array_equal(quick.outputs["OUTPUT0"], given["INPUT0"])
    assert np.array_equal((await slow).outputs["OUTPUT0"], given["INPUT0"])


async def test_delay_sleeps_no_longer_than_it_is_told_to(client: TritonInferenceClient) -> None:
    given = {"INPUT0": np.ones((1, 2), np.float32)}
    until = time.time() + 0.5
    call = InferCall("delay", "", given, {"delay_ms": 600_000, "delay_until_ms": int(until * 1000)})
    for earliest in (until, 0.0):  # while it lasts, and when it is over
        await client.infer(call, 10)
        assert earliest - 0.001 <= time.time() < until + 5


@pytest.mark.parametrize("delay_ms", [-1, 600_001, "x", True])
async def test_delay_refuses_a_senseless_duration(client: TritonInferenceClient, delay_ms: int | str) -> None:
    given = {"INPUT0": np.ones((1, 2), np.float32)}
    with pytest.raises(PoisonError, match="must be a number from 0 to 600000"):
        await client.infer(InferCall("delay", "", given, {"delay_ms": delay_ms}), 10)
