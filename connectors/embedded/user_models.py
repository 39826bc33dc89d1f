"""The user's own model repositories, served as they are on disk: loaded, loaded again when changed, unloaded.

Triton's poll mode is not used: it starts a broken model anew at every poll, and takes a model out of service whose name
stands in two repositories. Here a model is loaded once for each state of its files, and the version that served
before goes on serving if the new one fails.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from headrace.connectors.embedded.state import ModelState
from headrace.pipeline.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)
"""What a shell leaves alone: the python backend hands paths to one, unquoted."""
_CONFIG = "config.pbtxt"
_ENSEMBLE = "ensemble_scheduling"
_REST_PER_LOOK = 9.0
"""How many times as long as a look took until the next: a tenth of a core at most, however many files there are."""

Files = frozenset[tuple[str, int, int]]
"""Path, modification time in nanoseconds and size in bytes of each file."""


class ModelControl(Protocol):
    """Loads and unloads models of a running Triton."""

    def load(self, name: str) -> str:
        """Load a model, or load it again; returns why it failed, or an empty string. Called in a thread of its own.

        Raises:
            OSError: if no server answers.
        """

    def unload(self, name: str) -> None:
        """Unload a model, without waiting for long. Raises OSError if no server answers."""


Start = Callable[[Callable[[], str]], "Future[str]"]
"""Begins a call, and gives what becomes of it."""


def in_background(call: Callable[[], str]) -> Future[str]:
    """Run a call in a thread that never holds up the end of the process, as an executor's would."""
    future: Future[str] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 # raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, name="model-load", daemon=True).start()
    return future


@dataclass(frozen=True, slots=True)
class _Seen:
    """A model's folder in one look."""

    folder: Path
    files: Files | None
    """None: they cannot be read."""
    trouble: str = ""
    """Why not."""


@dataclass(slots=True)
class _Found:
    """A model's folder as it was when last looked at, and what became of it."""

    folder: Path
    files: Files | None = None
    tried: Files | None = None
    """Of the last attempt to load it."""
    attempt: Future[str] | None = None
    """The load under way."""
    serving: bool = False
    trouble: str = ""
    missed: bool = False
    """It was not there in the last look."""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def state(self) -> ModelState:
        loading = self.attempt is not None or self.files != self.tried
        return ModelState(self.name, str(self.folder), self.serving, self.trouble, loading)

    @property
    def has_config(self) -> bool:
        return any(path == str(self.folder / _CONFIG) for path, _, _ in self.files or ())

    @property
    def is_ensemble(self) -> bool:
        try:
            return _ENSEMBLE in (self.folder / _CONFIG).read_text(errors="replace")
        except OSError:  # gone meanwhile
            return False


def check_repository(folder: Path) -> None:
    """Refuse what is no model repository.

    Raises:
        ConfigError: if it is not a folder, cannot be read, or is a model itself.
    """
    try:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder: a model repository holds a folder for each model")
        list(folder.iterdir())
        if (folder / _CONFIG).exists():
            raise ConfigError(f"{folder} is a model, not a model repository: name the folder that holds it")
    except OSError as error:
        raise ConfigError(f"{folder} cannot be read ({error.strerror}): give this user the right to") from error


