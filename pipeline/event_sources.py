"""What stands on the command line → a stream of events, one at a time: words, files, folders, globs, JSON lines.

A folder may hold a hundred thousand files: their names are read folder by folder, their contents one by one.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
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
    media_part,
    named_apart,
    part_of,
)
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.limits import MAX_PARTS
from headrace.pipeline.records import Part

STANDARD_INPUT = "-"
WORDS_SHOWN = 40


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
        line_limit_bytes: the longest line.
        epoch_ms: the time of an event, epoch milliseconds, asked for as it is made.
    """

    items: tuple[Item, ...]
    options: EventOptions
    stdin: BinaryIO
    line_limit_bytes: int
    epoch_ms: Callable[[], int]

    @property
    def one_by_one(self) -> bool:
        """Everything is named, word by word and file by file."""
        return all(isinstance(item, Single) for item in self.items)

    @property
    def has_lines(self) -> bool:
        """Some of it is read from standard input."""
        return any(isinstance(item, Lines) for item in self.items)

    def events(self) -> Iterator[Event | Skipped | Bad]:
        """One after another, in the order of the arguments."""
        for item in self.items:
            yield from self._of(item)

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
                    yield part_of(argument, as_text=as_text)
                case Folder() | Glob():
                    for path in files_of(item):
                        if isinstance(path, Bad):
                            raise path.error
                        if (part := media_part(path)) is not None:
                            yield part
                case Lines():
                    raise ConfigError("--together is for words and files: a JSON line lists its parts itself")

    def _of(self, item: Item) -> Iterator[Event | Skipped | Bad]:
        match item:
            case Single(argument, as_text):
                yield self._single(argument, as_text)
            case Lines():
                from headrace.pipeline.event_lines import event_of_line, read_lines

                for number, line in read_lines(self.stdin, self.line_limit_bytes):
                    origin = f"line {number}"
                    if line is None:
                        yield Bad(origin, ConfigError(f"{origin}: longer than {self.line_limit_bytes:,} bytes"))
                        continue
                    try:
                        yield event_of_line(line, number, self.options, self.epoch_ms())
                    except ConfigError as error:
                        yield Bad(origin, error)
            case _:
                for path in files_of(item):
                    yield path if isinstance(path, Bad) else self._file(path)

    def _single(self, argument: str, as_text: bool) -> Event | Bad:
        path = None if as_text or not is_file(Path(argument)) else Path(argument)
        origin = argument if path is not None or len(argument) <= WORDS_SHOWN else f"{argument[: WORDS_SHOWN - 1]}…"
        try:
            parts = [part_of(argument, as_text=as_text)]
            return event_of(parts, self.options, time_ms=self.epoch_ms(), origin=origin, path=path)
        except ConfigError as error:
            return Bad(origin, error)

    def _file(self, path: Path) -> Event | Skipped | Bad:
        try:
            part = media_part(path)
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
    return (path for path in sorted(_matches(item.pattern)) if path.is_file())


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
            if any(path.is_file() for path in _matches(argument)):
                return Glob(argument)
            if path.suffix.lower() in MEDIA_SUFFIXES or (os.sep in argument and "*" in argument):
                raise ConfigError(f"no file matches {argument}: check the pattern, or say --text to send these words")
    except (OSError, ValueError):  # too long for a name, or a NUL in it: words, then
        return Single(argument, False)
    if argument.endswith(os.sep) and not words:
        raise ConfigError(f"there is no folder {argument}: check the path, or say --text to send these words")
    return Single(argument, False)


def _matches(pattern: str) -> Iterator[Path]:
    return map(Path, glob.iglob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern


def _files_under(folder: Path) -> Iterator[Path | Bad]:
    """By an own stack, not by recursion: folders may be nested deeper than Python's calls may."""
    waiting = [iter([folder])]
    while waiting:
        path = next(waiting[-1], None)
        if path is None:
            waiting.pop()
        elif path.is_dir() and (path is folder or not path.is_symlink()):  # links may lead round in circles
            try:
                waiting.append(iter(_children(path)))
            except OSError as error:
                yield Bad(str(path), ConfigError(f"{path} cannot be read: {error.strerror}"))
        elif path.is_file():
            yield path


def _children(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [folder / name for name in sorted(entry.name for entry in entries) if not name.startswith(".")]
