"""What should have been answered, as people write it down: CSV or JSON lines, by event id or by position. Pure."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.pipeline.errors import ConfigError

_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_WHOLE = re.compile(r"[0-9]{1,19}")
_PLACE = ("topic", "partition", "offset")
_MOST = {"partition": 2**31 - 1, "offset": 2**63 - 1}


@dataclass(frozen=True, slots=True)
class Truth:
    """What an event, or one of its parts, should have been answered with.

    Attributes:
        label: a class, or a text.
        id: of the event, in lower case; None if the position says which it is.
        position: topic, partition and offset; None if the id does.
        part: name; empty for the one of an event that has one.
        route: whose answers; empty for any route's.
    """

    label: str
    id: str | None
    position: tuple[str, int, int] | None
    part: str = ""
    route: str = ""


def read_labels(path: Path) -> Iterator[Truth]:
    """The labels of a ``.csv`` file with a heading, or of a file of JSON lines.

    Columns or fields: ``label``, ``id`` or ``topic``, ``partition`` and ``offset``, and, if it is for one of them only,
    ``part`` and ``route``.

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
    _check_heading(path, rows.fieldnames or ())
    for row in rows:
        if None in row:
            raise ConfigError(f"{path}, line {rows.line_num}: it has more columns than the heading")
        yield truth({name: value for name, value in row.items() if value}, f"{path}, line {rows.line_num}")


def _check_heading(path: Path, names: Sequence[str]) -> None:
    missing = [] if "label" in names else ["label"]
    if "id" not in names and not set(_PLACE) <= set(names):
        missing.append("id (or topic, partition and offset)")
    if missing:
        raise ConfigError(
            f"{path}, line 1: the heading has no {' and no '.join(missing)}: names are in lower case, with commas "
            f"between them; it is {','.join(names)!r}"
        )


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
    except (ValueError, RecursionError) as error:
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
    label = _text(fields.get("label"), "label", where)
    part, route = (_text(fields.get(name, ""), name, where) for name in ("part", "route"))
    event = fields.get("id")
    if event is not None:
        if not (isinstance(event, str) and _UUID.fullmatch(event)):
            raise ConfigError(f"{where}: id {event!r} is not a UUID")
        return Truth(label, event.lower(), None, part, route)
    if any(fields.get(name) is None for name in _PLACE):
        raise ConfigError(f"{where}: it says neither id nor topic, partition and offset")
    partition, offset = (_whole(fields[name], name, where) for name in _MOST)
    return Truth(label, None, (_text(fields["topic"], "topic", where), partition, offset), part, route)


def _text(value: Any, name: str, where: str) -> str:
    """A field that is one; half of a surrogate pair, which JSON can spell, is none."""
    if not isinstance(value, str):
        raise ConfigError(f"{where}: it has no {name}, or one that is no text")
    if not value.isascii() and any("\ud800" <= each <= "\udfff" for each in value):
        raise ConfigError(f"{where}: its {name} {value!r} has half of a surrogate pair, which is no character")
    return value


def _whole(value: Any, name: str, where: str) -> int:
    """A field that is a whole number, or the digits of one, and that Kafka can mean."""
    digits = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not _WHOLE.fullmatch(digits) or int(digits) > _MOST[name]:
        raise ConfigError(f"{where}: {name} {value!r} is not a whole number from 0 to {_MOST[name]}")
    return int(digits)