class UserModels:
    """Keeps a running Triton in step with model repositories. Not for use from several threads.

    Args:
        repositories: the user's folders; each folder in them is a model.
        staging: the repository that Triton reads: links to the models' folders, so that paths are ones that it can
            run models from, and a name stands in it once.
        taken: names that the user's models cannot have.
        start: begins a load.
        clock: seconds.
    """

    def __init__(
        self,
        repositories: Sequence[Path],
        staging: Path,
        taken: Collection[str],
        *,
        start: Start = in_background,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._repositories = [repository.absolute() for repository in repositories]
        self._staging = staging
        self._taken = frozenset(taken)
        self._start = start
        self._clock = clock
        self._next_look = clock()
        self._found: dict[str, _Found] = {}
        self._refused: dict[Path, ModelState] = {}

    @property
    def staging(self) -> Path:
        return self._staging

    @property
    def loading(self) -> bool:
        """True while a load is under way."""
        return any(found.attempt for found in self._found.values())

    def states(self) -> tuple[ModelState, ...]:
        """Every model, by name."""
        known = (found.state for found in self._found.values())
        return tuple(sorted((*known, *self._refused.values()), key=lambda state: (state.name, state.folder)))

    def begin(self) -> None:
        """To be called before Triton starts: nothing is loaded, and ``staging`` is made anew, empty."""
        self._found.clear()
        self._refused.clear()
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir(parents=True)

    def sync(self, control: ModelControl, *, at_once: bool = False) -> list[str]:
        """Begin to load what is new or changed, unload what is gone; returns a line for each model whose state is news.

        A model's files have to be the same in two looks before it is loaded, so that none is loaded half written. It
        has to be gone in two before it is unloaded: who copies a folder anew begins by deleting it.

        Args:
            control: the running Triton.
            at_once: load without waiting for a second look.
        """
        news = self.collect()
        began = self._clock()
        if began < self._next_look and not at_once:
            return news
        seen = self._look(news)
        self._unload_gone(control, seen, news)
        due = []
        for name, one in seen.items():
            found = self._found.setdefault(name, _Found(one.folder))
            if found.folder != one.folder:
                continue  # the one before is to be unloaded first
            settled = found.files == one.files or at_once
            found.files, found.missed = one.files, False
            if one.files is None:
                news += self._unreadable(found, one.trouble)
            elif settled and found.files != found.tried and found.attempt is None:
                due.append(found)
        for found in due:  # all of them before one is loaded: an ensemble has Triton load what it is made of
            link = self._staging / found.name
            if not link.is_symlink():
                link.symlink_to(found.folder)
        for found in due:
            self._load(control, found)
        ended = self._clock()
        self._next_look = ended + _REST_PER_LOOK * (ended - began)
        return news + self.collect()

    def collect(self) -> list[str]:
        """See which loads have come to an end; returns a line for each."""
        ended = [(found, found.attempt) for found in self._found.values() if found.attempt and found.attempt.done()]
        return [line for found, attempt in ended for line in self._ended(found, attempt)]

    def _load(self, control: ModelControl, found: _Found) -> None:
        found.tried, found.trouble = found.files, ""
        load = functools.partial(control.load, found.name)
        found.attempt = self._start(load if found.has_config else lambda: f"it has no {_CONFIG}")

    def _ended(self, found: _Found, attempt: Future[str]) -> Iterator[str]:
        found.attempt = None
        try:
            trouble = attempt.result()
        except OSError:  # Triton has ended: what starts it again begins anew, and else this is tried again
            found.tried = None
            return
        if trouble:
            found.trouble = trouble.replace(str(self._staging / found.name), str(found.folder))
            meanwhile = "; what was loaded before goes on serving" if found.serving else ""
            yield f"model {found.name} cannot be loaded{meanwhile}: {found.trouble}"
            return
        yield f"model {found.name} is loaded{' again' if found.serving else ''}"
        found.serving = True
        for other in self._found.values():
            if other.trouble and other.is_ensemble:  # it may be made of this one
                other.tried = None

    def _unload_gone(self, control: ModelControl, seen: Mapping[str, _Seen], news: list[str]) -> None:
        for name, found in list(self._found.items()):
            if (name in seen and seen[name].folder == found.folder) or found.attempt:
                continue
            if not found.missed:
                found.missed = True
                continue
            try:
                control.unload(name)
            except OSError:  # as in _ended
                continue
            (self._staging / name).unlink(missing_ok=True)
            del self._found[name]
            news.append(f"model {name} is unloaded: {found.folder} is gone")

    @staticmethod
    def _unreadable(found: _Found, trouble: str) -> Iterator[str]:
        found.tried = None
        if found.trouble != trouble:
            found.trouble = trouble
            yield f"model {found.name} cannot be loaded: {trouble}"

    def _look(self, news: list[str]) -> dict[str, _Seen]:
        """The models there are; adds a line to ``news`` for each that is refused for its name."""
        seen: dict[str, _Seen] = {}
        refused: dict[Path, ModelState] = {}
        for one in self._folders():
            folder, name = one.folder, one.folder.name
            known = self._found.get(name)
            if name in self._taken:
                trouble = "headrace has a model of this name: give it another"
            elif not _NAME.fullmatch(name):
                trouble = "its name may have letters, digits and ._- only"
            elif name in seen or (known and known.folder != folder and os.path.isdir(known.folder)):  # noqa: PTH112 # never raises
                trouble = "another repository has a model of this name: give it another"
            else:
                seen[name] = one
                continue
            refused[folder] = ModelState(name, str(folder), False, trouble)
            if folder not in self._refused:
                news.append(f"model {name} in {folder.parent} cannot be loaded: {trouble}")
        self._refused = refused
        return seen

    def _folders(self) -> Iterator[_Seen]:
        for repository in self._repositories:
            try:
                folders = sorted(path for path in repository.iterdir() if path.is_dir() and path.name[0] != ".")
            except PermissionError as error:
                known = [found.folder for found in self._found.values() if found.folder.parent == repository]
                yield from (_Seen(folder, None, _refusal(error)) for folder in known)
                continue
            except OSError:  # deleted meanwhile: its models are gone
                continue
            for folder in folders:
                try:
                    files = _files(folder)
                except PermissionError as error:
                    yield _Seen(folder, None, _refusal(error))
                    continue
                if files:  # else about to be filled
                    yield _Seen(folder, files)


def _refusal(error: OSError) -> str:
    return f"{error.filename} cannot be read ({error.strerror}): give this user the right to"


def _files(folder: Path) -> Files:
    """What a model consists of. Editors' scratch files and compiled Python are not part of it.

    Version folders may be links; links further down are not followed, wherever they lead.

    Raises:
        PermissionError: if some of it cannot be read.
    """
    try:
        links = [path for path in folder.iterdir() if path.is_symlink() and path.is_dir()]
    except FileNotFoundError:  # gone while we look
        return frozenset()
    found = set()
    for where, folders, names in itertools.chain.from_iterable(map(_walk, (folder, *links))):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        for name in names:
            if name.startswith(".") or name.endswith(("~", ".pyc")):
                continue
            path = os.path.join(where, name)  # noqa: PTH118 # see _walk
            try:
                status = os.stat(path)  # noqa: PTH116 # see _walk
            except OSError as error:
                _unless_gone(error)
            else:
                found.add((path, status.st_mtime_ns, status.st_size))
    return frozenset(found)


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Rather than rglob: this runs twice a second, over whatever is there."""
    return os.walk(folder, onerror=_unless_gone)


def _unless_gone(error: OSError) -> None:
    """Also of links that lead nowhere, or round and round."""
    if isinstance(error, PermissionError):
        raise error
