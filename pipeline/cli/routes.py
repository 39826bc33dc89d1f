"""``headrace routes``: the routes in order, and which of them an event would take. Asks no server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headrace.pipeline.cli.event_options import event_options
from headrace.pipeline.cli.options import config_option, json_option, settings_option
from headrace.pipeline.exit_codes import ExitCode, epilog

if TYPE_CHECKING:  # not needed by --help
    from headrace.pipeline.config import Settings
    from headrace.pipeline.event_sources import Input


@click.group(invoke_without_command=True, epilog=epilog("routes"))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@config_option
@click.pass_context
def command(context: click.Context, config_file: Path | None, as_json: bool) -> None:
    """List the routes, or say which of them an event would take, and why.

    A part of an event takes the first route, in this order, that matches it.
    """
    if context.invoked_subcommand is None:
        from headrace.connectors.discovery import settings_in_force

        _list(settings_in_force(config_file), as_json)


@command.command("try", short_help="Say which routes an event would take, and why.", epilog=epilog("routes try"))
@event_options
@click.option("--topic", default="", help="That it would be sent to; default: one that is no route's own.")
@json_option("One JSON object a line for each event.")
@settings_option
def try_routes(
    settings: Settings, together: bool, make_input: Callable[[int], Input], topic: str, as_json: bool
) -> int:
    """Say for each part which route it would take, and why none before it.

    Takes the arguments of 'headrace send' and sends nothing: neither Kafka nor registry nor Triton is asked.
    """
    from headrace.pipeline.compose import Event
    from headrace.pipeline.errors import ConfigError, PoisonError
    from headrace.pipeline.event_sources import Bad
    from headrace.pipeline.outgoing import record_of
    from headrace.pipeline.route_lines import explanation_json, explanation_lines
    from headrace.pipeline.routing import Router

    given = make_input(settings.topics.max_message_bytes)
    router = Router(settings.routes)
    code = ExitCode.OK
    several = not together and not (len(given.items) == 1 and given.one_by_one)
    for made in [given.together()] if together else given.events():
        if isinstance(made, Bad):
            raise made.error
        if not isinstance(made, Event):
            click.echo(f"skipped {made.origin}: {made.reason}", err=True)
            continue
        try:
            _, headers = record_of(made, schema_id=0)  # refuses what sending would refuse
        except PoisonError as error:
            raise ConfigError(f"{made.origin}: {error}" if several else str(error)) from error
        explanation = router.explain(made.request, headers, topic)
        if explanation.error is not None:
            code = ExitCode.DEAD_LETTER
        if as_json:
            click.echo(json.dumps(explanation_json(made.request, explanation, made.origin)))
            continue
        if several:
            click.echo(made.origin)
        for line in explanation_lines(made.request, explanation):
            click.echo(line)
    return code


def _list(settings: Settings, as_json: bool) -> None:
    from headrace.pipeline.cli.terminal import print_table
    from headrace.pipeline.route_lines import matches

    if as_json:
        for route in settings.routes:
            click.echo(route.model_dump_json())
        return
    rows = [
        (str(number), route.name, f"{route.model} {route.version}".strip(), matches(route))
        for number, route in enumerate(settings.routes, 1)
    ]
    print_table(("", "route", "model", "takes"), rows)
