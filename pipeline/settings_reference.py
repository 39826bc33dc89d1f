"""docs/settings.md and docs/pipeline.schema.json, made from the settings, so that they cannot fall behind."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from enum import EnumMeta
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from headrace.pipeline.config import Settings
from headrace.pipeline.config_base import PATTERN_HELP, Section
from headrace.pipeline.settings_problems import allowed_range

_HEAD = """\
# Settings

Everything has a default: headrace runs with no file at all. A file, `pipeline.yaml`, is given with `-c FILE` or
`HEADRACE_CONFIG`; `headrace config check FILE` checks it, `headrace config show` prints what is in force.

A setting is taken from the first of these that has it:

1. the environment: `HEADRACE_NAME`, and `HEADRACE_<SECTION>__<FIELD>` for the rest, such as
   `HEADRACE_KAFKA__BOOTSTRAP_SERVERS` (lists with commas or as YAML; routes stand in the file alone);
2. the file;
3. the endpoints of an embedded stack that `headrace up` runs;
4. its default.

A text may take a secret, or anything else, from elsewhere: `${env:NAME}` is the environment variable, `${file:PATH}`
what is in the file, without the line end (a path begins beside pipeline.yaml). What is secret by its name
(`sasl.password`, `authorization`) or is the password in a URL is masked in logs, in messages and by
`headrace config show`.

Unknown keys and values that are not allowed are refused, with one line each. An editor checks the file as you type
with `# yaml-language-server: $schema=pipeline.schema.json` as its first line; `headrace config schema` prints that
schema. This page is printed by `headrace config reference`.
"""


def schema() -> str:
    """The JSON Schema of ``pipeline.yaml``."""
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()}
    document["title"] = "headrace pipeline.yaml"
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def page() -> str:
    """docs/settings.md: each section a table, in the order of the file."""
    return "\n".join([_HEAD, *_section("Top level", "", Settings)])


def _section(title: str, path: str, section: type[Section]) -> Iterator[str]:
    inner: list[tuple[str, type[Section]]] = []
    yield f"## {title}\n"
    if section is not Settings and section.__doc__:
        yield " ".join(section.__doc__.split()) + "\n"
    yield "| setting | kind | default | |"
    yield "|---|---|---|---|"
    for name, field in section.model_fields.items():
        sub_path, sub_section = _sub_section(f"{path}{name}", field)
        if sub_section:
            inner.append((sub_path, sub_section))
        kind = f"[section](#{_anchor(sub_path)})" if sub_section else _kind(field)
        yield f"| `{name}` | {kind} | {_default(field)} | {field.description or ''} |"
    yield ""
    for sub_path, sub_section in inner:
        yield from _section(f"`{sub_path}`", f"{sub_path}.", sub_section)


def _anchor(path: str) -> str:
    return "".join(character for character in path if character.isalnum() or character in "_-")


def _sub_section(path: str, field: FieldInfo) -> tuple[str, type[Section] | None]:
    annotation: Any = field.annotation
    if get_origin(annotation) is tuple:
        annotation, path = get_args(annotation)[0], f"{path}[]"
    elif get_origin(annotation) is types.UnionType:  # a section that may be missing
        annotation = get_args(annotation)[0]
    is_section = isinstance(annotation, type) and issubclass(annotation, Section)
    return path, annotation if is_section else None


def _kind(field: FieldInfo) -> str:
    limits = allowed_range(field)
    return _words(field.annotation, field.metadata) + (f", {limits}" if limits else "")


def _words(annotation: Any, metadata: list[Any]) -> str:
    """An annotation in words."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _words(get_args(annotation)[0], [*metadata, *get_args(annotation)[1:]])
    if origin in (Union, types.UnionType):
        inner = [argument for argument in get_args(annotation) if argument is not types.NoneType]
        return _words(inner[0], metadata) if len(inner) == 1 else "text, number, true or false"
    if origin is tuple:
        return f"list of {_words(get_args(annotation)[0], [])}"
    if origin is dict:
        return f"mapping to {_words(get_args(annotation)[1], [])}"
    if isinstance(annotation, EnumMeta):
        return " \\| ".join(f"`{member.value}`" for member in annotation)  # type: ignore[var-annotated] # enums of text
    names = {str: "text", bool: "true or false", int: "whole number", float: "number"}
    return names[annotation] + _pattern_words(metadata)


def _pattern_words(metadata: list[Any]) -> str:
    patterns = [pattern for constraint in metadata if (pattern := getattr(constraint, "pattern", None))]
    return "".join(f" ({PATTERN_HELP[pattern]})" for pattern in patterns if pattern in PATTERN_HELP)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Section) or (isinstance(value, tuple) and value and isinstance(value[0], Section)):
        return "see there"
    if value is None:
        return "none"
    return f"`{json.dumps(value, ensure_ascii=False)}`"
