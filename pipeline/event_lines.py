"""JSON lines → events: the whole of the contract, for scripts. Pure, but for the files that the lines name."""

from __future__ import annotations

import base64
import binascii
import io
import math
import os
import select
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from headrace.pipeline.codecs.tensor import serialize_bytes
from headrace.pipeline.compose import PART_NAMES, Event, EventOptions, event_of, media_of
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.ports import dtype_of
from headrace.pipeline.records import Modality, Part, Tensor

LOOK_SECONDS = 0.05
"""How often ``idle`` is called while a line is waited for."""
_CONTENTS = ("text", "file", "base64", "tensor")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Tensor(_Strict):
    datatype: str
    shape: list[int]
    data: list[Any]


class _Content(_Strict):
    text: str | None = None
    file: str | None = None
    base64: str | None = None
    tensor: _Tensor | None = None

    @property
    def given(self) -> list[str]:
        return [name for name in _CONTENTS if getattr(self, name) is not None]


class _Part(_Content):
    name: str | None = None
    modality: str | None = None
    content_type: str | None = None

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if len(self.given) != 1:
            raise ValueError(f"a part has exactly one of {', '.join(_CONTENTS)}, not {_listed(self.given)}")
        if self.modality is not None and self.modality not in [*Modality]:
            raise ValueError(f"modality is one of {', '.join(Modality)}, not {self.modality[:40]!r}")
        return self


class _Line(_Content):
    """``text``, ``file``, ``base64`` or ``tensor`` stand for ``parts`` with that one part."""

    id: str | None = None
    type: str | None = None
    source: str | None = None
    subject: str | None = None
    session: str | None = None
    time_ms: int | None = None
    key: str | None = None
    model: str | None = None
    version: str | None = None
    parameters: dict[str, str | int | float | bool] = Field(default_factory=dict)
    headers: dict[str, str] = Field(default_factory=dict)
    parts: list[_Part] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _some_content(self) -> Self:
        if len(self.given) + (self.parts is not None) != 1:
            given = [*self.given, *(["parts"] if self.parts is not None else [])]
            raise ValueError(f"an event has exactly one of parts, {', '.join(_CONTENTS)}, not {_listed(given)}")
        if self.id is not None and not _is_uuid(self.id):
            raise ValueError(f"id is a UUID of the form 8-4-4-4-12, not {self.id[:60]!r}")
        return self


class _Patient(io.RawIOBase):
    """A raw stream that calls ``idle`` while there is nothing to read."""

    def __init__(self, raw: io.RawIOBase, idle: Callable[[], None]) -> None:
        self._raw = raw
        self._idle = idle

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        while not select.select([self._raw], [], [], LOOK_SECONDS)[0]:
            self._idle()
        return self._raw.readinto(buffer)


def patient(stream: BinaryIO, idle: Callable[[], None]) -> BinaryIO:
    """The same stream, of which nothing was read yet, with ``idle`` called while it is silent."""
    raw = getattr(stream, "raw", None)  # none if it is in memory: then it is never silent
    return stream if raw is None else io.BufferedReader(_Patient(raw, idle))


def read_lines(stream: BinaryIO, limit_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """The lines that are not blank, with their numbers from 1; None for one that is longer than the limit."""
    number = 0
    while line := stream.readline(limit_bytes + 1):
        number += 1
        too_long = len(line) > limit_bytes and not line.endswith(b"\n")
        while too_long and line and not line.endswith(b"\n"):
            line = stream.readline(limit_bytes)
        if too_long:
            yield number, None
        elif line.strip():
            yield number, line


def event_of_line(line: bytes, number: int, options: EventOptions, time_ms: int, limit_bytes: int) -> Event:
    """The event that a line describes.

    Args:
        line: a JSON object: ``parts`` (or one of ``text``, ``file``, ``base64``, ``tensor`` for its only part), and any
            of ``id``, ``type``, ``source``, ``subject``, ``session``, ``time_ms``, ``key``, ``model``, ``version``,
            ``parameters`` and ``headers``.
        number: of the line, for messages.
        options: what holds where the line says nothing; parameters and headers are joined.
        time_ms: event time (epoch milliseconds) of a line without its own.
        limit_bytes: the largest file.

    Raises:
        ConfigError: what is wrong with the line, and its number.
    """
    origin = f"line {number}"
    try:
        said = _Line.model_validate_json(line)
        parts = said.parts or [_Part(text=said.text, file=said.file, base64=said.base64, tensor=said.tensor)]
        return _event(said, _named([_part(part, limit_bytes) for part in parts]), options, time_ms, origin)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_problem(error)}") from error
    except ValueError as error:
        raise ConfigError(f"{origin}: {error}") from error


def _event(said: _Line, parts: Sequence[Part], options: EventOptions, time_ms: int, origin: str) -> Event:
    own = said.headers
    mine = replace(
        options,
        type=said.type if said.type is not None else options.type,
        source=said.source if said.source is not None else options.source,
        # a line that names its own model has nothing to do with the version of another
        model=said.model if said.model is not None else options.model,
        model_version=said.version if said.version or said.model is not None else options.model_version,
        key=os.fsencode(said.key) if said.key is not None else options.key,
        key_from=None if said.key is not None else options.key_from,
        headers=(
            *((name, value) for name, value in options.headers if name not in own),
            *((name, value.encode()) for name, value in own.items()),
        ),
        parameters={**options.parameters, **said.parameters},
    )
    path = Path(said.file) if said.file is not None else None
    event = event_of(parts, mine, time_ms=time_ms if said.time_ms is None else said.time_ms, origin=origin, path=path)
    request = replace(event.request, subject=said.subject, session=said.session)
    return replace(event, request=request if said.id is None else replace(request, id=said.id))


