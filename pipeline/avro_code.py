"""Source of functions that read or write one Avro schema: its types unrolled, as ``dataclasses`` does with fields.

A writer's schema is data of a stranger's making. Of it only numbers, and fields' names by ``repr``, come into the
source; the variables' names are our own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from headrace.pipeline.avro import JsonNode

MOST_NESTED = 15
"""Blocks inside one another; Python's own limit for loops is 20."""
MOST_LINES = 5_000
"""More take Python too long, and are no event."""


class UnsupportedSchemaError(Exception):
    """A schema has something for which no source is made here."""


class Code:
    """Lines of a function's body, and what they refer to.

    Args:
        known: by the names under which the lines refer to it.
    """

    def __init__(self, **known: Any) -> None:
        self._known = known
        self._lines: list[str] = []
        self._depth = 1
        self._numbers = itertools.count()
        self.named: dict[str, JsonNode] = {}
        """The schema's types that have a name, as they are met."""

    def add(self, *lines: str) -> None:
        self._lines += ["    " * self._depth + line for line in lines]
        if len(self._lines) > MOST_LINES:
            raise UnsupportedSchemaError("it is too long")

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Lines that are added meanwhile are under this one."""
        self.add(head)
        self._depth += 1
        if self._depth > MOST_NESTED:
            raise UnsupportedSchemaError("it is nested too deep")
        yield
        self._depth -= 1

    def name(self) -> str:
        """A variable's, used nowhere else."""
        return f"v{next(self._numbers)}"

    def constant(self, value: Any) -> str:
        """A name for a value."""
        name = f"c{next(self._numbers)}"
        self._known[name] = value
        return name

    def function(self, arguments: str) -> Callable[..., Any]:
        """What the lines make."""
        source = "\n".join([f"def made({arguments}):", *self._lines])
        made: dict[str, Any] = {}
        exec(compile(source, "<avro>", "exec"), self._known, made)  # see above what is in it
        found: Callable[..., Any] = made["made"]
        return found
