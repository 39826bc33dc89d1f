"""Every code of a dead letter that the source can produce: read from the source, not from what happens to be raised."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

from headrace.pipeline.records import Stage
from headrace.pipeline.wire import Poison

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("pipeline", "connectors", "headrace/sdk")


class Maker(NamedTuple):
    """A function that makes an error: its stage and code, or which of its arguments they are."""

    stage: Stage | int
    code: str | int
    kind: str = "poison"


EVERYWHERE = {"PoisonError": Maker(0, 1), "ExhaustedError": Maker(0, 1, "retriable")}
WIRE, ROW = Maker(Stage.DECODE, 0), Maker(Stage.PREPARE, 1)
IMPORTED = {"headrace.pipeline.wire": WIRE, "headrace.pipeline.codecs.row": ROW}
"""Module → what its function ``poison`` makes."""
VIDEO = Maker(Stage.PREPARE, 0)
OWN: Mapping[str, Mapping[str, Maker]] = {
    "pipeline/wire.py": {"poison": WIRE, "_refuse": Maker(Stage.DECODE, 1)},
    "pipeline/codecs/row.py": {"poison": ROW},
    "pipeline/dispatch.py": {"_unexpected": Maker(0, "UNEXPECTED")},
    "connectors/video/sampler.py": {"_poison": VIDEO},
    "connectors/video/mp4.py": {"VideoError": VIDEO},
    "connectors/video/frames.py": {"VideoError": VIDEO},
    "connectors/video/child.py": {"refusal": VIDEO},
}
"""File → its own makers."""
NAMES = {*EVERYWHERE, "poison", *(name for makers in OWN.values() for name in makers)}
"""A file without any of them makes none."""


@dataclass
class Sources:
    """What is produced.

    Attributes:
        codes: stage and code → the kinds of error that have them.
        passed_on: files and functions that make an error of a stage or code that they were given.
    """

    codes: defaultdict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    passed_on: set[tuple[str, str]] = field(default_factory=set)


@cache
def sources() -> Sources:
    """Of all of the product's files."""
    found = Sources()
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            source = path.read_text(encoding="utf-8")
            if not any(maker in source for maker in NAMES):
                continue
            tree = ast.parse(source)
            makers = {**EVERYWHERE, **_imported(tree), **OWN.get(name, {})}
            for function, call in _calls(tree):
                if maker := makers.get(_called(call)):
                    _add(found, maker, call, (name, function))
    return found


def _imported(tree: ast.Module) -> dict[str, Maker]:
    return {
        alias.asname or alias.name: IMPORTED[node.module]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in IMPORTED
        for alias in node.names
        if alias.name == "poison"
    }


def _calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call, and the function that it is in."""
    left = [("", tree)]
    while left:
        function, node = left.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        elif isinstance(node, ast.Call):
            yield function, node
        left += [(function, each) for each in ast.iter_child_nodes(node)]


def _called(call: ast.Call) -> str:
    if isinstance(call.func, ast.Name):
        return call.func.id
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def _add(found: Sources, maker: Maker, call: ast.Call, where: tuple[str, str]) -> None:
    stage, code = (
        _value(call.args[each]) if isinstance(each, int) else str(each) for each in (maker.stage, maker.code)
    )
    if stage is None or code is None:
        found.passed_on.add(where)
    else:
        found.codes[stage, code].add(maker.kind)


def _value(node: ast.expr) -> str | None:
    """What an argument is, if it stands there: a text, or a member of an enum."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Attribute(value=ast.Name(id="Stage"), attr=name):
            return str(Stage[name])
        case ast.Attribute(value=ast.Name(id="Poison"), attr=name):
            return str(Poison[name])
    return None
