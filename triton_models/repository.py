"""Renders a model repository: templates, what the models run, and weights.

Two forms of the same public models. ``python`` runs wherever the python backend does, with ONNX Runtime inside the
models. ``native`` is for NVIDIA's image, whose own ONNX backend runs the graphs.
"""

from __future__ import annotations

import argparse
import enum
import fcntl
import hashlib
import json
import os
import shutil
import string
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import weights

HERE = Path(__file__).resolve().parent
MANIFEST = "manifest.json"
_MANIFEST_KEYS = frozenset({"form", "placement", "sources", "files"})


class Form(enum.StrEnum):
    PYTHON = "python"
    NATIVE = "native"


class Placement(enum.StrEnum):
    CPU = "cpu"
    CUDA = "cuda"


_KIND = {Placement.CPU: "KIND_CPU", Placement.CUDA: "KIND_GPU"}


@dataclass(frozen=True, slots=True)
class Model:
    """One model of the repository.

    Attributes:
        config: folder of its ``config.pbtxt`` template.
        code: folder of its ``1/model.py``, None if a backend runs its graph or it is an ensemble.
        files: names in its version folder, and the artifacts they hold.
    """

    name: str
    config: str
    code: str | None
    files: tuple[tuple[str, str], ...] = ()


def _python(name: str, *files: tuple[str, str]) -> Model:
    return Model(name, name, name, files)


_ONNX = "model.onnx"
_PLAIN = (_python("identity"), _python("affine"), _python("delay"))
MODELS: dict[Form, tuple[Model, ...]] = {
    Form.PYTHON: (
        *_PLAIN,
        _python("text_embedding", (_ONNX, "minilm.onnx"), ("tokenizer.json", "tokenizer.json")),
        _python("image_classification", (_ONNX, "efficientnet_lite0.onnx")),
        _python("image_jpeg", (_ONNX, "efficientnet_lite0.onnx"), ("labels.json", "labels.json")),
        _python("audio_vad", (_ONNX, "silero_vad.onnx")),
    ),
    Form.NATIVE: (
        *_PLAIN,
        Model("text_embedding", "native/text_embedding", None),
        Model("text_tokenizer", "native/text_tokenizer", "native/text_tokenizer", (("tokenizer.json",) * 2,)),
        Model("text_encoder", "native/text_encoder", None, ((_ONNX, "minilm.onnx"),)),
        Model("image_classification", "native/image_classification", None, ((_ONNX, "efficientnet_lite0.onnx"),)),
        Model("image_jpeg", "native/image_jpeg", "image_jpeg", (("labels.json", "labels.json"),)),
        Model("audio_vad", "native/audio_vad", "audio_vad"),
        Model("silero_vad", "native/silero_vad", None, ((_ONNX, "silero_vad.onnx"),)),
    ),
}
EXTRAS: dict[str, tuple[Model, ...]] = {
    "content_type": (
        _python("content_type", (_ONNX, "magika.onnx"), ("config.json", "magika.json"), ("kinds.json", "kinds.json")),
    ),
    "speech_to_text": (
        _python(
            "speech_to_text",
            ("model.bin", "whisper.bin"),
            ("config.json", "whisper.json"),
            ("tokenizer.json", "whisper_tokenizer.json"),
            ("vocabulary.txt", "whisper_vocabulary.txt"),
            (_ONNX, "silero_vad.onnx"),
        ),
    ),
}
"""Optional models, each a repository of its own. Python models in either form: they bring their own runtime."""
PUBLIC_MODELS = tuple(model.name for model in MODELS[Form.PYTHON])


def _efficientnet() -> bytes:
    from . import efficientnet  # here, because onnx is needed for nothing else

    built = efficientnet.build(weights.read(weights.EFFICIENTNET_LITE0))
    weights.require_sha256("the built efficientnet_lite0.onnx", built, efficientnet.SHA256)
    return built


def _minilm() -> bytes:
    from . import minilm

    built = minilm.build(weights.read(weights.MINILM))
    weights.require_sha256("the built minilm.onnx", built, minilm.SHA256)
    return built


def _labels() -> bytes:
    """A JSON array of the classes' names, each the first of its synonyms."""
    synonyms: dict[str, str] = json.loads(weights.read(weights.IMAGENET_NAMES))
    return json.dumps([synonyms[str(index)].split(",")[0] for index in range(len(synonyms))], indent=1).encode()


ARTIFACTS: dict[str, Callable[[], bytes]] = {
    "efficientnet_lite0.onnx": _efficientnet,
    "minilm.onnx": _minilm,
    "tokenizer.json": lambda: weights.read(weights.TOKENIZER),
    "labels.json": _labels,
    "silero_vad.onnx": lambda: weights.read(weights.SILERO_VAD),
    "magika.onnx": lambda: weights.read(weights.MAGIKA),
    "magika.json": lambda: weights.read(weights.MAGIKA_CONFIG),
    "kinds.json": lambda: weights.read(weights.MAGIKA_KINDS),
    "whisper.bin": lambda: weights.read(weights.WHISPER),
    "whisper.json": lambda: weights.read(weights.WHISPER_CONFIG),
    "whisper_tokenizer.json": lambda: weights.read(weights.WHISPER_TOKENIZER),
    "whisper_vocabulary.txt": lambda: weights.read(weights.WHISPER_VOCABULARY),
}


