"""What stands on the command line → a stream of events, one at a time: words, files, folders, globs, JSON lines.

A folder may hold a hundred thousand files: their names are read folder by folder, their contents one by one.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from headrace.pipeline.compose import (
    KINDS,
    MEDIA_SUFFIXES,
    Event,
    EventOptions,
    event_of,
    is_file,
    media_of,
    media_part,
    named_apart,
    part_of,
)
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.limits import MAX_PARTS
from headrace.pipeline.records import Modality, Part

STANDARD_INPUT = "-"
WORDS_SHOWN = 40
_HEAD_BYTES = 12


@dataclass(frozen=True, slots=True)
class Single:
    """Words, or one file."""

    argument: str
    as_text: bool


@dataclass(frozen=True, slots=True)
class Folder:
    """All files in it and in the folders under it, hidden ones left out, in the order of their names."""

    path: Path


@dataclass(frozen=True, slots=True)
class Glob:
    """The files that a pattern matches (``**`` goes down), in the order of their names."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Lines:
    """JSON lines on standard input."""


Item = Single | Folder | Glob | Lines
Idle = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file of a folder or glob that is left out, as it is expected to be: nothing is wrong."""

    origin: str
    reason: str


@dataclass(frozen=True, slots=True)
class Bad:
    """Input of which no event can be made, and what is wrong with it."""

    origin: str
    error: ConfigError


@dataclass(frozen=True, slots=True)
class Input:
    """Where events are read from.

    Attributes:
        items: what the arguments are.
        options: what holds for every event.
        stdin: where JSON lines come from.
        limit_bytes: the longest line, and the largest file, that is read at all.
        epoch_ms: the time of an event, epoch milliseconds, asked for as it is made.
    """

    items: tuple[Item, ...]
    options: EventOptions
    stdin: BinaryIO
    limit_bytes: int
    epoch_ms: Callable[[], int]

    @property
    def one_by_one(self) -> bool:
        """Everything is named, word by word and file by file."""
        return all(isinstance(item, Single) for item in self.items)

    @property
    def has_lines(self) -> bool:
        """Some of it is read from standard input."""
        return any(isinstance(item, Lines) for item in self.items)

    def events(self, idle: Idle | None = None) -> Iterator[Event | Skipped | Bad]:
        """One after another, in the order of the arguments; ``idle`` is called while standard input is waited for."""
        for item in self.items:
            yield from self._of(item, idle)

    def together(self) -> Event:
        """One event with all files and words as its parts.

        Raises:
            ConfigError: a file cannot be used, there are more than an event may have, or lines are asked for.
        """
        parts: list[Part] = []
        for part in self._parts():
            parts.append(part)
            if len(parts) > MAX_PARTS:
                raise ConfigError(f"an event has at most {MAX_PARTS} parts: send fewer files together")
        if not parts:
            raise ConfigError("there is nothing to send: no file of a known kind")
        return event_of(named_apart(parts), self.options, time_ms=self.epoch_ms(), origin="the event")

    def _parts(self) -> Iterator[Part]:
        for item in self.items:
            match item:
                case Single(argument, as_text):
                    yield self._part(argument, as_text)
                case Folder() | Glob():
                    for path in files_of(item):
                        if isinstance(path, Bad):
                            raise path.error
                        if (part := self._media(path)) is not None:
                            yield part
                case Lines():
                    raise ConfigError("--together is for words and files: a JSON line lists its parts itself")

    def _of(self, item: Item, idle: Idle | None) -> Iterator[Event | Skipped | Bad]:
        match item:
            case Single(argument, as_text):
                yield self._single(argument, as_text)
            case Lines():
                from headrace.pipeline.event_lines import event_of_line, patient, read_lines

                stdin = self.stdin if idle is None else patient(self.stdin, idle)
                for number, line in read_lines(stdin, self.limit_bytes):
                    origin = f"line {number}"
                    if line is None:
                        yield Bad(origin, ConfigError(f"{origin}: longer than {self.limit_bytes:,} bytes"))
                        continue
                    try:
                        yield event_of_line(line, number, self.options, self.epoch_ms(), self.limit_bytes)
                    except ConfigError as error:
                        yield Bad(origin, error)
            case _:
                for path in files_of(item):
                    yield path if isinstance(path, Bad) else self._file(path)

    def _single(self, argument: str, as_text: bool) -> Event | Bad:
        path = None if as_text or not is_file(Path(argument)) else Path(argument)
        origin = argument if path is not None or len(argument) <= WORDS_SHOWN else f"{argument[: WORDS_SHOWN - 1]}…"
        try:
            parts = [self._part(argument, as_text)]
            return event_of(parts, self.options, time_ms=self.epoch_ms(), origin=origin, path=path)
        except ConfigError as error:
            return Bad(origin, error)

    def _part(self, argument: str, as_text: bool) -> Part:
        """As `part_of`; a file of another kind is for a model that is named: it may take anything."""
        path = Path(argument)
        if as_text or not is_file(path):
            return part_of(argument, as_text=as_text)
        part = self._media(path)
        if part is not None or self.options.model is None:
            return part or part_of(argument)
        try:
            if path.stat().st_size > self.limit_bytes:
                raise self._too_large(path)
            return Part("file", Modality.TEXT, "application/octet-stream", path.read_bytes())
        except OSError as error:
            raise _unreadable(path, error) from error

    def _media(self, path: Path) -> Part | None:
        """As `media_part`, but what no event can hold is not read."""
        try:
            if path.stat().st_size > self.limit_bytes:
                with path.open("rb") as file:
                    if media_of(file.read(_HEAD_BYTES)) is None:
                        return None
                raise self._too_large(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        return media_part(path)

    def _too_large(self, path: Path) -> ConfigError:
        return ConfigError(
            f"{path} has more than {self.limit_bytes:,} bytes: no event can be so large, send it smaller"
        )

    def _file(self, path: Path) -> Event | Skipped | Bad:
        try:
            part = self._media(path)
            if part is None:
                return Skipped(str(path), f"neither {KINDS}")
            return event_of([part], self.options, time_ms=self.epoch_ms(), origin=str(path), path=path)
        except ConfigError as error:
            return Bad(str(path), error)


def items_of(arguments: Sequence[str], *, as_text: bool) -> tuple[Item, ...]:
    """What each argument is. A folder is one that exists; a pattern is a glob if it matches files.

    Raises:
        ConfigError: a folder or pattern that looks like one, but that nothing is found by; standard input twice.
    """
    items = tuple(_item(argument, as_text) for argument in arguments)
    if sum(isinstance(item, Lines) for item in items) > 1:
        raise ConfigError("standard input can be read once: give - once")
    return items


def files_of(item: Folder | Glob) -> Iterator[Path | Bad]:
    """The files, in order, and folders that cannot be read; one folder's names are held at a time, and those above."""
    if isinstance(item, Folder):
        return _files_under(item.path)
    return _files_among(sorted(_matches(item.pattern)))


