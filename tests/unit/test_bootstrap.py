"""Setting up from a fresh clone: what is missing is said in one line. Interpreters and machines are fakes in PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("sh", "dirname", "awk", "cut", "tr", "cat", "sha256sum", "rm", "flock")

WORKS = 'case "$*" in *platform*) echo "{version}" ;; *"-m venv"*) {venv} ;; esac'
NO_VENV = 'case "$*" in *platform*) echo "3.12.4 CPython" ;; *) exit 1 ;; esac'
SHIM = 'echo "pyenv: command not found" >&2; exit 127'


class Machine:
    """A checkout, and a PATH with nothing in it but what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "checkout"
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in ("tools/bootstrap.sh", "pyproject.toml", "requirements", "pipeline/__init__.py"):
            target = self.checkout / name
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            copy(ROOT / name, target)
        (self.checkout / "headrace").mkdir()
        (self.checkout / "headrace" / "pipeline").symlink_to("../pipeline")
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, f"this test needs {tool}"
            (self.bin / tool).symlink_to(found)
        self.command("uname", 'case "$1" in -s) echo Linux ;; -m) echo x86_64 ;; esac')
        self.command("getconf", "echo glibc 2.35")
        self.command("git", "exit 0")

    def command(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def python(self, name: str, version: str, venv: str = "exit 1") -> None:
        self.command(name, WORKS.format(version=version, venv=venv))

    def bootstrap(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.checkout / "tools" / "bootstrap.sh", "test"],
            env={"PATH": str(self.bin), "HOME": os.environ["HOME"], **environment},
            capture_output=True,
            text=True,
            timeout=30,
        )

    def refusal(self, **environment: str) -> str:
        done = self.bootstrap(**environment)
        assert done.returncode == 1
        assert not done.stdout
        assert done.stderr.startswith("headrace needs ")
        assert done.stderr.count("\n") == 1
        return done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_newer_python_is_refused_with_what_to_run(machine: Machine) -> None:
    machine.python("python3", "3.13.0 CPython")
    assert machine.refusal() == (
        "headrace needs Python 3.11 or 3.12 (found 3.13.0): install python3.12 and run make PYTHON=python3.12 test\n"
    )


@pytest.mark.parametrize("version", ["3.10.14 CPython", "3.1.2 CPython", "2.7.18 CPython", "3.11.9 PyPy"])
def test_python_that_triton_does_not_support_is_refused(machine: Machine, version: str) -> None:
    machine.python("python3", version)
    assert version.removesuffix(" CPython") in machine.refusal()


def test_no_python_at_all_is_refused(machine: Machine) -> None:
    assert "install python3.12" in machine.refusal()


def test_shim_that_fails_when_called_is_passed_over(machine: Machine) -> None:
    machine.python("python3", "3.13.0 CPython")
    machine.command("python3.12", SHIM)
    machine.python("python3.11", "3.11.7 CPython")
    assert "with Python 3.11.7 from requirements/lock-py311.txt" in machine.bootstrap().stderr


def test_refusal_names_the_python_that_runs_rather_than_a_shim(machine: Machine) -> None:
    machine.command("python3", SHIM)
    machine.python("python3.12", "3.13.1 CPython")
    assert "found 3.13.1" in machine.refusal()


def test_chosen_python_is_taken_or_refused_never_replaced(machine: Machine) -> None:
    machine.python("python3", "3.12.1 CPython")
    machine.command("mine", SHIM)
    assert "mine does not run" in machine.refusal(PYTHON="mine")


def test_missing_venv_module_is_refused_with_its_package(machine: Machine) -> None:
    machine.command("python3", NO_VENV)
    assert "apt install python3.12-venv" in machine.refusal()


def test_python_with_venv_is_preferred_to_an_earlier_one_without(machine: Machine) -> None:
    machine.command("python3", NO_VENV)
    machine.python("python3.11", "3.11.2 CPython")
    assert "with Python 3.11.2" in machine.bootstrap().stderr


