"""The arguments that say what events are: those of ``headrace send`` and of ``headrace routes try``."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from headrace.pipeline.cli.completion_values import files, models

if TYPE_CHECKING:  # not needed by --help
    from headrace.pipeline.event_sources import Input
    from headrace.pipeline.records import Parameter

Result = TypeVar("Result")

LINE_FACTOR = 4
"""A JSON line may take this many times what its event may: numbers and escapes are longer written out."""


class PairType(click.ParamType):
    """``NAME=VALUE``."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> tuple[str, str]:
        """The two, as text."""
        name, equals, content = str(value).partition("=")
        if not name or not equals:
            self.fail(f"{value!r}: say NAME=VALUE", param, context)
        if not name.isprintable():  # nor is what the command line could not decode
            self.fail(f"{name!r} cannot be a name", param, context)
        return name, content


class ParameterType(PairType):
    """``NAME=VALUE`` whose value is a number, ``true``, ``false`` or a quoted text, as in JSON, or else plain text."""

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        """Name and value, in its own type."""
        name, content = super().convert(value, param, context)
        return name, _parameter(content)


def _parameter(text: str) -> Parameter:
    try:
        value = json.loads(text, parse_constant=str)
    except ValueError:
        return text
    return value if isinstance(value, (str, int, float)) else text


def event_options(function: Callable[..., Result]) -> Callable[..., Result]:
    """Give a command the arguments that events are made of.

    It is called with ``together`` and ``make_input``, which makes the `Input` from the largest event in bytes. That
    raises ConfigError for arguments that can be seen to be wrong.
    """

    @click.argument("content", nargs=-1, required=True, metavar="TEXT|FILE|FOLDER|GLOB|-...", shell_complete=files)
    @click.option("--together", is_flag=True, help="All arguments are the parts of one event.")
    @click.option("--text", "as_text", is_flag=True, help="Every argument is text, also if it names a file.")
    @click.option("--model", shell_complete=models, help="Model that is to answer; default: what the routes say.")
    @click.option("--model-version", metavar="N", help="Its version.")
    @click.option("--key", help="Record key: results of one key come in order.")
    @click.option(
        "--key-from", type=click.Choice(["name", "folder"]), help="Record key of a file: its name, or its folder's."
    )
    @click.option("--type", "event_type", default="headrace.cli", show_default=True, help="Event type.")
    @click.option("--source", default="headrace/cli", show_default=True, help="Event source.")
    @click.option("--header", "headers", type=PairType(), multiple=True, help="Record header; may be repeated.")
    @click.option(
        "--param", "parameters", type=ParameterType(), multiple=True, help="Parameter of the model; may be repeated."
    )
    @functools.wraps(function)
    def command(
        *args: Any,
        content: tuple[str, ...],
        together: bool,
        as_text: bool,
        model: str | None,
        model_version: str | None,
        key: str | None,
        key_from: str | None,
        event_type: str,
        source: str,
        headers: tuple[tuple[str, str], ...],
        parameters: tuple[tuple[str, Parameter], ...],
        **kwargs: Any,
    ) -> Result:
        if key is not None and key_from is not None:
            raise click.UsageError("--key and --key-from say two things: give one of them")
        if together and key_from is not None:
            raise click.UsageError("--key-from is for an event a file: with --together give --key")

        def make_input(max_event_bytes: int) -> Input:
            from headrace.pipeline.compose import EventOptions, KeyFrom
            from headrace.pipeline.event_sources import Input, items_of

            options = EventOptions(
                type=event_type,
                source=source,
                model=model,
                model_version=model_version,
                key=None if key is None else os.fsencode(key),
                key_from=None if key_from is None else KeyFrom(key_from),
                headers=tuple((name, os.fsencode(value)) for name, value in headers),
                parameters=dict(parameters),
            )
            items = items_of(content, as_text=as_text)
            stdin = click.get_binary_stream("stdin")
            return Input(items, options, stdin, LINE_FACTOR * max_event_bytes, lambda: round(time.time() * 1000))

        return function(*args, together=together, make_input=make_input, **kwargs)

    return command
