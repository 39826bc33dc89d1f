"""Triton's own interpreter environment: a Python, the server's binary, its python backend and the models' packages.

It is apart from headrace's because the backend's stub needs numpy < 2 (with numpy 2 it serves zeros without a word) and
a shared libpython, which few systems install. So one Python, from a package, serves whichever Python runs headrace.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import zipfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from headrace.connectors.embedded.artifacts import PYTHON_VERSION
from headrace.connectors.embedded.downloads import Downloads
from headrace.connectors.embedded.locks import file_lock
from headrace.connectors.embedded.process import guarded
from headrace.connectors.embedded.progress import Progress
from headrace.pipeline.errors import StackError

_LOCK_SECONDS = 1800.0
_PROBE_SECONDS = 60.0
_MINOR = PYTHON_VERSION.rpartition(".")[0]
_PREFIX = "org/bytedeco/cpython/linux-x86_64/"
_NEEDED = (f"bin/python{_MINOR}", f"libpython{_MINOR}.so.1.0", "libffi.so.7", f"lib/python{_MINOR}/")
_NOT_NEEDED = tuple(f"lib/python{_MINOR}/{name}/" for name in ("test", "idlelib", "tkinter", "turtledemo", "lib2to3"))
"""What of the Python's archive goes into the environment: names below its prefix begin so."""
_COMPLETE = "headrace-complete"
"""Marks a folder whose building went through; one without it is built anew."""

_PROBE = """
import importlib.util, json
import numpy
found = importlib.util.find_spec("pytriton")  # finds the wheel without importing it
print(json.dumps({
    "numpy": numpy.__version__,
    "package": found.submodule_search_locations[0] if found else None,
}))
"""


@dataclass(frozen=True, slots=True)
class TritonInterpreter:
    """What a server needs to know of the environment. ``package`` is nvidia-pytriton's folder in it."""

    folder: Path
    package: Path
    numpy_version: str

    @property
    def python(self) -> Path:
        return executable(self.folder)

    @property
    def stub(self) -> Path:
        """The python backend's process for this Python."""
        return self.package / "tritonserver" / "python_backend_stubs" / _MINOR / "triton_python_backend_stub"


def models_folder() -> Path:
    """The bundled ``triton_models`` as a folder (headrace is never run from a zip file)."""
    with as_file(files("headrace") / "triton_models") as folder:
        return folder.resolve()


def requirements_file(placement: str) -> Path:
    """The environment's pinned packages; ``cuda`` has another ONNX Runtime, and CUDA's libraries."""
    return models_folder() / ("requirements-cuda.txt" if placement == "cuda" else "requirements.txt")


def environment_folder(cache: Path, placement: str = "cpu") -> Path:
    """Where the environment for these requirements is, or would be."""
    digest = hashlib.sha256(requirements_file(placement).read_bytes()).hexdigest()[:12]
    return cache / f"triton-python{PYTHON_VERSION}-{digest}"


def executable(folder: Path) -> Path:
    """The environment's Python."""
    return folder / "bin" / "python3"


def is_built(folder: Path) -> bool:
    """True if building this folder was completed."""
    return (folder / _COMPLETE).exists()


def ensure_interpreter(cache: Path, progress: Progress, placement: str = "cpu") -> TritonInterpreter:
    """Build the environment if need be, and check it.

    Raises:
        StackError: if it cannot be built, or its numpy is not below 2.
    """
    folder = environment_folder(cache, placement)

    def build(report: Callable[[str], None]) -> None:
        unpack_python(Downloads(cache, progress).python_jar(), folder)
        pip_install(executable(folder), folder, requirements_file(placement), report, _PIP_HINT)

    size = "2 GB" if placement == "cuda" else "250 MB"
    build_once(folder, cache, progress, f"Building Triton's interpreter (downloads about {size})", build)
    return probe(folder)


def unpack_python(archive: Path, folder: Path) -> None:
    """Unpack what Triton needs of the Python in ``archive``."""
    with zipfile.ZipFile(archive) as jar:
        for member in jar.infolist():
            inner = member.filename.removeprefix(_PREFIX)
            if inner != member.filename and inner.startswith(_NEEDED) and not inner.startswith(_NOT_NEEDED):
                member.filename = inner  # where extract puts it
                jar.extract(member, folder)
    interpreter = folder / "bin" / f"python{_MINOR}"
    interpreter.chmod(0o755)
    executable(folder).symlink_to(interpreter.name)


