"""What is wrong with settings, one line a problem: where, what, and what is allowed."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Union, get_args, get_origin

import annotated_types
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from headrace.pipeline.config import Settings
from headrace.pipeline.config_base import PATTERN_HELP, Section

_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text (put it in quotes)",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping (name: value)",
    "model_type": "a mapping (name: value)",
}
"""pydantic's error type → what the setting must be."""


def describe(error: ValidationError, source: str, variables: Mapping[tuple[str, ...], str]) -> list[str]:
    """One line for each problem, without repeats.

    Args:
        error: from validating `Settings`.
        source: what the values come from, for the start of the line: the file's path.
        variables: location → environment variable, for values that come from there.
    """
    lines: dict[str, None] = {}
    for details in error.errors(include_url=False):
        if _follows_from_others(details):
            continue
        place = _place(details["loc"])
        what = _what(details, place)
        variable = next((name for at, name in variables.items() if details["loc"][: len(at)] == at), None)
        if variable is not None:
            lines[f"{variable}: {what}"] = None
        else:
            lines[": ".join(text for text in (source, place.path, what) if text)] = None
    return list(lines)


def _follows_from_others(details: ErrorDetails) -> bool:
    """Whether a list is only too short because pydantic left out its bad entries, which have lines of their own."""
    return details["type"] == "too_short" and len(details["input"]) >= details["ctx"]["min_length"]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the settings. ``field`` is the innermost declared one; ``extra`` what pydantic adds for unions."""

    path: str
    owner: type[Section]
    field: FieldInfo | None
    extra: bool


def _place(location: tuple[int | str, ...]) -> _Place:
    owner: type[Section] = Settings
    field: FieldInfo | None = None
    annotation: Any = Settings
    path, extra = "", False
    for step in location:
        origin = get_origin(annotation)
        if isinstance(annotation, type) and issubclass(annotation, Section):
            owner, field = annotation, annotation.model_fields.get(str(step))
            path += f".{step}" if path else str(step)
            annotation = _plain(field.annotation) if field else None
        elif origin in (tuple, dict):
            path += f"[{step}]"
            annotation = _plain(get_args(annotation)[0]) if origin is tuple else None
        else:
            extra = True
    return _Place(path, owner, field, extra)


def _plain(annotation: Any) -> Any:
    """An annotation without its constraints and without None."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [argument for argument in get_args(annotation) if argument is not types.NoneType]
        return _plain(inner[0]) if len(inner) == 1 else annotation
    return annotation


def _what(details: ErrorDetails, place: _Place) -> str:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if place.extra:
        return f"{_shown(value)} is not text, a number, true or false"
    if kind == "extra_forbidden":
        return _unknown_key(str(details["loc"][-1]), list(place.owner.model_fields))
    if kind == "missing":
        return "is missing: it has no default"
    if kind == "value_error":
        return str(context["error"])
    if kind == "enum":
        return _not_one_of(value, [text.strip("'") for text in re.split(r", | or ", context["expected"])])
    if kind == "string_pattern_mismatch":
        return _mismatch(value, context["pattern"])
    if kind == "too_short":
        return f"needs {context['min_length']} or more entries, has {context['actual_length']}"
    if kind in _WANTED:
        if value is None:
            return f"is empty: give it a value or leave it out{_allowed(place.field)}"
        return f"{_shown(value)} is not {_WANTED[kind]}{_allowed(place.field)}"
    if kind in _BOUNDS:
        relation, bound = _BOUNDS[kind]
        return f"{_shown(value)} is {relation} {_number(context[bound])}{_allowed(place.field)}"
    return str(details["msg"])  # a kind that no field of today can give: pydantic's words


_BOUNDS = {
    "greater_than_equal": ("less than", "ge"),
    "greater_than": ("not more than", "gt"),
    "less_than_equal": ("more than", "le"),
    "less_than": ("not less than", "lt"),
}


def _unknown_key(key: str, allowed: list[str]) -> str:
    closest = get_close_matches(key, allowed, n=1)
    hint = f"; did you mean {closest[0]}?" if closest else ""
    return f"unknown key{hint} (allowed: {', '.join(allowed)})"


def _not_one_of(value: Any, allowed: list[str]) -> str:
    closest = get_close_matches(str(value), allowed, n=1) or get_close_matches(str(value).upper(), allowed, n=1)
    hint = f"; did you mean {closest[0]}?" if closest else ""
    return f"{_shown(value)} is not known{hint} (allowed: {', '.join(allowed)})"


def _mismatch(value: Any, pattern: str) -> str:
    if choice := re.fullmatch(r"\^\(([a-z|]+)\)\$", pattern):
        return _not_one_of(value, choice[1].split("|"))
    return f"{_shown(value)} is not allowed (allowed: {PATTERN_HELP.get(pattern, pattern)})"


def _allowed(field: FieldInfo | None) -> str:
    limits = allowed_range(field) if field else ""
    return f" (allowed: {limits})" if limits else ""


def allowed_range(field: FieldInfo) -> str:
    """The range that a number may have, in words; empty if it has none."""
    low = high = ""
    for constraint in field.metadata:
        if isinstance(constraint, annotated_types.Ge):
            low = _number(constraint.ge)
        elif isinstance(constraint, annotated_types.Gt):
            low = f"more than {_number(constraint.gt)}"
        elif isinstance(constraint, annotated_types.Le):
            high = _number(constraint.le)
    if low and high:
        return f"{low}, up to {high}" if low.startswith("more") else f"{low} to {high}"
    return low if not low or low.startswith("more") else f"{low} or more"


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shown(value: Any) -> str:
    """A value from a file, short and on one line."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    text = repr(value) if isinstance(value, str) else _number(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
