"""Which process owns a leftover: an owner tag names a process for good, because it holds its start time too."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
_TAGGED = re.compile(r"^headrace-(\d+-\d+-\d+)-")


def start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot, None if there is no such process (or a zombie)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # ends while we look
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])


def owner_tag(pid: int | None = None) -> str:
    """``<pid>-<start ticks>-<pid namespace>`` of a process (this one by default): of one boot, no two have the same."""
    pid = os.getpid() if pid is None else pid
    return f"{pid}-{start_ticks(pid) or 0}-{_pid_namespace()}"


def is_alive(tag: str) -> bool:
    """True while the very process that the tag was made for still runs, and is one that this process can see."""
    pid, ticks, namespace = map(int, tag.split("-"))
    return namespace == _pid_namespace() and start_ticks(pid) == ticks


def _pid_namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def temporary_folder(purpose: str) -> Path:
    """A new folder that ``sweep`` recognises as ours if this process dies without removing it."""
    return Path(tempfile.mkdtemp(prefix=f"headrace-{owner_tag()}-{purpose}-"))


def sweep() -> list[Path]:
    """Remove shared memory and temporary folders of this user whose owner is dead; returns what was removed."""
    removed: list[Path] = []
    for folder in (SHARED_MEMORY, Path(tempfile.gettempdir())):
        for path in folder.glob("headrace-*"):
            match = _TAGGED.match(path.name)
            if match and _is_dead(match[1]) and _is_ours(path):
                remove(path)
                removed += [] if path.exists() else [path]
    return removed


def remove(path: Path) -> None:
    """Remove a file or folder if that can be done: a leftover keeps nothing from starting or stopping."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _is_dead(tag: str) -> bool:
    """False also for a tag of another pid namespace (a container that shares the folder): no owner is seen there."""
    return int(tag.rpartition("-")[2]) == _pid_namespace() and not is_alive(tag)


def _is_ours(path: Path) -> bool:
    try:
        return path.lstat().st_uid == os.getuid()
    except FileNotFoundError:  # another process sweeps too
        return False