def ensure_models(cache: Path, interpreter: TritonInterpreter, placement: str, progress: Progress) -> Path:
    """Set the bundled models up as a model repository, once for each version of them; returns its folder.

    Raises:
        StackError: if the set-up fails.
    """
    folder = cache / f"models-{placement}-{models_key(interpreter, placement)}"

    def build(report: Callable[[str], None]) -> None:
        command = [str(interpreter.python), str(models_folder() / "setup_models.py")]
        run_reported([*command, "--repository", str(folder), "--placement", placement], report, _MODELS_HINT)

    build_once(folder, cache, progress, "Setting the models up", build)
    return folder


def models_key(interpreter: TritonInterpreter, purpose: str) -> str:
    """Changes with everything that a repository for ``purpose`` is made from."""
    source = models_folder()
    key = hashlib.sha256(f"{interpreter.folder.name} {purpose}".encode())
    for path in sorted(source.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            key.update(f"{path.relative_to(source)}\0".encode() + path.read_bytes())
    return key.hexdigest()[:12]


def build_once(
    folder: Path, cache: Path, progress: Progress, title: str, build: Callable[[Callable[[str], None]], None]
) -> None:
    """Build a folder unless that is done; a half-built one (crash, Ctrl-C) is thrown away first."""
    if is_built(folder):
        return
    with file_lock(cache / f"{folder.name}.lock", _LOCK_SECONDS, f"building {folder.name}"):
        if is_built(folder):
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with progress.step(title) as report:
            build(report)
        (folder / _COMPLETE).touch()


def pip_install(
    python: Path, folder: Path, requirements: Path, report: Callable[[str], None], hint: str, *options: str
) -> None:
    """Install pinned packages with an environment's pip, as part of building ``folder``. Raises StackError.

    What pip unpacks meanwhile is in there too: a killed one leaves it behind, and it is thrown away with the rest.
    """
    scratch = folder / "tmp"
    scratch.mkdir(parents=True)
    run_reported(
        [
            *(str(python), "-m", "pip", "install", "--disable-pip-version-check"),
            *("--no-deps", "--require-hashes", "--only-binary=:all:", "--progress-bar=off"),
            *(*options, "-r", str(requirements)),
        ],
        report,
        hint,
        {**clean_environment(), "TMPDIR": str(scratch)},
    )
    shutil.rmtree(scratch, ignore_errors=True)


def probe(folder: Path) -> TritonInterpreter:
    """Ask the environment what it holds.

    Raises:
        StackError: if it is broken or its numpy is not below 2.
    """
    python = executable(folder)
    mend = f"delete {folder} and start again"
    try:
        done = subprocess.run(
            [str(python), "-c", _PROBE],
            check=False,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StackError(f"Triton's interpreter {python} does not run ({error}): {mend}") from error
    if done.returncode != 0:
        raise StackError(f"Triton's interpreter {python} is broken: {mend}\n{done.stderr.rstrip()}")
    found = json.loads(done.stdout)
    check_numpy(found["numpy"], mend)
    if found["package"] is None:
        raise StackError(f"Triton's interpreter {python} lacks nvidia-pytriton: {mend}")
    return TritonInterpreter(folder, Path(found["package"]), found["numpy"])


def check_numpy(version: str, mend: str) -> None:
    """Refuse numpy 2 and later: Triton's stub would serve zeros. Raises StackError."""
    if int(version.split(".")[0]) >= 2:
        raise StackError(f"Triton's interpreter has numpy {version}; its stub needs numpy below 2: {mend}")


def clean_environment() -> dict[str, str]:
    """The environment of this process without what would leak its own Python into another interpreter.

    Nor where a user's pip configuration installs to: it would go past the environment.
    """
    unwanted = ("PYTHON", "VIRTUAL_ENV", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
    return {**{name: value for name, value in os.environ.items() if not name.startswith(unwanted)}, "PIP_USER": "0"}


def run_reported(
    command: Sequence[str],
    report: Callable[[str], None],
    hint: str,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a step of the set-up, in ``clean_environment`` unless told otherwise; ``report`` gets each line it prints.

    Raises:
        StackError: with the end of its output and the hint, if it fails.
    """
    last: deque[str] = deque(maxlen=15)
    with (
        Path(os.devnull).open("wb") as nowhere,
        subprocess.Popen(
            guarded(command, nowhere.fileno()),
            env=clean_environment() if environment is None else environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(nowhere.fileno(),),
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                last.append(line.rstrip())
                report(line.strip())
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        raise StackError(f"{hint}\n" + "\n".join(f"  {line}" for line in last))


_PIP_HINT = "Triton's packages could not be installed: the first start needs PyPI; check network and proxy, start again"
_MODELS_HINT = "the models could not be set up"
