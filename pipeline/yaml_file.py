"""YAML files read strictly, with errors of one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode
from yaml.reader import ReaderError

from headrace.pipeline.errors import ConfigError

_TAGS = {"int": "a whole number", "float": "a number", "bool": "true or false", "timestamp": "a date"}
_KINDS = {list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}


class StrictLoader(yaml.SafeLoader):
    """YAML as people expect it: a key twice is an error, ``1e-3`` is a number, a date is text."""

    def compose_mapping_node(self, anchor: dict[Any, Node]) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines and key.value != "<<":
                problem = f"key {key.value!r} stands twice, first in line {lines[key.value]}"
                raise ConstructorError(None, None, problem, key.start_mark)
            lines[key.value] = line
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        """As YAML's own, which raises whatever Python does for ``0x_``, ``!!bool abc`` or a number of 5,000 digits."""
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int):
                str(value)  # raises for a hexadecimal one beyond what Python writes in decimal digits
        except (ValueError, LookupError, AttributeError, OverflowError) as error:
            tag = node.tag.rpartition(":")[2]
            problem = f"this cannot be read as {_TAGS.get(tag, tag)}: put text in quotes"
            raise ConstructorError(None, None, problem, node.start_mark) from error
        return value


StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        ConfigError: one line that names the file, the line and what is wrong.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"
        ) from error
    try:
        data = yaml.load(text, StrictLoader)  # a SafeLoader underneath
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {yaml_problem(error)}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deeply") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must be a mapping of settings (name: value), not {_KINDS.get(type(data), 'this')}")
    return data


def yaml_problem(error: yaml.YAMLError) -> str:
    """What a YAML error says, in one line, with its place if it has one."""
    if isinstance(error, ReaderError):
        return f"character {error.character:#x} at position {error.position} is not allowed in YAML"
    if not isinstance(error, yaml.MarkedYAMLError):
        return f"not valid YAML: {' '.join(str(error).split())}"
    problem = " ".join(str(error.problem or error.context).split())
    if "'\\t'" in problem:
        problem = "a tab where YAML wants spaces"
    mark = error.problem_mark or error.context_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem
