"""The native form gives the answers of the python form: its graphs, its ensemble, and its models that ask others.

The embedded server has no ONNX backend; ``onnx_backend.py`` plays it. NVIDIA's image has the real one.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from headrace.connectors.embedded.paths import cache_dir
from headrace.connectors.embedded.ports import PortReservation
from headrace.connectors.embedded.progress import Progress
from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.embedded.triton import TritonServer
from headrace.connectors.embedded.triton_env import TritonInterpreter, ensure_interpreter, models_folder
from headrace.connectors.triton import TritonInferenceClient
from headrace.pipeline.ports import Array, InferCall
from headrace.triton_models.repository import PUBLIC_MODELS

DATA = Path(str(files("headrace") / "pipeline" / "demo" / "data"))
PHOTOS = [path.read_bytes() for path in sorted((DATA / "photos").iterdir())]
RECORDINGS = [path.read_bytes() for path in sorted((DATA / "speech").iterdir())]
TOLERANCE = 1e-5


def native_repository(interpreter: TritonInterpreter, folder: Path) -> Path:
    """The native form, with its ONNX backend played."""
    setup = [str(interpreter.python), str(models_folder() / "setup_models.py"), "--repository", str(folder)]
    subprocess.run([*setup, "--form", "native"], check=True, stdout=subprocess.DEVNULL)
    for config in folder.glob("*/config.pbtxt"):
        text = config.read_text(encoding="utf-8")
        if 'backend: "onnxruntime"' in text:
            config.write_text(text.replace('backend: "onnxruntime"', 'backend: "python"'), encoding="utf-8")
            shutil.copy(Path(__file__).with_name("onnx_backend.py"), config.parent / "1" / "model.py")
    return folder


@pytest.fixture(scope="module")
def native_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("native")
    interpreter = ensure_interpreter(cache_dir(), Progress())
    repository = native_repository(interpreter, folder / "models")
    with PortReservation() as ports:
        server = TritonServer(
            folder / "triton",
            interpreter,
            repository,
            http_port=ports.take(),
            grpc_port=ports.take(),
            metrics_port=ports.take(),
        )
        try:
            server.start()
            yield server.grpc
        finally:
            server.kill()


@pytest.fixture
async def native(native_triton: str) -> AsyncIterator[TritonInferenceClient]:
    client = TritonInferenceClient(native_triton)
    yield client
    await client.close()


@pytest.fixture
async def python(stack: Endpoints) -> AsyncIterator[TritonInferenceClient]:
    client = TritonInferenceClient(stack.triton_grpc)
    yield client
    await client.close()


def column(rows: list[bytes]) -> Array:
    array = np.empty((len(rows), 1), np.object_)
    array[:, 0] = rows
    return array


INPUTS: dict[str, dict[str, Array]] = {
    "text_embedding": {"TEXT": column([b"", b"a river turns the mill", "ünïcode".encode(), b"word " * 400])},
    "image_classification": {"IMAGE": np.random.default_rng(7).integers(0, 256, (5, 224, 224, 3), np.uint8)},
    "image_jpeg": {"ENCODED": column([*PHOTOS, b"", PHOTOS[0][:1000]])},
    "audio_vad": {"AUDIO": column([*RECORDINGS, b"", RECORDINGS[0][:1000], bytes(32_000 * 40)])},
    "identity": {"INPUT0": np.random.default_rng(8).standard_normal((3, 7)).astype(np.float32)},
    "affine": {"X": np.random.default_rng(9).standard_normal((3, 64)).astype(np.float32)},
    "delay": {"INPUT0": np.random.default_rng(10).standard_normal((3, 7)).astype(np.float32)},
}


def test_every_public_model_is_compared() -> None:
    assert set(INPUTS) == set(PUBLIC_MODELS)


@pytest.mark.parametrize("model", PUBLIC_MODELS)
async def test_native_form_answers_as_the_python_form(
    native: TritonInferenceClient, python: TritonInferenceClient, model: str
) -> None:
    assert await native.signature(model) == await python.signature(model)
    call = InferCall(model, "", INPUTS[model])
    expected = (await python.infer(call, 60)).outputs
    found = (await native.infer(call, 60)).outputs
    assert set(found) == set(expected)
    for name, value in expected.items():
        if value.dtype == np.object_:
            assert found[name].tolist() == value.tolist(), name
        else:
            assert np.allclose(found[name], value, rtol=0, atol=TOLERANCE, equal_nan=True), name