def render_config(folder: str, placement: Placement) -> str:
    """The text of a model's ``config.pbtxt``.

    A template's ``$kind`` becomes the kind of its instance groups; models without one stay on the CPU.
    """
    template = string.Template((HERE / folder / "config.pbtxt").read_text(encoding="utf-8"))
    return template.substitute(kind=_KIND[placement])


def sources_digest(form: Form, placement: Placement, extra: str | None) -> str:
    """Changes whenever the rendered repository would."""
    digest = hashlib.sha256(f"{form} {placement} {extra}".encode())
    for path in sorted(HERE.rglob("*")):
        if path.suffix in {".py", ".pbtxt"}:
            digest.update(path.relative_to(HERE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def is_current(repository: Path, digest: str) -> bool:
    """True if the repository was rendered from these sources and none of its files has changed since."""
    manifest = _manifest(repository)
    if manifest is None or manifest["sources"] != digest:
        return False
    return bool(manifest["files"].items() <= _hashes(repository).items())


def _manifest(repository: Path) -> dict[str, Any] | None:
    """What this program wrote of a repository; None if it did not: many programs call a file of theirs a manifest."""
    try:
        manifest = json.loads((repository / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    ours = isinstance(manifest, dict) and manifest.keys() >= _MANIFEST_KEYS and isinstance(manifest["files"], dict)
    return manifest if ours else None


def _hashes(repository: Path) -> dict[str, str]:
    files = (path for path in repository.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {
        path.relative_to(repository).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
        if path.suffix != ".pyc"
    }


def render(repository: Path, form: Form, placement: Placement, extra: str | None = None) -> bool:
    """Makes ``repository`` hold exactly the bundled models of this form, or one extra's; False if it already did.

    It is written beside its place and then moved there, so a crash never leaves half of one.

    Raises:
        SetupError: if weights are missing or not the pinned ones.
    """
    repository = repository.resolve()
    repository.parent.mkdir(parents=True, exist_ok=True)
    digest = sources_digest(form, placement, extra)
    with _locked(repository):
        if is_current(repository, digest):
            return False
        with tempfile.TemporaryDirectory(prefix=f".{repository.name}.", dir=repository.parent) as scratch:
            fresh, old = Path(scratch, "fresh"), Path(scratch, "old")
            _write(fresh, EXTRAS[extra] if extra else MODELS[form], placement)
            manifest = {"form": form, "placement": placement, "sources": digest, "files": _hashes(fresh)}
            (fresh / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            if repository.exists():
                _refuse_foreign(repository)
                repository.rename(old)
            fresh.rename(repository)
    return True


def _refuse_foreign(repository: Path) -> None:
    if any(repository.iterdir()) and _manifest(repository) is None:
        raise weights.SetupError(f"{repository} is not empty and was not made by this program: choose another folder")


@contextmanager
def _locked(repository: Path) -> Iterator[None]:
    """One at a time for one repository; the lock goes with the process."""
    handle = os.open(repository.parent / f".{repository.name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write(repository: Path, models: Sequence[Model], placement: Placement) -> None:
    made: dict[str, bytes] = {}
    for model in models:
        version = repository / model.name / "1"
        version.mkdir(parents=True)
        config = render_config(model.config, placement)
        (version.parent / "config.pbtxt").write_text(config, encoding="utf-8")
        if model.code is not None:
            shutil.copyfile(HERE / model.code / "1" / "model.py", version / "model.py")
            shutil.copytree(HERE / "serving", version / "serving", ignore=shutil.ignore_patterns("__pycache__"))
        for name, artifact in model.files:
            if artifact not in made:
                made[artifact] = ARTIFACTS[artifact]()
            (version / name).write_bytes(made[artifact])
        print(f"  {model.name}: {', '.join(path.name for path in sorted(version.iterdir())) or 'ensemble'}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="setup_models.py", description="Render a ready-to-serve model repository.")
    parser.add_argument(
        "--repository", type=Path, required=True, metavar="DEST", help="folder to make or bring up to date"
    )
    parser.add_argument("--placement", type=Placement, choices=list(Placement), default=Placement.CPU)
    parser.add_argument(
        "--form",
        type=Form,
        choices=list(Form),
        default=Form.PYTHON,
        help="native: for NVIDIA's image (default: python)",
    )
    parser.add_argument(
        "--extra", choices=sorted(EXTRAS), help="an optional model instead of the bundled ones, for a folder of its own"
    )
    options = parser.parse_args()
    try:
        changed = render(options.repository, options.form, options.placement, options.extra)
    except weights.SetupError as error:
        print(f"setup_models: {error}", file=sys.stderr)
        return 1
    state = "rendered" if changed else "already up to date"
    print(f"{options.repository}: {state} ({options.extra or options.form + ' form'}, {options.placement})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
