"""Where the embedded stack keeps what it downloads (cache) and what it stores (state)."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from headrace.pipeline.errors import StackError


def cache_dir() -> Path:
    """Downloads and what is built from them: ``HEADRACE_CACHE``, or headrace's folder in the XDG cache."""
    return _dir("HEADRACE_CACHE", "XDG_CACHE_HOME", ".cache")


def state_dir() -> Path:
    """Data and state file of ``headrace up``: ``HEADRACE_HOME``, or headrace's folder in the XDG state."""
    return _dir("HEADRACE_HOME", "XDG_STATE_HOME", ".local/state")


def folder_variable(path: Path) -> str | None:
    """The variable that moves what ``path`` belongs to, None if it is no part, nor a parent, of either folder."""
    for variable, find in (("HEADRACE_CACHE", cache_dir), ("HEADRACE_HOME", state_dir)):
        with contextlib.suppress(FileNotFoundError):  # this user has no such folder
            folder = find()
            if path.is_relative_to(folder) or folder.is_relative_to(path):
                return variable
    return None


def atomic_write(path: Path, text: str) -> None:
    """Replace a file in one step; its folder is made if missing. One writer at a time: callers hold a lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.new")
    scratch.write_text(text)
    scratch.replace(path)


def check_path(path: Path) -> None:
    """Refuse a path that Triton's python backend would break: it hands paths to a shell, unquoted.

    Raises:
        StackError: saying what may stand in a path, and how to choose another.
    """
    if not re.fullmatch(r"[\w./+@%:,=-]+", str(path)):
        raise StackError(
            f"Triton cannot run models from {str(path)!r}: its folders' names may have letters, digits and ._-+@%:,= "
            "only. Set HEADRACE_CACHE and HEADRACE_HOME (for the demo TMPDIR) to folders named so"
        )


def _dir(own_variable: str, xdg_variable: str, fallback: str) -> Path:
    if own := os.environ.get(own_variable):
        return Path(own).expanduser().absolute()
    base = os.environ.get(xdg_variable)
    return (Path(base) if base else _home(own_variable) / fallback).absolute() / "headrace"


def _home(own_variable: str) -> Path:
    try:
        return Path.home()
    except RuntimeError as error:  # no HOME, and a user id without an account
        raise FileNotFoundError(f"this user has no home folder: set {own_variable} to a folder") from error