def count(items: Sequence[Item]) -> int | None:
    """How many events there may be at most; None if lines are to come. Reads names, no contents."""
    total = 0
    for item in items:
        match item:
            case Single():
                total += 1
            case Lines():
                return None
            case _:
                total += sum(isinstance(path, Path) for path in files_of(item))
    return total


def _item(argument: str, as_text: bool) -> Item:
    if as_text:
        return Single(argument, True)
    if argument == STANDARD_INPUT:
        return Lines()
    path = Path(argument)
    words = any(map(str.isspace, argument))
    try:
        if path.is_dir():
            return Folder(path)
        if not words and not path.exists() and glob.has_magic(argument):
            if any(map(is_file, _matches(argument))):
                return Glob(argument)
            if path.suffix.lower() in MEDIA_SUFFIXES or (os.sep in argument and "*" in argument):
                raise ConfigError(f"no file matches {argument}: check the pattern, or say --text to send these words")
    except (OSError, ValueError):  # too long for a name, or a NUL in it: words, then
        return Single(argument, False)
    if argument.endswith(os.sep) and not words:
        raise ConfigError(f"there is no folder {argument}: check the path, or say --text to send these words")
    return Single(argument, False)


def _matches(pattern: str) -> Iterator[Path]:
    """As a shell would, hidden names left out; ``**`` follows no links to folders, which may lead round in circles."""
    path = Path(pattern)
    names = [name if name == "**" else re.sub(r"\*+", "*", name) for name in path.relative_to(path.anchor).parts]
    dotted = [name for name in names if name.startswith(".")]
    if names[-1] == "**":
        names.append("*")
    for found in Path(path.anchor).glob("/".join(names)):
        hidden = [name for name in found.parts if name.startswith(".")]
        if all(any(fnmatch.fnmatch(name, wanted) for wanted in dotted) for name in hidden):
            yield found


def _files_among(paths: Iterable[Path]) -> Iterator[Path | Bad]:
    for path in paths:
        try:
            regular = path.is_file()
        except OSError as error:
            yield Bad(str(path), _unreadable(path, error))
        else:
            if regular:
                yield path


def _files_under(folder: Path) -> Iterator[Path | Bad]:
    """By an own stack, not by recursion: folders may be nested deeper than Python's calls may."""
    waiting = [iter([folder])]
    while waiting:
        path = next(waiting[-1], None)
        if path is None:
            waiting.pop()
            continue
        try:
            goes_down = path.is_dir() and (path is folder or not path.is_symlink())  # links may lead round in circles
            if goes_down:
                waiting.append(iter(_children(path)))
        except OSError as error:
            yield Bad(str(path), _unreadable(path, error))
        else:
            if not goes_down:
                yield from _files_among([path])


def _children(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [folder / name for name in sorted(entry.name for entry in entries) if not name.startswith(".")]


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path} cannot be read: {error.strerror}")
