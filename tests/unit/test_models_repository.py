import hashlib
import importlib.util
import io
import os
import pickle
import re
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from headrace.triton_models import repository, torch_file, weights
from headrace.triton_models.repository import EXTRAS, MODELS, PUBLIC_MODELS, Form, Placement

CPU, GPU = model_config_pb2.ModelInstanceGroup.KIND_CPU, model_config_pb2.ModelInstanceGroup.KIND_GPU
EXTRA_MODELS = tuple(model for models in EXTRAS.values() for model in models)
ALL = [(form, model) for form in Form for model in (*MODELS[form], *EXTRA_MODELS)]


def config(form: Form, name: str, placement: Placement = Placement.CPU) -> model_config_pb2.ModelConfig:
    model = next(model for model in (*MODELS[form], *EXTRA_MODELS) if model.name == name)
    return text_format.Parse(repository.render_config(model.config, placement), model_config_pb2.ModelConfig())


@pytest.mark.parametrize(("form", "model"), ALL, ids=[f"{form}-{model.name}" for form, model in ALL])
def test_every_config_is_one_that_triton_can_read(form: Form, model: repository.Model) -> None:
    found = config(form, model.name)
    assert found.name == model.name
    assert found.backend in {"python", "onnxruntime"} or found.platform == "ensemble"
    assert (found.backend == "python") == (model.code is not None)
    assert (found.backend == "onnxruntime") == (model.code is None and bool(model.files))


@pytest.mark.parametrize(("form", "model"), ALL, ids=[f"{form}-{model.name}" for form, model in ALL])
def test_no_config_has_a_queue_policy(form: Form, model: repository.Model) -> None:
    """With one, this version of Triton holds requests up for half a second."""
    batching = config(form, model.name).dynamic_batching
    assert not batching.HasField("default_queue_policy")
    assert not batching.priority_queue_policy


def test_every_public_model_batches_dynamically_except_delay() -> None:
    batching = {name for name in PUBLIC_MODELS if config(Form.PYTHON, name).HasField("dynamic_batching")}
    assert batching == set(PUBLIC_MODELS) - {"delay"}


@pytest.mark.parametrize("name", PUBLIC_MODELS)
def test_both_forms_have_the_same_signature(name: str) -> None:
    python, native = config(Form.PYTHON, name), config(Form.NATIVE, name)
    assert native.max_batch_size == python.max_batch_size
    assert list(native.input) == list(python.input)
    assert list(native.output) == list(python.output)


@pytest.mark.parametrize("name", [*PUBLIC_MODELS, *EXTRAS])
def test_every_public_model_has_one_input(name: str) -> None:
    assert len(config(Form.PYTHON, name).input) == 1


@pytest.mark.parametrize("form", Form)
def test_placement_moves_the_graphs_and_nothing_else(form: Form) -> None:
    on_gpu = {
        model.name
        for model in (*MODELS[form], *EXTRA_MODELS)
        if {group.kind for group in config(form, model.name, Placement.CUDA).instance_group} == {GPU}
    }
    assert on_gpu == {
        model.name
        for model in (*MODELS[form], *EXTRA_MODELS)
        if any(artifact.endswith(".onnx") for _, artifact in model.files)
    }
    for model in MODELS[form]:
        assert {group.kind for group in config(form, model.name, Placement.CPU).instance_group} <= {CPU}


def test_steps_of_ensembles_are_models_of_the_repository() -> None:
    names = {model.name for model in MODELS[Form.NATIVE]}
    steps = {step.model_name for name in names for step in config(Form.NATIVE, name).ensemble_scheduling.step}
    assert steps == {"text_tokenizer", "text_encoder"}
    assert steps <= names


def test_files_of_models_are_known_artifacts() -> None:
    artifacts = {artifact for _, model in ALL for _, artifact in model.files}
    assert artifacts == set(repository.ARTIFACTS)


def pins(name: str, end: str) -> dict[str, str]:
    text = (repository.HERE / name).read_text(encoding="utf-8")
    return dict(re.findall(rf"^([a-z0-9-]+)==(\S+){end}$", text, re.MULTILINE))


@pytest.mark.parametrize("name", ["requirements", "requirements-cuda", *(f"requirements-{name}" for name in EXTRAS)])
def test_requirements_are_pinned_with_hashes_and_name_no_address(name: str) -> None:
    wanted = pins("requirements.in" if name == "requirements-cuda" else f"{name}.in", "")
    if name == "requirements-cuda":
        del wanted["onnxruntime"]  # the other one takes its place: both would write the same folder
        wanted |= pins("requirements-cuda.in", "")
    locked = pins(f"{name}.txt", r" \\")
    text = (repository.HERE / f"{name}.txt").read_text(encoding="utf-8")
    assert locked == wanted
    assert len(re.findall(r"==\S+ \\\n +--hash=sha256:[0-9a-f]{64}", text)) == len(locked)
    assert "://" not in text
    if name in ("requirements", "requirements-cuda"):
        assert int(locked["numpy"].split(".")[0]) < 2
    else:  # beside requirements.txt, whose packages must stay what they are
        assert not locked.keys() & pins("requirements.in", "").keys()


