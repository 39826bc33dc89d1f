"""Which process owns a leftover: an owner tag names a process for good, because it holds its start time too."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
_TAGGED = re.compile(r"^headrace-(\d+-\d+)-")


def start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot, None if there is no such process (or a zombie)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # ends while we look
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])


def owner_tag(pid: int | None = None) -> str:
    """``<pid>-<start ticks>`` of a process (this one by default): never the same for two processes of one boot."""
    pid = os.getpid() if pid is None else pid
    return f"{pid}-{start_ticks(pid) or 0}"


def is_alive(tag: str) -> bool:
    """True while the very process that the tag was made for still runs."""
    pid, _, ticks = tag.partition("-")
    return str(start_ticks(int(pid))) == ticks


def temporary_folder(purpose: str) -> Path:
    """A new folder that ``sweep`` recognises as ours if this process dies without removing it."""
    return Path(tempfile.mkdtemp(prefix=f"headrace-{owner_tag()}-{purpose}-"))


def sweep() -> list[Path]:
    """Remove shared memory and temporary folders whose owner is dead; returns what was removed."""
    removed = []
    for folder in (SHARED_MEMORY, Path(tempfile.gettempdir())):
        for path in folder.glob("headrace-*"):
            match = _TAGGED.match(path.name)
            if match and not is_alive(match[1]):
                remove(path)
                removed.append(path)
    return removed


def remove(path: Path) -> None:
    """Remove a file or folder; fine if it is gone already (another process may sweep at the same time)."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
