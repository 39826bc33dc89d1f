"""The user's own model repositories, served as they are on disk: loaded, loaded again when changed, unloaded.

Triton's poll mode is not used: it starts a broken model anew at every poll, and takes a model out of service whose name
stands in two repositories. Here a model is loaded once for each state of its files, and the version that served
before goes on serving if the new one fails.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from headrace.connectors.embedded.state import ModelState
from headrace.pipeline.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)
"""What a shell leaves alone: the python backend hands paths to one, unquoted."""
_CONFIG = "config.pbtxt"

Files = frozenset[tuple[str, int, int]]
"""Path, modification time in nanoseconds and size in bytes of each file."""


class ModelControl(Protocol):
    """Loads and unloads models of a running Triton."""

    def load(self, name: str) -> str:
        """Load a model, or load it again; returns why it failed, or an empty string.

        Raises:
            OSError: if no server answers.
        """

    def unload(self, name: str) -> None:
        """Unload a model. Raises OSError if no server answers."""


@dataclass(slots=True)
class _Found:
    """A model's folder as it was when last looked at, and what became of it."""

    folder: Path
    files: Files
    tried: Files | None = None
    """Of the last attempt to load it."""
    serving: bool = False
    trouble: str = ""


def check_repository(folder: Path) -> None:
    """Refuse what is no model repository.

    Raises:
        ConfigError: if it is not a folder, or is a model itself.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder: a model repository holds a folder for each model")
    if (folder / _CONFIG).exists():
        raise ConfigError(f"{folder} is a model, not a model repository: name the folder that holds it")


class UserModels:
    """Keeps a running Triton in step with model repositories. Not for use from several threads.

    Args:
        repositories: the user's folders; each folder in them is a model.
        staging: the repository that Triton reads: links to the models' folders, so that paths are ones that it can
            run models from, and a name stands in it once.
        taken: names that the user's models cannot have.
    """

    def __init__(self, repositories: Sequence[Path], staging: Path, taken: Collection[str]) -> None:
        self._repositories = [repository.absolute() for repository in repositories]
        self._staging = staging
        self._taken = frozenset(taken)
        self._found: dict[str, _Found] = {}
        self._refused: dict[Path, ModelState] = {}

    @property
    def staging(self) -> Path:
        return self._staging

    def states(self) -> tuple[ModelState, ...]:
        """Every model, by name."""
        known = (
            ModelState(name, str(found.folder), found.serving, found.trouble) for name, found in self._found.items()
        )
        return tuple(sorted((*known, *self._refused.values()), key=lambda state: (state.name, state.folder)))

    def begin(self) -> None:
        """To be called before Triton starts: nothing is loaded, and ``staging`` is made anew, empty."""
        self._found.clear()
        self._refused.clear()
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir(parents=True)

    def sync(self, control: ModelControl, *, at_once: bool = False) -> list[str]:
        """Load what is new or changed, unload what is gone; returns a line for each model whose state is news.

        A model's files have to be the same in two calls before it is loaded, so that none is loaded half written.

        Args:
            control: the running Triton.
            at_once: load without waiting for a second look.

        Raises:
            OSError: if Triton does not answer; what was not done yet is done by a later call.
        """
        present = self._look(news := [])
        where = {name: folder for name, (folder, _) in present.items()}
        for name in [name for name, found in self._found.items() if where.get(name) != found.folder]:
            control.unload(name)
            (self._staging / name).unlink(missing_ok=True)
            news.append(f"model {name} is unloaded: {self._found.pop(name).folder} is gone")
        for name, (folder, files) in present.items():
            found = self._found.setdefault(name, _Found(folder, frozenset()))
            settled = found.files == files or at_once
            found.files = files
            if settled and found.tried != files:
                news.append(self._load(control, name, found))
        return news

    def _load(self, control: ModelControl, name: str, found: _Found) -> str:
        link = self._staging / name
        if not link.is_symlink():
            link.symlink_to(found.folder)
        trouble = "" if (found.folder / _CONFIG).exists() else f"it has no {_CONFIG}"
        trouble = trouble or control.load(name).replace(str(link), str(found.folder))
        found.tried = found.files
        found.trouble = trouble
        before, found.serving = found.serving, found.serving or not trouble
        if not trouble:
            return f"model {name} is loaded{' again' if before else ''}"
        meanwhile = "; what was loaded before goes on serving" if before else ""
        return f"model {name} cannot be loaded{meanwhile}: {trouble}"

    def _look(self, news: list[str]) -> dict[str, tuple[Path, Files]]:
        """The models that can be loaded; adds a line to ``news`` for each that is refused for its name."""
        present: dict[str, tuple[Path, Files]] = {}
        refused: dict[Path, ModelState] = {}
        for folder in self._folders():
            if not (files := _files(folder)):
                continue  # about to be filled
            known = self._found.get(folder.name)
            if folder.name in self._taken:
                trouble = "headrace has a model of this name: give it another"
            elif not _NAME.fullmatch(folder.name):
                trouble = "its name may have letters, digits and ._- only"
            elif folder.name in present or (known and known.folder != folder and known.folder.is_dir()):
                trouble = "another repository has a model of this name: give it another"
            else:
                present[folder.name] = (folder, files)
                continue
            refused[folder] = ModelState(folder.name, str(folder), False, trouble)
            if folder not in self._refused:
                news.append(f"model {folder.name} in {folder.parent} cannot be loaded: {trouble}")
        self._refused = refused
        return present

    def _folders(self) -> Iterator[Path]:
        for repository in self._repositories:
            try:
                found = sorted(path for path in repository.iterdir() if path.is_dir() and not path.name.startswith("."))
            except OSError:  # deleted meanwhile: its models are gone
                continue
            yield from found


def _files(folder: Path) -> Files:
    """What a model consists of. Editors' scratch files and compiled Python are not part of it."""
    found = set()
    for where, folders, names in os.walk(folder):  # rather than rglob: this runs twice a second, over whatever is there
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        for name in names:
            if name.startswith(".") or name.endswith(("~", ".pyc")):
                continue
            path = os.path.join(where, name)  # noqa: PTH118 # as above
            with contextlib.suppress(OSError):  # gone while we look
                status = os.stat(path)  # noqa: PTH116 # as above
                found.add((path, status.st_mtime_ns, status.st_size))
    return frozenset(found)