@pytest.mark.parametrize(
    ("tool", "script", "found"),
    [
        ("uname", 'case "$1" in -s) echo Linux ;; -m) echo aarch64 ;; esac', "found Linux on aarch64"),
        ("uname", 'case "$1" in -s) echo Darwin ;; -m) echo x86_64 ;; esac', "found Darwin on x86_64"),
        ("getconf", "echo glibc 2.31", "found glibc 2.31"),
        ("getconf", "exit 1", "found another C library"),
    ],
)
def test_machine_that_cannot_run_the_stack_is_refused(machine: Machine, tool: str, script: str, found: str) -> None:
    machine.python("python3", "3.12.1 CPython")
    machine.command(tool, script)
    assert found in machine.refusal()


@pytest.mark.parametrize("glibc", ["2.35", "2.41", "3.0"])
def test_new_enough_c_library_is_accepted(machine: Machine, glibc: str) -> None:
    machine.python("python3", "3.12.1 CPython")
    machine.command("getconf", f"echo glibc {glibc}")
    assert "setting up .venv" in machine.bootstrap().stderr


def test_missing_git_is_refused(machine: Machine) -> None:
    machine.python("python3", "3.12.1 CPython")
    (machine.bin / "git").unlink()
    assert "apt install git" in machine.refusal()


def test_checkout_without_symbolic_links_is_refused(machine: Machine) -> None:
    machine.python("python3", "3.12.1 CPython")
    link = machine.checkout / "headrace" / "pipeline"
    link.unlink()
    link.write_text("../pipeline")
    assert "core.symlinks" in machine.refusal()


FAKE_VENV = """for folder; do :; done
    {mkdir} -p "$folder/bin"; echo made >> "$folder/../made.log"
    printf '#!/bin/sh\\ncase "$*" in *platform*) echo {version} ;; *) {pip} ;; esac\\n' > "$folder/bin/python"
    {chmod} +x "$folder/bin/python" """


def made(machine: Machine) -> int:
    return (machine.checkout / "made.log").read_text().count("made")


def fake_python(machine: Machine, version: str, pip: str = "exit 0") -> None:
    venv = FAKE_VENV.format(mkdir=shutil.which("mkdir"), chmod=shutil.which("chmod"), version=version, pip=pip)
    machine.python("python3", f"{version} CPython", venv)


def test_environment_is_made_once(machine: Machine) -> None:
    fake_python(machine, "3.12.1")
    assert [machine.bootstrap().returncode for _ in range(3)] == [0, 0, 0]
    assert made(machine) == 1


def test_environment_is_made_again_when_the_lock_changes(machine: Machine) -> None:
    fake_python(machine, "3.12.1")
    machine.bootstrap()
    lock = machine.checkout / "requirements" / "lock-py312.txt"
    lock.write_text(lock.read_text() + "# changed\n")
    assert machine.bootstrap().returncode == 0
    assert made(machine) == 2


def test_environment_is_kept_when_the_other_lock_changes(machine: Machine) -> None:
    fake_python(machine, "3.12.1")
    machine.bootstrap()
    (machine.checkout / "requirements" / "lock-py311.txt").write_text("# changed\n")
    machine.bootstrap()
    assert made(machine) == 1


def test_failed_install_is_told_and_done_again(machine: Machine) -> None:
    fake_python(machine, "3.12.1", pip="exit 1")
    failed = machine.bootstrap()
    assert failed.returncode == 1
    assert "headrace could not install the packages of requirements/lock-py312.txt" in failed.stderr
    fake_python(machine, "3.12.1")
    assert machine.bootstrap().returncode == 0
    assert made(machine) == 2


def test_other_python_chosen_makes_the_environment_again(machine: Machine) -> None:
    fake_python(machine, "3.12.1")
    machine.bootstrap()
    fake_python(machine, "3.11.7")
    assert machine.bootstrap().returncode == 0
    assert made(machine) == 1, "without a choice the environment that works is kept"
    assert machine.bootstrap(PYTHON="python3").returncode == 0
    assert made(machine) == 2
