"""The user's own models: what is loaded when, and what is said of those that are not. Triton is a fake."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from headrace.connectors.embedded.state import ModelState
from headrace.connectors.embedded.triton_reasons import failures_in_log, reason_in_answer, reason_in_log
from headrace.connectors.embedded.user_models import UserModels, check_repository
from headrace.pipeline.errors import ConfigError


class FakeTriton:
    """Loads every model whose files it can see through the staging folder, unless one of them says ``broken``."""

    def __init__(self, staging: Path) -> None:
        self.staging = staging
        self.serving: dict[str, str] = {}
        self.loads: list[str] = []
        self.down = False

    def load(self, name: str) -> str:
        if self.down:
            raise ConnectionRefusedError
        self.loads.append(name)
        code = (self.staging / name / "1" / "model.py").read_text()
        if code == "broken":
            return f"RuntimeError in {self.staging / name}/1/model.py"
        self.serving[name] = code
        return ""

    def unload(self, name: str) -> None:
        del self.serving[name]


def write(repository: Path, name: str, code: str = "good", config: str | None = "backend: python") -> Path:
    (repository / name / "1").mkdir(parents=True, exist_ok=True)
    (repository / name / "1" / "model.py").write_text(code)
    if config is not None:
        (repository / name / "config.pbtxt").write_text(config)
    return repository / name


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "my models"
    folder.mkdir()
    return folder


@pytest.fixture
def triton(tmp_path: Path) -> FakeTriton:
    return FakeTriton(tmp_path / "staging")


@pytest.fixture
def models(repository: Path, triton: FakeTriton) -> UserModels:
    found = UserModels([repository], triton.staging, ["identity"])
    found.begin()
    return found


def test_models_are_loaded_at_the_start_and_left_alone_then(
    repository: Path, triton: FakeTriton, models: UserModels
) -> None:
    write(repository, "first")
    write(repository, "second")
    assert models.sync(triton, at_once=True) == ["model first is loaded", "model second is loaded"]
    assert models.sync(triton) == models.sync(triton) == []
    assert triton.loads == ["first", "second"]
    assert models.states()[0] == ModelState("first", str(repository / "first"), serving=True)


def test_changed_model_is_loaded_again_when_its_files_have_settled(
    repository: Path, triton: FakeTriton, models: UserModels
) -> None:
    write(repository, "mine")
    models.sync(triton, at_once=True)
    write(repository, "mine", "half")
    assert models.sync(triton) == []
    write(repository, "mine", "half and half")
    assert models.sync(triton) == []
    assert models.sync(triton) == ["model mine is loaded again"]
    assert triton.serving == {"mine": "half and half"}
    assert triton.loads == ["mine"] * 2


def test_model_touched_without_a_change_is_loaded_again(
    repository: Path, triton: FakeTriton, models: UserModels
) -> None:
    """What it depends on may have been mended."""
    code = write(repository, "mine", "broken") / "1" / "model.py"
    models.sync(triton, at_once=True)
    os.utime(code, ns=(1, 1))
    models.sync(triton)
    models.sync(triton)
    assert triton.loads == ["mine"] * 2


def test_broken_model_is_tried_once_and_keeps_no_other_from_serving(
    repository: Path, triton: FakeTriton, models: UserModels
) -> None:
    folder = write(repository, "bad", "broken")
    write(repository, "good")
    reason = f"RuntimeError in {folder}/1/model.py"  # the user's folder, not the link that Triton sees
    assert models.sync(triton, at_once=True) == [f"model bad cannot be loaded: {reason}", "model good is loaded"]
    models.sync(triton)
    assert models.sync(triton) == []
    assert triton.loads == ["bad", "good"]
    assert models.states()[0] == ModelState("bad", str(folder), serving=False, trouble=reason)
    write(repository, "bad", "mended")
    models.sync(triton)
    assert models.sync(triton) == ["model bad is loaded"]
    assert [state.trouble for state in models.states()] == ["", ""]


def test_model_that_breaks_serves_on_as_it_was(repository: Path, triton: FakeTriton, models: UserModels) -> None:
    write(repository, "mine", "first")
    models.sync(triton, at_once=True)
    write(repository, "mine", "broken")
    models.sync(triton)
    [line] = models.sync(triton)
    assert line.startswith("model mine cannot be loaded; what was loaded before goes on serving: RuntimeError")
    [state] = models.states()
    assert state.serving
    assert state.trouble
    assert triton.serving == {"mine": "first"}


def test_new_folder_is_a_model_once_it_has_files(repository: Path, triton: FakeTriton, models: UserModels) -> None:
    (repository / "late" / "1").mkdir(parents=True)
    assert models.sync(triton, at_once=True) == []
    assert models.states() == ()
    write(repository, "late", config=None)
    models.sync(triton)
    assert models.sync(triton) == ["model late cannot be loaded: it has no config.pbtxt"]
    write(repository, "late")
    models.sync(triton)
    assert models.sync(triton) == ["model late is loaded"]


def test_model_that_is_gone_is_unloaded(repository: Path, triton: FakeTriton, models: UserModels) -> None:
    folder = write(repository, "mine")
    models.sync(triton, at_once=True)
    folder.rename(repository.parent / "elsewhere")
    assert models.sync(triton) == [f"model mine is unloaded: {folder} is gone"]
    assert triton.serving == {}
    assert list(triton.staging.iterdir()) == []
    assert models.states() == ()


def test_name_of_a_model_of_headrace_is_refused_until_it_is_another(
    repository: Path, triton: FakeTriton, models: UserModels
) -> None:
    folder = write(repository, "identity")
    [line] = models.sync(triton, at_once=True)
    assert (
        line == f"model identity in {repository} cannot be loaded: headrace has a model of this name: give it another"
    )
    assert models.sync(triton) == []
    assert triton.loads == []
    folder.rename(repository / "mine")
    models.sync(triton)
    assert models.sync(triton) == ["model mine is loaded"]
    assert [state.name for state in models.states()] == ["mine"]


@pytest.mark.parametrize("name", ["a b", "a;b", "-a", "ä"])
def test_name_that_triton_could_not_run_is_refused(
    repository: Path, triton: FakeTriton, models: UserModels, name: str
) -> None:
    write(repository, name)
    [line] = models.sync(triton, at_once=True)
    assert "its name may have letters, digits and ._- only" in line
    assert triton.loads == []


def test_first_of_two_models_of_one_name_serves(repository: Path, triton: FakeTriton, tmp_path: Path) -> None:
    other = tmp_path / "other"
    models = UserModels([repository, other], triton.staging, [])
    models.begin()
    write(other, "mine", "other's")
    models.sync(triton, at_once=True)
    write(repository, "mine", "late")
    models.sync(triton)
    assert [state.folder for state in models.states() if state.serving] == [str(other / "mine")]
    assert triton.serving == {"mine": "other's"}
    (other / "mine").rename(tmp_path / "gone")
    models.sync(triton)
    models.sync(triton)
    models.sync(triton)
    assert triton.serving == {"mine": "late"}


def test_files_that_are_no_part_of_a_model_do_not_load_it_again(
    repository: Path, triton: FakeTriton, models: UserModels
) -> None:
    folder = write(repository, "mine")
    models.sync(triton, at_once=True)
    (folder / "1" / "__pycache__").mkdir()
    for scratch in ("1/.model.py.swp", "1/model.py~", "1/__pycache__/model.cpython-312.pyc"):
        (folder / scratch).touch()
    models.sync(triton)
    models.sync(triton)
    assert triton.loads == ["mine"]


def test_triton_that_is_down_is_told_later(repository: Path, triton: FakeTriton, models: UserModels) -> None:
    write(repository, "mine")
    triton.down = True
    with pytest.raises(ConnectionRefusedError):
        models.sync(triton, at_once=True)
    triton.down = False
    assert models.sync(triton) == ["model mine is loaded"]


def test_restarted_triton_gets_every_model_anew(repository: Path, triton: FakeTriton, models: UserModels) -> None:
    write(repository, "mine")
    models.sync(triton, at_once=True)
    models.begin()
    assert list(triton.staging.iterdir()) == []
    assert models.sync(triton, at_once=True) == ["model mine is loaded"]


def test_repository_that_is_none_says_what_to_name(repository: Path) -> None:
    check_repository(repository)
    folder = write(repository, "mine")
    with pytest.raises(ConfigError, match="is a model, not a model repository: name the folder that holds it"):
        check_repository(folder)
    with pytest.raises(ConfigError, match="is not a folder"):
        check_repository(folder / "config.pbtxt")


LOG = """\
[libprotobuf ERROR /build/text_format.cc:337] Error parsing text-format inference.ModelConfig: 9:9: Unknown
2026-01-01T00:00:00Z E 1 model_repository_manager.cc:1460] "Poll failed for model directory 'other': failed to read"
[libprotobuf ERROR /build/text_format.cc:337] Error parsing text-format: 1:35: Expected integer, got: x
2026-01-01T00:00:00Z E 1 model_repository_manager.cc:1460] "Poll failed for model directory 'mine': failed to read it"
2026-01-01T00:00:01Z I 1 server.cc:1] "more"
2026-01-01T00:00:02Z E 1 model_repository_manager.cc:1460] "Poll failed for model directory 'late': no input named 'X'"
"""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mine", "failed to read it: Error parsing text-format: 1:35: Expected integer, got: x"),
        ("late", "no input named 'X'"),
        ("silent", "Triton could not read its configuration and did not say why"),
    ],
)
def test_reason_of_a_broken_configuration_is_found_in_the_log(name: str, reason: str) -> None:
    assert reason_in_log(LOG, name) == reason


def test_reason_in_an_answer_has_only_the_lines_that_help() -> None:
    error = (
        "load failed for model 'mine': version 1 is at UNAVAILABLE state: Internal: RuntimeError: no weights\n\nAt:\n"
        "  /models/mine/1/model.py(1): <module>\n  <frozen importlib._bootstrap>(488): _call_with_frames_removed\n;\n"
    )
    expected = "Internal: RuntimeError: no weights\n  At:\n    /models/mine/1/model.py(1): <module>"
    assert reason_in_answer(json.dumps({"error": error}).encode()) == expected
    assert reason_in_answer(b"Bad Gateway") == "Bad Gateway"


def test_models_that_kept_the_server_from_starting_are_found_in_the_log() -> None:
    log = (
        "2026-01-01T00:00:00Z E 1 model_lifecycle.cc:642] \"failed to load 'mine' version 1: Internal: ImportError: "
        'no x\\n\\nAt:\\n  /mine/1/model.py(8): <module>\\n  <frozen importlib._bootstrap>(488): f\\n"\n'
        "2026-01-01T00:00:00Z I 1 model_lifecycle.cc:777] \"failed to load 'mine'\"\n"
    )
    [line] = failures_in_log(log)
    assert line == "model mine cannot be loaded: Internal: ImportError: no x\n  At:\n    /mine/1/model.py(8): <module>"
