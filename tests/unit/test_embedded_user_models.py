"""The user's own models: what is loaded when, and what is said of those that are not."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from headrace.connectors.embedded.state import ModelState
from headrace.connectors.embedded.user_models import UserModels, check_repository
from headrace.pipeline.errors import ConfigError
from tests.unit.fake_triton import FakeTriton, standing_still, write


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
    found = UserModels([repository], triton.staging, ["identity"], start=triton.start, clock=standing_still)
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
    assert models.sync(triton) == []
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
    models = UserModels([repository, other], triton.staging, [], start=triton.start, clock=standing_still)
    models.begin()
    write(other, "mine", "other's")
    models.sync(triton, at_once=True)
    write(repository, "mine", "late")
    models.sync(triton)
    assert [state.folder for state in models.states() if state.serving] == [str(other / "mine")]
    assert triton.serving == {"mine": "other's"}
    (other / "mine").rename(tmp_path / "gone")
    for _ in range(4):  # two looks until it is gone, two until the other one has settled
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
    folder = write(repository, "mine")
    triton.down = True
    assert models.sync(triton, at_once=True) == models.sync(triton) == []
    triton.down = False
    assert models.sync(triton) == ["model mine is loaded"]
    folder.rename(repository.parent / "elsewhere")
    triton.down = True
    assert models.sync(triton) == models.sync(triton) == models.sync(triton) == []
    triton.down = False
    assert models.sync(triton) == [f"model mine is unloaded: {folder} is gone"]


def test_restarted_triton_gets_every_model_anew(repository: Path, triton: FakeTriton, models: UserModels) -> None:
    write(repository, "mine")
    models.sync(triton, at_once=True)
    models.begin()
    assert list(triton.staging.iterdir()) == []
    assert models.sync(triton, at_once=True) == ["model mine is loaded"]


def test_model_copied_anew_serves_on_meanwhile(repository: Path, triton: FakeTriton, models: UserModels) -> None:
    folder = write(repository, "mine", "first")
    models.sync(triton, at_once=True)
    shutil.rmtree(folder)
    assert models.sync(triton) == []
    write(repository, "mine", "second")
    assert models.sync(triton) == []
    assert triton.serving == {"mine": "first"}
    assert models.sync(triton) == ["model mine is loaded again"]
    assert triton.serving == {"mine": "second"}


def test_model_that_loads_for_long_keeps_nothing_waiting(
    repository: Path, triton: FakeTriton, models: UserModels
) -> None:
    folder = write(repository, "mine")
    write(repository, "quick")
    slow: Future[str] = Future()
    triton.held["mine"] = slow
    assert models.sync(triton, at_once=True) == ["model quick is loaded"]
    assert models.loading
    [mine, quick] = models.states()
    assert (mine.serving, mine.loading, mine.current) == (False, True, False)
    assert quick.current
    write(repository, "mine", "changed")
    for _ in range(3):  # not loaded twice at a time, nor unloaded
        assert models.sync(triton) == []
    shutil.rmtree(folder)
    assert models.sync(triton) == models.sync(triton) == []
    write(repository, "mine", "changed again")
    triton.held.clear()
    slow.set_result("")
    assert models.sync(triton) == ["model mine is loaded"]
    assert models.sync(triton) == ["model mine is loaded again"]
    assert triton.serving["mine"] == "changed again"
    assert all(state.current for state in models.states())


def test_load_is_waited_for_by_nobody(repository: Path, triton: FakeTriton) -> None:
    """As it is begun outside tests: the server answers when the test allows."""
    models = UserModels([repository], triton.staging, [], clock=standing_still)
    models.begin()
    write(repository, "mine")
    answer = threading.Event()

    class SlowTriton(FakeTriton):
        def load(self, name: str) -> str:
            assert answer.wait(30)
            return super().load(name)

    try:
        assert models.sync(SlowTriton(triton.staging), at_once=True) == []
        assert models.loading
    finally:
        answer.set()
    lines: list[str] = []
    deadline = time.monotonic() + 30
    while not lines and time.monotonic() < deadline:
        lines = models.collect()
    assert lines == ["model mine is loaded"]


def test_ensemble_is_tried_again_when_what_it_may_be_made_of_is_loaded(
    repository: Path, triton: FakeTriton, models: UserModels
) -> None:
    write(repository, "a_whole", "broken", config="ensemble_scheduling { step [] }")
    write(repository, "other", "broken")
    write(repository, "part", "broken")
    models.sync(triton, at_once=True)
    write(repository, "part", "good")
    (repository / "a_whole" / "1" / "model.py").write_text("broken")
    os.utime(repository / "a_whole" / "1" / "model.py", ns=(1, 1))
    models.sync(triton)
    models.sync(triton)
    triton.loads.clear()
    models.sync(triton)
    assert triton.loads == ["a_whole"]
    models.sync(triton)
    assert triton.loads == ["a_whole"]


def test_links_to_all_new_models_are_there_before_one_is_loaded(
    repository: Path, triton: FakeTriton, models: UserModels
) -> None:
    """For an ensemble Triton loads what it is made of, whatever the order of the names."""
    seen: list[set[str]] = []

    class LookingTriton(FakeTriton):
        def load(self, name: str) -> str:
            seen.append({path.name for path in self.staging.iterdir()})
            return super().load(name)

    write(repository, "first")
    write(repository, "second")
    models.sync(LookingTriton(triton.staging), at_once=True)
    assert seen == [{"first", "second"}] * 2


def test_change_in_a_linked_version_is_noticed(
    repository: Path, triton: FakeTriton, models: UserModels, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "model.py").write_text("first")
    (store / "round").symlink_to(store)
    (repository / "mine").mkdir()
    (repository / "mine" / "config.pbtxt").write_text("backend: python")
    (repository / "mine" / "1").symlink_to(store)
    models.sync(triton, at_once=True)
    (store / "model.py").write_text("second one")
    models.sync(triton)
    assert models.sync(triton) == ["model mine is loaded again"]


def test_files_that_cannot_be_read_are_told_and_the_model_serves_on(
    repository: Path, triton: FakeTriton, models: UserModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, so what the system would answer others is played."""
    folder = write(repository, "mine")
    models.sync(triton, at_once=True)
    walk, iterate = os.walk, Path.iterdir
    closed = {folder}

    def closed_walk(top: Path, **options: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        if top in closed:
            options["onerror"](PermissionError(errno.EACCES, "Permission denied", str(top)))
        return walk(top, **options)

    def closed_iterdir(path: Path) -> Iterator[Path]:
        if path == repository and path in closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return iterate(path)

    monkeypatch.setattr(os, "walk", closed_walk)
    monkeypatch.setattr(Path, "iterdir", closed_iterdir)
    trouble = f"{folder} cannot be read (Permission denied): give this user the right to"
    assert models.sync(triton) == [f"model mine cannot be loaded: {trouble}"]
    assert models.sync(triton) == []
    assert models.states() == (ModelState("mine", str(folder), serving=True, trouble=trouble),)
    closed = {repository}
    [line] = models.sync(triton)
    assert f"{repository} cannot be read" in line
    with pytest.raises(ConfigError, match=r"cannot be read .* give this user the right"):
        check_repository(repository)
    assert models.sync(triton) == models.sync(triton) == []
    assert triton.serving == {"mine": "good"}
    closed = set()
    models.sync(triton)
    assert models.sync(triton) == ["model mine is loaded again"]
    assert models.states()[0].current


def test_looks_take_a_tenth_of_the_time_however_many_files_there_are(repository: Path, triton: FakeTriton) -> None:
    times = chain([0.0, 10.0, 12.0, 29.0, 30.0, 31.0], repeat(100.0))
    models = UserModels([repository], triton.staging, [], start=triton.start, clock=lambda: next(times))
    models.begin()
    models.sync(triton)  # takes two seconds, from 10 to 12
    write(repository, "mine")
    models.sync(triton, at_once=False)  # at 29: not yet
    assert models.states() == ()
    models.sync(triton)  # at 30
    assert [state.name for state in models.states()] == ["mine"]


def test_repository_that_is_none_says_what_to_name(repository: Path) -> None:
    check_repository(repository)
    folder = write(repository, "mine")
    with pytest.raises(ConfigError, match="is a model, not a model repository: name the folder that holds it"):
        check_repository(folder)
    with pytest.raises(ConfigError, match="is not a folder"):
        check_repository(folder / "config.pbtxt")
