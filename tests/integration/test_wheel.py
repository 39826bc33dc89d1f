"""What is built is what users get: the wheel alone, in an empty environment, far from the checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from headrace import __version__

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements" / f"lock-py{sys.version_info.major}{sys.version_info.minor}.txt"


def run(*command: str | Path, cwd: Path, timeout_seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a command with nothing of this test run's environment that could lead it back to the checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE", "PYTHON", "VIRTUAL"))}
    kept |= {"HEADRACE_CACHE": str(cwd / "cache"), "HEADRACE_HOME": str(cwd / "state"), "COLUMNS": "100"}
    return subprocess.run(command, cwd=cwd, env=kept, capture_output=True, text=True, timeout=timeout_seconds)


def build(kind: str, source: Path, target: Path) -> Path:
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(target), str(source)]
    done = run(*command, cwd=target)
    assert done.returncode == 0, done.stdout + done.stderr
    [built] = target.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of a new environment that has the wheel, at the locked versions, and no extra."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=True, symlinks=True)
    versions = folder / "versions.txt"
    versions.write_text(re.sub(r" --hash=\S+", "", LOCK.read_text()))
    python = folder / "venv" / "bin" / "python"
    install: list[str | Path] = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--only-binary",
        ":all:",
        "-c",
        versions,
        wheel,
    ]
    done = run(*install, cwd=folder, timeout_seconds=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return python.parent


def test_wheel_holds_only_headrace(contents: dict[str, bytes]) -> None:
    """Nothing generic such as ``pipeline`` or ``tests`` is installed, where it would shadow a user's own module."""
    tops = {PurePosixPath(name).parts[0] for name in contents}
    assert tops == {"headrace", f"headrace-{__version__}.dist-info"}


def test_wheel_holds_every_file_of_its_folders(contents: dict[str, bytes]) -> None:
    folders = ("pipeline", "connectors", "schemas", "triton_models")
    listed = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = [name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]
    assert {PurePosixPath(name).parts[0] for name in tracked} == set(folders)
    different = [name for name in tracked if contents.get(f"headrace/{name}") != (ROOT / name).read_bytes()]
    assert different == []


def test_wheel_holds_every_module_of_the_sdk(contents: dict[str, bytes]) -> None:
    modules = {
        path.relative_to(ROOT).as_posix(): path.read_bytes() for path in (ROOT / "headrace" / "sdk").glob("*.py")
    }
    assert "headrace/sdk/client.py" in modules
    assert {name: contents.get(name) for name in modules} == modules


def test_installed_sdk_needs_no_extra_and_no_faust(installed: Path, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from headrace import EventProducer, InferenceClient, ResultConsumer, event, tensor, to_array\n"
        "assert 'faust' not in sys.modules\n"
        "part = event('words', tensor([1.0, 2.0])).request.parts[1]\n"
        "print(to_array(part.content).tolist())"
    )
    done = run(installed / "python", "-c", program, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[1.0, 2.0]\n", "")


def test_wheel_holds_schemas_models_and_type_marker_but_no_caches(contents: dict[str, bytes]) -> None:
    assert {"headrace/py.typed", "headrace/schemas/inference_request.avsc"} <= contents.keys()
    assert any(re.fullmatch(r"headrace/triton_models/\w+/config\.pbtxt", name) for name in contents)
    assert [name for name in contents if "__pycache__" in name or name.endswith(".pyc")] == []


def test_wheel_names_its_licence_and_its_command(contents: dict[str, bytes]) -> None:
    information = f"headrace-{__version__}.dist-info"
    assert contents[f"{information}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert b"License-Expression: Apache-2.0" in contents[f"{information}/METADATA"]
    assert b"headrace = headrace.pipeline.cli:main" in contents[f"{information}/entry_points.txt"]


def test_source_archive_builds_the_same_wheel(contents: dict[str, bytes], tmp_path: Path) -> None:
    archive = build("sdist", ROOT, tmp_path)
    with tarfile.open(archive) as source:
        source.extraction_filter = getattr(tarfile, "data_filter", None)  # not yet in Python 3.11.2
        source.extractall(tmp_path)
    (tmp_path / "wheel").mkdir()
    rebuilt = build("wheel", tmp_path / f"headrace-{__version__}", tmp_path / "wheel")
    with zipfile.ZipFile(rebuilt) as again:
        assert {name: again.read(name) for name in again.namelist()} == contents


def test_installed_command_shows_help_and_version(installed: Path, tmp_path: Path) -> None:
    shown = run(installed / "headrace", "--help", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "doctor" in shown.stdout
    version = run(installed / "headrace", "--version", cwd=tmp_path)
    assert version.stdout == f"headrace, version {__version__}\n"


def test_installed_doctor_names_the_missing_extras(installed: Path, tmp_path: Path) -> None:
    told = run(installed / "headrace", "doctor", cwd=tmp_path)
    assert told.returncode == 1
    assert 'pip install "headrace[embedded]"' in told.stdout
    assert 'pip install "headrace[triton]"' in told.stdout
    assert "Traceback" not in told.stdout + told.stderr


def test_installed_command_prints_the_settings_schema(installed: Path, tmp_path: Path) -> None:
    shown = run(installed / "headrace", "config", "schema", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout) == json.loads((ROOT / "docs" / "pipeline.schema.json").read_text())


def test_command_that_needs_an_extra_says_so(installed: Path, tmp_path: Path) -> None:
    told = run(installed / "headrace", "up", cwd=tmp_path)
    assert told.returncode not in (0, None)
    assert "headrace[" in told.stderr
    assert "Traceback" not in told.stderr


def test_data_is_found_where_it_is_installed(installed: Path, tmp_path: Path) -> None:
    program = (
        "from importlib.resources import files\n"
        "for part in ('schemas/inference_request.avsc', 'triton_models/identity/config.pbtxt'):\n"
        "    assert (files('headrace') / part).is_file(), part\n"
        "print(files('headrace'))"
    )
    found = run(installed / "python", "-c", program, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert Path(found.stdout.strip()).is_relative_to(installed.parent)


def test_users_own_modules_live_beside_headrace(installed: Path, tmp_path: Path) -> None:
    """A ``pipeline.py`` beside a user's script is the user's, and headrace still finds its own."""
    for name in ("pipeline", "connectors", "schemas"):
        (tmp_path / f"{name}.py").write_text("mine = True\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import pipeline, connectors, schemas, headrace.pipeline.config\n"
        "from headrace.pipeline.config import Settings\n"
        "assert pipeline.mine and connectors.mine and schemas.mine\n"
        "print(Settings().name)\n"
    )
    done = run(installed / "python", script, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "headrace\n", "")


def test_type_checker_sees_headrace_from_another_project(tmp_path: Path) -> None:
    """Through the editable installation that this test runs in."""
    (tmp_path / "user.py").write_text(
        "from headrace.pipeline.errors import HeadraceError\n"
        "from headrace.connectors.triton import TritonInferenceClient\n"
        "number: int = TritonInferenceClient\n"
        "reveal_type(HeadraceError)\n"
    )
    told = run(sys.executable, "-m", "mypy", "--strict", "user.py", cwd=tmp_path, timeout_seconds=120).stdout
    assert (
        'user.py:3: error: Incompatible types in assignment (expression has type "type[TritonInferenceClient]"' in told
    )
    assert "-> headrace.pipeline.errors.HeadraceError" in told
    assert "Found 1 error in 1 file" in told


def test_faust_command_finds_the_app_in_a_checkout() -> None:
    command = [sys.executable, "-m", "faust", "-A", "pipeline.app", "agents"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Agents" in done.stdout
