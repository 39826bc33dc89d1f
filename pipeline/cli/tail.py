"""``headrace tail``: results as they are committed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from headrace.pipeline.cli.options import settings_option
from headrace.pipeline.config import Settings
from headrace.pipeline.outcomes import Outcome, OutcomeDecoder, Unreadable
from headrace.pipeline.present import (
    dead_letter_json,
    dead_letter_line,
    moment,
    position,
    result_json,
    result_lines,
)
from headrace.pipeline.records import DeadLetter, SourceRecord

if TYPE_CHECKING:  # the client is loaded when it is needed, not for --help
    from headrace.connectors.kafka.reader import CommittedReader, Start

LAST_SHOWN = 10
HISTORY_SECONDS = 60.0
"""Longest wait for more of what is already there."""
FOLLOW_SECONDS = 3600.0
"""One round of waiting for more; following goes on until Ctrl-C."""
_AGO = re.compile(r"-(\d{1,18})([smhd])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class StartType(click.ParamType):
    """``beginning``, ``end`` or an age like ``-10m``."""

    name = "start"

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> str | int:
        """``beginning`` and ``end`` as they are, an age as seconds."""
        if value in ("beginning", "end"):
            return value
        found = _AGO.fullmatch(value)
        if found is None:
            self.fail(f"{value!r}: say beginning, end, or how long ago: -30s, -10m, -2h, -1d", param, context)
        return int(found[1]) * _UNIT_SECONDS[found[2]]


@click.command()
@click.option("--max", "-n", "limit", type=click.IntRange(1), help="Stop after so many.")
@click.option(
    "--from",
    "start",
    type=StartType(),
    metavar="beginning|end|-10m",
    help="Where to start; default: the last ones that are there (--max of them, or 10).",
)
@click.option("--no-follow", is_flag=True, help="Print what is there and end.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--dead-letters", is_flag=True, help="Dead letters too.")
@settings_option
def command(
    settings: Settings, limit: int | None, start: str | int | None, no_follow: bool, as_json: bool, dead_letters: bool
) -> None:
    """Print results as they are committed, from all reply topics.

    Like tail -f: the last results first, then what comes, until Ctrl-C. With --max N the last N, waiting only if there
    are fewer.
    """
    from headrace.connectors.kafka.reader import CommittedReader, End
    from headrace.connectors.registry import ConfluentRegistry
    from headrace.pipeline.setup import reply_topics

    topics = (*reply_topics(settings), *((settings.topics.dead_letters,) if dead_letters else ()))
    with (
        ConfluentRegistry(settings.registry.url, settings.registry.timeout_seconds) as registry,
        CommittedReader(settings.kafka, topics, End() if start is None else _start(start)) as reader,
    ):
        decoder = OutcomeDecoder(registry, settings.topics.dead_letters)
        records = _records(reader, limit, follow=not no_follow, last=start is None)
        for number, record in enumerate(records, start=1):
            for outcome in decoder.decode([record]):
                _print(outcome, as_json)
            if number == limit:
                return


def _start(start: str | int) -> Start:
    from headrace.connectors.kafka.reader import Beginning, End, Since

    if isinstance(start, int):
        return Since(max(0, round(time.time() * 1000) - 1000 * start))
    return Beginning() if start == "beginning" else End()


def _records(reader: CommittedReader, limit: int | None, *, follow: bool, last: bool) -> Iterator[SourceRecord]:
    if last:
        yield from reader.read_last(limit or LAST_SHOWN, HISTORY_SECONDS)
    if not follow:
        if not last:
            yield from reader.records(HISTORY_SECONDS, until_end=True)
        return
    while True:
        yield from reader.records(FOLLOW_SECONDS)


def _print(outcome: Outcome | Unreadable, as_json: bool) -> None:
    where = position(outcome.record.provenance)
    if isinstance(outcome, Unreadable):
        click.echo(f"{where}: not a result: {outcome.reason}", err=True)
    elif as_json:
        fields = (
            dead_letter_json(outcome.content, outcome.record)
            if isinstance(outcome.content, DeadLetter)
            else result_json(outcome.content, outcome.record)
        )
        click.echo(json.dumps(fields))
    else:
        for line in lines(outcome):
            click.echo(line)


def lines(outcome: Outcome) -> Sequence[str]:
    """When, of which event, and a line for each part."""
    content, record = outcome.content, outcome.record
    when = moment(record.provenance.timestamp_ms)[11:23]
    if isinstance(content, DeadLetter):
        return (f"{when}  {dead_letter_line(content, record)}",)
    key = "" if record.key is None else f"  key {record.key.decode(errors='backslashreplace')}"
    head = f"{when}  {position(content.provenance)}{key}"
    found = result_lines(content)
    return (f"{head}  {found[0]}",) if len(found) == 1 else (head, *(f"{'':14}{line}" for line in found))