def _part(said: _Part, limit_bytes: int) -> tuple[str | None, Part]:
    """The name that was given, if any, and the part."""
    if said.file is not None:
        part = _file_part(Path(said.file), said.modality, limit_bytes)
    elif said.base64 is not None:
        part = _bytes_part(_decoded(said.base64), said.modality, "base64")
    elif said.tensor is not None:
        part = Part("", Modality(said.modality or Modality.TENSOR), "", _tensor(said.tensor))
    else:
        modality = Modality(said.modality or Modality.TEXT)
        part = Part("", modality, "text/plain" if modality is Modality.TEXT else "", said.text or "")
    if said.content_type is not None:
        part = replace(part, content_type=said.content_type)
    return said.name, part


def _file_part(path: Path, modality: str | None, limit_bytes: int) -> Part:
    try:
        with path.open("rb") as file:
            content = file.read(limit_bytes + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > limit_bytes:
        raise ValueError(f"{path} has more than {limit_bytes:,} bytes: no event can be so large, send it smaller")
    return _bytes_part(content, modality, str(path))


def _bytes_part(content: bytes, modality: str | None, what: str) -> Part:
    found = media_of(content)
    if modality is None and found is None:
        raise ValueError(f"{what} is of no known kind: give its modality")
    kind, content_type = found or (Modality(modality or ""), "")
    if modality is not None and modality != kind:
        kind, content_type = Modality(modality), ""
    return Part("", kind, content_type, content)


def _named(parts: Sequence[tuple[str | None, Part]]) -> list[Part]:
    """Names for those without one, apart from all others."""
    taken = {name for name, _ in parts if name is not None}
    named = []
    for name, part in parts:
        base, number = PART_NAMES[part.modality], 1
        chosen = name if name is not None else base
        while name is None and chosen in taken:
            number += 1
            chosen = f"{base}-{number}"
        taken.add(chosen)
        named.append(replace(part, name=chosen))
    return named


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"base64 cannot be decoded: {error}") from error


def _tensor(said: _Tensor) -> Tensor:
    elements = list(_flat(said.data))
    if any(dimension < 0 for dimension in said.shape):
        raise ValueError(f"tensor: no dimension of shape {said.shape} may be negative")
    if len(elements) != math.prod(said.shape):
        raise ValueError(f"tensor: shape {said.shape} has {math.prod(said.shape)} elements, data has {len(elements)}")
    return Tensor(said.datatype, tuple(said.shape), _tensor_bytes(said.datatype, elements))


def _tensor_bytes(datatype: str, elements: list[Any]) -> bytes:
    if datatype == "BYTES":
        return serialize_bytes([_checked(element, str, datatype).encode() for element in elements])
    try:
        dtype = dtype_of(datatype)
    except KeyError:
        raise ValueError(
            f"tensor: datatype {datatype[:20]!r} cannot be written in JSON: use FP32, INT64, BYTES …"
        ) from None
    if dtype.kind == "b":
        return np.array([_checked(element, bool, datatype) for element in elements], dtype).tobytes()
    if dtype.kind == "f":
        return _floats([_checked(element, (int, float), datatype) for element in elements], dtype, datatype)
    limits = np.iinfo(dtype)
    for element in elements:
        if not limits.min <= _checked(element, int, datatype) <= limits.max:
            raise ValueError(f"tensor: {element} does not fit {datatype}")
    return np.array(elements, dtype).tobytes()


def _floats(elements: list[int | float], dtype: np.dtype[Any], datatype: str) -> bytes:
    """Rounded to the datatype, but no number becomes infinite by it."""
    try:
        with np.errstate(over="ignore"):
            given = np.array([float(element) for element in elements], np.float64)
            rounded = given.astype(dtype)
    except OverflowError:
        raise ValueError(f"tensor: an element does not fit {datatype}") from None
    lost = np.isinf(rounded) & ~np.isinf(given)
    if lost.any():
        raise ValueError(f"tensor: {given[lost][0]:g} does not fit {datatype}")
    return rounded.tobytes()


def _checked(element: Any, kind: type | tuple[type, ...], datatype: str) -> Any:
    if not isinstance(element, kind) or (isinstance(element, bool) and kind is not bool):
        raise ValueError(f"tensor: {str(element)[:40]!r} is no element of {datatype}")
    return element


def _flat(data: list[Any]) -> Iterator[Any]:
    for element in data:
        if isinstance(element, list):
            yield from _flat(element)
        else:
            yield element


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names) or "none"


def _problem(error: ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    first: Mapping[str, Any] = error.errors(include_url=False)[0]
    place = ".".join(str(step) for step in first["loc"])
    if first["type"] == "json_invalid":
        return f"not JSON: {first['ctx']['error']}"
    if first["type"] == "extra_forbidden":
        known = ", ".join(_Part.model_fields if first["loc"][0] == "parts" else _Line.model_fields)
        return f"{place} is unknown; there are: {known}"
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] in ("model_type", "model_attributes_type") and not place:
        return "must be a JSON object"
    return f"{place}: {message}" if place else message
