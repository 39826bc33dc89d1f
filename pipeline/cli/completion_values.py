"""What the shell offers for arguments and options: files, and names from the settings. Never fails, asks no server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from headrace.pipeline.config_routes import RouteSettings


def files(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The shell's own file names."""
    return [CompletionItem(incomplete, type="file")]


def models(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The models that have a route."""
    return _named(context, incomplete, lambda route: (route.model, f"route {route.name}"))


def routes(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The routes."""
    return _named(context, incomplete, lambda route: (route.name, f"model {route.model}"))


def _named(
    context: click.Context, incomplete: str, name_of: Callable[[RouteSettings], tuple[str, str]]
) -> list[CompletionItem]:
    names = dict(name_of(route) for route in _routes(context))
    return [CompletionItem(name, help=note) for name, note in sorted(names.items()) if name.startswith(incomplete)]


def _routes(context: click.Context) -> Iterable[RouteSettings]:
    from headrace.pipeline.errors import HeadraceError
    from headrace.pipeline.settings_file import load_settings

    contexts = (context, context.parent) if context.parent else (context,)  # a group's option is its commands' too
    files = [each.params.get("config_file") for each in contexts]
    named = next(filter(None, files), None) or os.environ.get("HEADRACE_CONFIG")
    try:
        return load_settings(Path(named) if named else None, os.environ).routes
    except (HeadraceError, OSError):  # wrong settings are told by the command itself, not while it is typed
        return ()