def test_requirements_hold_the_packages_of_all_weights() -> None:
    found = [value for value in vars(weights).values() if isinstance(value, weights.Weight)]
    assert len(found) == 12
    for weight in found:
        text = (repository.HERE / weight.requirements).with_suffix(".in").read_text(encoding="utf-8")
        assert f"{weight.distribution}==" in text
        assert weight.distribution in (repository.HERE / "LICENSES.md").read_text(encoding="utf-8")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> weights.Weight:
    """An installed package with a file, which must never be imported."""
    folder = tmp_path / "some_weights"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    (folder / "model.bin").write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return weights.Weight("some-weights", "some_weights", "model.bin", hashlib.sha256(b"weights").hexdigest())


def test_weights_are_read_without_running_their_package(package: weights.Weight) -> None:
    assert weights.read(package) == b"weights"


def test_weights_that_changed_are_refused(package: weights.Weight, tmp_path: Path) -> None:
    (tmp_path / "some_weights" / "model.bin").write_bytes(b"others")
    with pytest.raises(weights.SetupError, match=r"model\.bin of some-weights has sha256 .* not the pinned"):
        weights.read(package)


def test_weights_that_are_missing_say_what_to_install(package: weights.Weight, tmp_path: Path) -> None:
    (tmp_path / "some_weights" / "model.bin").unlink()
    with pytest.raises(weights.SetupError, match=r"has no model\.bin: install"):
        weights.read(package)
    with pytest.raises(weights.SetupError, match="other-weights is not installed: install"):
        weights.read(weights.Weight("other-weights", "other_weights", "model.bin", ""))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository of the models that need no weights."""
    monkeypatch.setattr(repository, "MODELS", {form: MODELS[form][:3] for form in Form})


@pytest.mark.usefixtures("small")
def test_render_is_idempotent_and_follows_its_settings(tmp_path: Path) -> None:
    place = tmp_path / "repository"
    assert repository.render(place, Form.PYTHON, Placement.CPU)
    before = (place / "identity" / "config.pbtxt").stat().st_mtime_ns
    assert not repository.render(place, Form.PYTHON, Placement.CPU)
    assert (place / "identity" / "config.pbtxt").stat().st_mtime_ns == before
    assert repository.render(place, Form.PYTHON, Placement.CUDA)
    assert {path.name for path in place.iterdir() if path.is_dir()} == {"identity", "affine", "delay"}


@pytest.mark.usefixtures("small")
def test_extra_is_rendered_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "EXTRAS", {"mine": (MODELS[Form.PYTHON][0],)})
    assert repository.render(tmp_path / "extra", Form.PYTHON, Placement.CPU, "mine")
    assert {path.name for path in (tmp_path / "extra").iterdir() if path.is_dir()} == {"identity"}
    assert repository.render(tmp_path / "extra", Form.PYTHON, Placement.CPU)


@pytest.mark.usefixtures("small")
def test_render_mends_a_repository_that_was_changed(tmp_path: Path) -> None:
    place = tmp_path / "repository"
    repository.render(place, Form.PYTHON, Placement.CPU)
    (place / "identity" / "config.pbtxt").write_text("changed")
    assert repository.render(place, Form.PYTHON, Placement.CPU)
    assert (place / "identity" / "config.pbtxt").read_text() != "changed"


@pytest.mark.usefixtures("small")
def test_render_leaves_a_folder_alone_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(weights.SetupError, match="not made by this program"):
        repository.render(tmp_path, Form.PYTHON, Placement.CPU)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "[]",
        "{}",
        '{"name": "extension"}',
        '{"sources": "x"}',
        '{"sources": ["a.js"], "files": ["b.js"]}',
        '{"form": 1, "placement": 2, "sources": 3, "files": []}',
    ],
)
@pytest.mark.usefixtures("small")
def test_render_leaves_a_folder_alone_whose_manifest_is_not_its_own(tmp_path: Path, manifest: str) -> None:
    """Browser extensions and web sites have one, too."""
    place = tmp_path / "repository"
    place.mkdir()
    (place / "manifest.json").write_text(manifest)
    with pytest.raises(weights.SetupError, match="not made by this program"):
        repository.render(place, Form.PYTHON, Placement.CPU)
    assert (place / "manifest.json").read_text() == manifest
    assert [path.name for path in place.iterdir()] == ["manifest.json"]


@pytest.mark.usefixtures("small")
def test_render_that_fails_leaves_the_old_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "repository"
    repository.render(place, Form.PYTHON, Placement.CPU)
    broken = repository.Model("identity", "identity", "identity", (("model.onnx", "broken"),))

    def fail() -> bytes:
        raise weights.SetupError("no such weights")

    monkeypatch.setattr(repository, "MODELS", {Form.PYTHON: (broken,)})
    monkeypatch.setitem(repository.ARTIFACTS, "broken", fail)
    with pytest.raises(weights.SetupError, match="no such weights"):
        repository.render(place, Form.PYTHON, Placement.CUDA)
    assert {path.name for path in place.iterdir() if path.is_dir()} == {"identity", "affine", "delay"}
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["repository"]


def test_torch_file_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/ran",)

    values: tuple[object, ...] = (0x1950A86A20F9469CFC6C, 1001, {}, Evil(), [])
    content = b"".join(pickle.dumps(value, 2) for value in values)
    with pytest.raises(pickle.UnpicklingError, match=r"a state dict needs no posix\.system"):
        torch_file.load(content)
    assert not list(tmp_path.iterdir())


def test_torch_file_refuses_another_format() -> None:
    with pytest.raises(ValueError, match="not a PyTorch file"):
        torch_file.load(pickle.dumps(1) + io.BytesIO(bytes(10)).getvalue())
