"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

Result = TypeVar("Result")


config_option = click.option(
    "-c",
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    envvar="HEADRACE_CONFIG",
    help="Settings file (pipeline.yaml); default HEADRACE_CONFIG, or none.",
)
"""``-c/--config FILE``, for commands that load the settings themselves."""


def json_option(help_text: str) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """``--json`` of a command; also in force if the group that it is in was given it."""

    def chosen(context: click.Context, _: click.Parameter, given: bool) -> bool:
        return given or bool(context.parent and context.parent.params.get("as_json"))

    return click.option("--json", "as_json", is_flag=True, callback=chosen, help=help_text)


def settings_option(function: Callable[..., Result]) -> Callable[..., Result]:
    """Give a command ``-c/--config FILE`` (or ``HEADRACE_CONFIG``) and call it with ``settings``, a `Settings`.

    A running embedded stack is found by itself. A wrong setting raises ConfigError, which ends the command with
    exit code 2.
    """

    @config_option
    @functools.wraps(function)
    def command(*args: Any, config_file: Path | None, **kwargs: Any) -> Result:
        from headrace.connectors.discovery import settings_in_force  # not needed by --help

        return function(*args, settings=settings_in_force(_named(config_file)), **kwargs)

    return command


def _named(config_file: Path | None) -> Path | None:
    """The file of this command or, unless its own command line says one, of the group's that it is in."""
    context = click.get_current_context()
    if context.get_parameter_source("config_file") is ParameterSource.COMMANDLINE or context.parent is None:
        return config_file
    of_group: Path | None = context.parent.params.get("config_file")
    return of_group or config_file
