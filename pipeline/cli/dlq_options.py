"""The options by which every subcommand of ``headrace dlq`` chooses dead letters."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from headrace.pipeline.cli.completion_values import models, routes

Result = TypeVar("Result")


class PositionType(click.ParamType):
    """``TOPIC:PARTITION:OFFSET``."""

    name = "position"

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> tuple[str, int, int]:
        found = re.fullmatch(r"([A-Za-z0-9._-]+):([0-9]{1,9}):([0-9]{1,18})", value)
        if found is None:
            self.fail(f"{value!r}: say TOPIC:PARTITION:OFFSET, as `headrace dlq list` prints it", param, context)
        return found[1], int(found[2]), int(found[3])


_BOUNDS = (
    click.option(
        "--from",
        "begin",
        metavar="WHERE",
        default="earliest",
        show_default=True,
        help="The first dead letter: a time (2026-11-27T09:00), a time ago (-2h), or offsets (0:1200,1:1180).",
    ),
    click.option(
        "--to", "end", metavar="WHERE", default="latest", show_default=True, help="Behind the last; never beyond now."
    ),
)
_CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    "codes": ("--code", {"help": "Only with this reason code."}),
    "stages": (
        "--stage",
        {"help": "Only from this stage: decode, route, admit, prepare, infer, user_code or encode."},
    ),
    "routes": ("--route", {"help": "Only of this route.", "shell_complete": routes}),
    "models": ("--model", {"help": "Only of this model.", "shell_complete": models}),
    "ids": ("--id", {"help": "Only of this request id.", "metavar": "ID"}),
    "topics": ("--topic", {"help": "Only of events of this topic."}),
    "pipelines": ("--pipeline", {"help": "Only of the pipeline of this name.", "metavar": "NAME"}),
    "positions": (
        "--position",
        {
            "help": "Only the one at this position, its own or the event's.",
            "metavar": "TOPIC:PARTITION:OFFSET",
            "type": PositionType(),
        },
    ),
}
"""Field of `letters.Wanted` → the option that says it, which may be repeated."""


def letter_filters(function: Callable[..., Result]) -> Callable[..., Result]:
    """Give a command all of them, and call it with ``wanted``, a `letters.Wanted`."""

    @functools.wraps(function)
    def command(*args: Any, **kwargs: Any) -> Result:
        from headrace.pipeline.letters import Wanted  # not needed by --help

        given = {name: kwargs.pop(name) for name in ("begin", "end", *_CHOICES)}
        return function(*args, wanted=Wanted(**given), **kwargs)

    chosen = [click.option(option, name, multiple=True, **more) for name, (option, more) in _CHOICES.items()]
    for decorate in reversed((*_BOUNDS, *chosen)):
        command = decorate(command)
    return command


def without_filters(function: Callable[..., Result]) -> Callable[..., Result]:
    """Have a command refuse to choose, and say why."""

    @functools.wraps(function)
    def command(*args: Any, **kwargs: Any) -> Result:
        given = [kwargs.pop(name) for name in _CHOICES]
        if any(given):
            raise click.UsageError(
                "dead letters cannot be chosen here: Kafka deletes from the beginning of a partition, never from "
                "within; --before says how far"
            )
        return function(*args, **kwargs)

    for name, (option, _) in _CHOICES.items():
        command = click.option(option, name, multiple=True, hidden=True, help="Refused.")(command)
    return command
