"""What should have been answered, as people write it down: CSV or JSON lines, by event id or by position. Pure."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.pipeline.errors import ConfigError

_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_PLACE = ("topic", "partition", "offset")


@dataclass(frozen=True, slots=True)
class Truth:
    """What an event, or one of its parts, should have been answered with.

    Attributes:
        label: a class, or a text.
        id: of the event, in lower case; None if the position says which it is.
        position: topic, partition and offset; None if the id does.
        part: name; empty for all of an event's.
    """

    label: str
    id: str | None
    position: tuple[str, int, int] | None
    part: str = ""


def read_labels(path: Path) -> Iterator[Truth]:
    """The labels of a ``.csv`` file with a heading, or of a file of JSON lines.

    Columns or fields: ``label``, ``id`` or ``topic``, ``partition`` and ``offset``, and, if it is for one, ``part``.

    Raises:
        ConfigError: the file cannot be read, or a line of it; says which.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            yield from _csv(path, lines) if path.suffix.lower() == ".csv" else _json_lines(path, lines)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _csv(path: Path, lines: Iterable[str]) -> Iterator[Truth]:
    rows = csv.DictReader(lines)
    for row in rows:
        if None in row:
            raise ConfigError(f"{path}, line {rows.line_num}: it has more columns than the heading")
        yield truth({name: value for name, value in row.items() if value}, f"{path}, line {rows.line_num}")


def _json_lines(path: Path, lines: Iterable[str]) -> Iterator[Truth]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield json_truth(line, f"{path}, line {number}")


def json_truth(text: str | bytes, where: str, key: str | None = None) -> Truth:
    """The label in a line of JSON, or in the value of a record.

    Args:
        text: an object.
        where: for messages.
        key: the record's, which is the event's id if the object names neither id nor position.

    Raises:
        ConfigError: it is none.
    """
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{where}: it is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ConfigError(f"{where}: it is no JSON object")
    if key is not None and "id" not in fields and "offset" not in fields:
        fields["id"] = key
    return truth(fields, where)


def truth(fields: Mapping[str, Any], where: str) -> Truth:
    """A label from its fields.

    Raises:
        ConfigError: one is missing or wrong.
    """
    label, part, event = fields.get("label"), fields.get("part", ""), fields.get("id")
    if not isinstance(label, str) or not isinstance(part, str):
        raise ConfigError(f"{where}: it has no label, or one that is no text")
    if event is not None:
        if not (isinstance(event, str) and _UUID.fullmatch(event)):
            raise ConfigError(f"{where}: id {event!r} is not a UUID")
        return Truth(label, event.lower(), None, part)
    missing = [name for name in _PLACE if name not in fields]
    if missing:
        raise ConfigError(f"{where}: it says neither id nor topic, partition and offset")
    topic, partition, offset = (fields[name] for name in _PLACE)
    try:
        return Truth(label, None, (str(topic), int(partition), int(offset)), part)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: partition and offset are whole numbers") from None
