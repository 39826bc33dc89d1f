"""Paths into an event's outcome, such as ``result.outputs[0].labels[0].name``, and what they lead to. Pure.

A path names fields of the dataclasses in ``records``: it is checked against their types before anything runs.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Union

from headrace.pipeline.records import Headers, InferenceRequest, InferenceResult, SourceRecord, Tensor

_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|\[(0|[1-9][0-9]{0,5})\]")
_ROOTS: dict[str, Any] = {"request": InferenceRequest, "result": InferenceResult, "record": SourceRecord}
_HEADERS = "headers."

Step = str | int


def check_path(path: str) -> None:
    """See that a path may lead somewhere.

    Raises:
        ValueError: what is wrong with it, and what there is instead.
    """
    if path.startswith(_HEADERS) and len(path) > len(_HEADERS):
        return
    root, steps = _parse(path)
    kind = _ROOTS.get(root)
    if kind is None:
        raise ValueError(f"{path!r} begins with none of {', '.join(_ROOTS)} and headers.NAME")
    reached = root
    for step in steps:
        kind = _next_kind(path, reached, kind, step)
        reached += f"[{step}]" if isinstance(step, int) else f".{step}"


def value_at(path: str, record: SourceRecord, request: InferenceRequest, result: InferenceResult) -> Any:
    """What a path leads to, as JSON has it; None if there is nothing.

    Bytes become text (what is not UTF-8 is escaped), tensors a list of their elements, other records objects, and
    numbers that JSON has no form for (NaN, infinities) None.
    """
    if path.startswith(_HEADERS):
        return _plain(_header(record.headers, path.removeprefix(_HEADERS)))
    root, steps = _parse(path)
    found: Any = {"request": request, "result": result, "record": record}[root]
    for step in steps:
        found = _step(found, step)
    return _plain(found)


def _parse(path: str) -> tuple[str, list[Step]]:
    root = re.match(r"[A-Za-z_]*", path)
    position = root.end() if root else 0
    steps: list[Step] = []
    while position < len(path):
        step = _STEP.match(path, position)
        if step is None:
            raise ValueError(f"{path!r} cannot be read from {path[position:]!r} on: write names.with.dots and [0]")
        steps.append(step[1] if step[1] is not None else int(step[2]))
        position = step.end()
    return path[: root.end()] if root else "", steps


def _next_kind(path: str, reached: str, kind: Any, step: Step) -> Any:
    kind = _without_none(kind)
    if kind is Any:
        return Any
    origin = typing.get_origin(kind)
    if isinstance(step, int):
        if origin is tuple:
            return typing.get_args(kind)[0]
        raise ValueError(f"{path!r}: {reached} is no list, so [{step}] leads nowhere")
    if origin is not None and issubclass(origin, Mapping):
        return typing.get_args(kind)[1]
    if origin is tuple:
        raise ValueError(f"{path!r}: {reached} is a list: say which, {reached}[0].{step}")
    if not dataclasses.is_dataclass(kind):
        raise ValueError(f"{path!r}: {reached} is a value, so .{step} leads nowhere")
    hints = typing.get_type_hints(kind)
    if step not in hints:
        raise ValueError(f"{path!r}: {reached} has no {step}; it has {', '.join(hints)}")
    return hints[step]


def _without_none(kind: Any) -> Any:
    """A union of one kind and None is that kind; of several, anything."""
    if typing.get_origin(kind) not in (Union, types.UnionType):
        return kind
    inner = [each for each in typing.get_args(kind) if each is not types.NoneType]
    return inner[0] if len(inner) == 1 else Any


def _step(found: Any, step: Step) -> Any:
    if isinstance(step, int):
        is_list = isinstance(found, Sequence) and not isinstance(found, str | bytes)
        return found[step] if is_list and step < len(found) else None
    if isinstance(found, Mapping):
        return found.get(step)
    return getattr(found, step, None) if dataclasses.is_dataclass(found) else None


def _header(headers: Headers, name: str) -> bytes | None:
    return dict(headers).get(name)  # of one that stands more than once the last counts


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, Tensor):
        from headrace.pipeline.present import tensor_elements  # brings numpy, which settings alone need not load

        return [_plain(element) for element in tensor_elements(value)]
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value
