"""``headrace dlq``: dead letters, looked at, counted, tried again, deleted."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from headrace.pipeline.cli.dlq_options import PositionType, letter_filters, without_filters
from headrace.pipeline.cli.options import settings_option
from headrace.pipeline.exit_codes import epilog

if TYPE_CHECKING:  # clients and settings are loaded when they are needed, not for --help
    from headrace.pipeline.cli.dlq_reading import LetterReader
    from headrace.pipeline.config import Settings
    from headrace.pipeline.letters import Letter, Wanted
    from headrace.pipeline.ports import SchemaRegistry

ON_TERMINAL_OR_YES = "Ask nobody. Needed where there is no terminal."


@click.group()
def command() -> None:
    """Look at dead letters, try them again, delete them.

    Dead letters are events that could not be answered: their bytes untouched, and why. Options that choose among them
    may have the wildcards * and ?, and may be repeated: one of the same name must hold, and each name that is given.
    """


@command.command("list", short_help="List the newest dead letters.", epilog=epilog("dlq list"))
@click.option("--max", "-n", "limit", type=click.IntRange(1), default=20, show_default=True, help="The newest so many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, bytes in base64.")
@letter_filters
@settings_option
def list_letters(settings: Settings, wanted: Wanted, limit: int, as_json: bool) -> None:
    """The newest dead letters, oldest first: where each lies, of which event, stage, code and reason; and when it was
    redriven, if it was.
    """
    from headrace.pipeline.cli.dlq_reading import MarksReader
    from headrace.pipeline.present import dead_letter_line

    with _opened(settings, wanted) as (reader, _):
        found, _ = reader.newest(limit)
        if not found:
            click.echo(
                f"no {'such ' if wanted.chooses else ''}dead letters in {settings.topics.dead_letters}", err=True
            )
            return
        marks = MarksReader(settings).read()
        for letter in found:
            redriven_ms = marks.redriven_ms(letter.record.provenance)
            line = dead_letter_line(letter.content, letter.record, redriven_ms)
            click.echo(_json(letter, redriven_ms) if as_json else line)


@command.command("show", short_help="Show dead letters whole.", epilog=epilog("dlq show"))
@click.argument("where", type=PositionType(), metavar="[TOPIC:PARTITION:OFFSET]", required=False)
@click.option("--max", "-n", "limit", type=click.IntRange(1), default=1, show_default=True, help="The newest so many.")
@click.option("--raw", is_flag=True, help="Write the original value's bytes to stdout, nothing else.")
@click.option("--json", "as_json", is_flag=True, help="As a JSON object a line, bytes in base64.")
@letter_filters
@settings_option
def show(
    settings: Settings, wanted: Wanted, where: tuple[str, int, int] | None, limit: int, raw: bool, as_json: bool
) -> None:
    """All there is to know of a dead letter, by its own position, by the event's, or by whatever chooses it."""
    from dataclasses import replace

    from headrace.pipeline.cli.dlq_reading import MarksReader
    from headrace.pipeline.errors import HeadraceError
    from headrace.pipeline.present import dead_letter_lines

    if raw and limit > 1:
        raise click.UsageError("--raw writes the bytes of one: give no --max")
    if where is not None:
        wanted = replace(wanted, positions=(*wanted.positions, where))
    with _opened(settings, wanted) as (reader, registry):
        found, all_of_them = reader.newest(limit)
        if not found:
            of = "" if where is None else f" at or of {':'.join(map(str, where))}"
            raise HeadraceError(
                f"there is no {'such ' if where is None else ''}dead letter{of} in {settings.topics.dead_letters}: "
                "`headrace dlq list` shows those that are there"
            )
        if raw:
            click.get_binary_stream("stdout").write(found[0].content.value or b"")
            return
        marks = MarksReader(settings).read()
        for number, letter in enumerate(found):
            redriven_ms = marks.redriven_ms(letter.record.provenance)
            if as_json:
                click.echo(_json(letter, redriven_ms))
                continue
            click.echo("\n" * (number > 0), nl=False)
            for line in (*dead_letter_lines(letter.content, letter.record, redriven_ms), *_decoded(letter, registry)):
                click.echo(line)
        if not all_of_them:
            click.echo("there may be others that are older: --max shows more", err=True)


