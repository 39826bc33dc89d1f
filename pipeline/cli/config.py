"""``headrace config``: check a pipeline.yaml, print what is in force, its schema or its reference."""

from __future__ import annotations

import os
from pathlib import Path

import click
import yaml

from headrace.pipeline import settings_reference
from headrace.pipeline.cli.options import settings_option
from headrace.pipeline.config import Settings
from headrace.pipeline.secrets import hidden
from headrace.pipeline.settings_file import load_settings
from headrace.pipeline.setup import topic_specs
from headrace.pipeline.user_modules import check_modules


@click.group("config")
def command() -> None:
    """Check a pipeline.yaml, print the settings in force, their JSON Schema or their reference."""


@command.command()
@click.argument("file", required=False, envvar="HEADRACE_CONFIG", type=click.Path(path_type=Path))
def check(file: Path | None) -> None:
    """Check FILE and the environment; exit with 2 and a line for each problem.

    Modules of your own must be there; they are not run.
    """
    settings = load_settings(file, os.environ)
    check_modules(settings.user_code)
    topic_specs(settings)
    routes = ", ".join(f"{route.name} ({route.model})" for route in settings.routes)
    click.echo(f"{file or 'defaults and environment'}: ok; routes in order: {routes}")


@command.command()
@settings_option
def show(settings: Settings) -> None:
    """Print the settings in force as YAML: environment over file over running stack over defaults.

    Passwords and the like are masked, also those within registry.url.
    """
    tree = hidden(settings.model_dump(mode="json"))
    click.echo(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), nl=False)


@command.command()
def schema() -> None:
    """Print the JSON Schema of pipeline.yaml."""
    click.echo(settings_reference.schema(), nl=False)


@command.command()
def reference() -> None:
    """Print the reference of all settings as Markdown."""
    click.echo(settings_reference.page(), nl=False)