@command.command("stats", short_help="Count dead letters by reason.", epilog=epilog("dlq stats"))
@click.option("--follow", "--watch", "follow", is_flag=True, help="Go on, and show what has changed, until Ctrl-C.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON; with --follow a line whenever something has changed."
)
@letter_filters
@settings_option
def stats(settings: Settings, wanted: Wanted, follow: bool, as_json: bool) -> None:
    """Why events became dead letters: how many of each code, stage, route and model, how many of them were redriven,
    and how that goes over time.
    """
    from headrace.pipeline.cli.dlq_stats import show_stats

    if follow and wanted.end != "latest":
        raise click.UsageError("--follow goes on with what comes: give no --to")
    with _opened(settings, wanted) as (reader, _):
        show_stats(settings, reader, follow=follow, as_json=as_json)


@command.command("redrive", short_help="Try dead letters again.", epilog=epilog("dlq redrive"))
@click.option("--max", "-n", "limit", type=click.IntRange(1), help="The first so many.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), metavar="N", help="So many a second.")
@click.option("--again", is_flag=True, help="Also those that were redriven before.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--yes", "-y", is_flag=True, help=ON_TERMINAL_OR_YES)
@click.option("--json", "as_json", is_flag=True, help="Progress as JSON, a line a second; the last one is the outcome.")
@letter_filters
@settings_option
def redrive(
    settings: Settings,
    wanted: Wanted,
    limit: int | None,
    rate: float | None,
    again: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Have the workers try dead letters again, after what made them fail was mended: each once.

    The events go, key, value and headers as they were, to the pipeline's topic of redriven records, which its workers
    read. However often this is run, broken off or run twice at a time, a dead letter is redriven once; one that fails
    again is a new dead letter.
    """
    from headrace.pipeline.cli.dlq_redriving import Wishes, redrive_letters

    with _opened(settings, wanted) as (reader, _):
        return redrive_letters(settings, reader, Wishes(wanted.pipelines, limit, rate, again, dry_run, yes, as_json))


@command.command("purge", short_help="Delete old dead letters.", epilog=epilog("dlq purge"))
@click.option(
    "--before",
    metavar="WHERE",
    required=True,
    help="What is older goes: a time (2026-11-27T09:00), a time ago (-30d), offsets (0:1200,1:1180), or latest.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option("--yes", "-y", is_flag=True, help=ON_TERMINAL_OR_YES)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@without_filters
@settings_option
def purge(settings: Settings, before: str, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Delete the dead letters that are older than a time, or before an offset, for good.

    All of them: Kafka deletes from the beginning of a partition, never from within, so that no reason, route or event
    can be chosen here.
    """
    from headrace.pipeline.cli.dlq_purging import purge_letters
    from headrace.pipeline.letters import Wanted

    with _opened(settings, Wanted(end=before)) as (reader, _):
        return purge_letters(settings, reader, dry_run=dry_run, yes=yes, as_json=as_json)


@contextlib.contextmanager
def _opened(settings: Settings, wanted: Wanted) -> Iterator[tuple[LetterReader, SchemaRegistry]]:
    from headrace.connectors.registry import ConfluentRegistry
    from headrace.pipeline.cli.dlq_reading import LetterReader
    from headrace.pipeline.log import configure_logging

    configure_logging(settings.worker.log_format, "error")  # what passes is dealt with, and told in our words
    with ConfluentRegistry.of(settings.registry) as registry:
        yield LetterReader(settings, wanted, registry), registry


def _json(letter: Letter, redriven_ms: int | None) -> str:
    from headrace.pipeline.present import dead_letter_json

    return json.dumps({**dead_letter_json(letter.content, letter.record), "redriven_ms": redriven_ms})


def _decoded(letter: Letter, registry: SchemaRegistry) -> list[str]:
    """What the original value says, if it can be decoded now."""
    from headrace.pipeline.envelope import RequestDecoder
    from headrace.pipeline.errors import PoisonError
    from headrace.pipeline.present import request_lines

    decoder, value = RequestDecoder(), letter.content.value
    for schema_id in decoder.missing([value]):
        decoder.add_schema(schema_id, registry.schema(schema_id))
    try:
        return request_lines(decoder.decode(value))
    except PoisonError as error:
        return [f"{'decoded':<12} no: {error.message}"]
