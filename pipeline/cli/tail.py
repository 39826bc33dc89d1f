"""``headrace tail``: results as they are committed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from headrace.pipeline.cli.completion_values import models, routes
from headrace.pipeline.cli.event_options import PairType
from headrace.pipeline.cli.options import settings_option
from headrace.pipeline.exit_codes import epilog

if TYPE_CHECKING:  # clients and settings are loaded when they are needed, not for --help
    from headrace.connectors.kafka.reader import CommittedReader, Start
    from headrace.pipeline.config import Settings
    from headrace.pipeline.records import SourceRecord

LAST_SHOWN = 10
MODALITIES = ("TEXT", "IMAGE", "AUDIO", "VIDEO", "TENSOR")
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


@click.command(epilog=epilog("tail"))
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
@click.option("--model", "models", multiple=True, shell_complete=models, help="Only of this model.")
@click.option("--route", "routes", multiple=True, shell_complete=routes, help="Only of this route.")
@click.option(
    "--modality",
    "modalities",
    multiple=True,
    type=click.Choice(MODALITIES, case_sensitive=False),
    help="Only of routes that take this, as the settings have them.",
)
@click.option("--part", "parts", multiple=True, help="Only parts of this name.")
@click.option("--label", "labels", multiple=True, help="Only with this label (case does not matter).")
@click.option("--min-score", type=float, help="Only with a label of at least this score.")
@click.option("--key", "keys", multiple=True, help="Only with this record key.")
@click.option("--request", "requests", multiple=True, metavar="ID", help="Only of this request id.")
@click.option("--header", "headers", type=PairType(), multiple=True, help="Only with this header on the result.")
@settings_option
def command(
    settings: Settings,
    limit: int | None,
    start: str | int | None,
    no_follow: bool,
    as_json: bool,
    dead_letters: bool,
    modalities: tuple[str, ...],
    **filters: Any,
) -> None:
    """Print results as they are committed, from all reply topics.

    Like tail -f: the last results first, then what comes, until Ctrl-C. With --max N the last N, waiting only if there
    are fewer.

    Filters may have the wildcards * and ?, and may be repeated: one of the same name must hold (of --header all), and
    each name that is given. Those of model, route, modality, part, label and score hold of one and the same part; a
    table then shows that part alone, JSON the whole result.
    """
    from headrace.connectors.kafka.reader import CommittedReader, End
    from headrace.connectors.registry import ConfluentRegistry
    from headrace.pipeline.cli.tail_view import printer
    from headrace.pipeline.outcomes import Outcome, OutcomeDecoder
    from headrace.pipeline.records import Modality
    from headrace.pipeline.selection import Selection, Wanted
    from headrace.pipeline.setup import reply_topics

    wanted = Wanted(modalities=tuple(map(Modality, modalities)), **filters)
    selection = Selection(wanted, settings.routes)
    topics = (*reply_topics(settings), *((settings.topics.dead_letters,) if dead_letters else ()))
    with (
        ConfluentRegistry.of(settings.registry) as registry,
        CommittedReader(settings.kafka, topics, End() if start is None else _start(start)) as reader,
    ):
        decoder = OutcomeDecoder(registry, settings.topics.dead_letters)

        def accept(record: SourceRecord) -> bool:
            """What nobody can read is told of, unless something is looked for."""
            (outcome,) = decoder.decode([record])
            return selection.takes(outcome) if isinstance(outcome, Outcome) else selection.everything

        records = _records(reader, limit, accept, follow=not no_follow, last=start is None)
        show = printer(settings, selection, as_json=as_json)
        for number, record in enumerate(records, start=1):
            for outcome in decoder.decode([record]):
                show(outcome)
            if number == limit:
                return


def _start(start: str | int) -> Start:
    from headrace.connectors.kafka.reader import Beginning, End, Since

    if isinstance(start, int):
        return Since(max(0, round(time.time() * 1000) - 1000 * start))
    return Beginning() if start == "beginning" else End()


def _records(
    reader: CommittedReader, limit: int | None, accept: Callable[[SourceRecord], bool], *, follow: bool, last: bool
) -> Iterator[SourceRecord]:
    if last:
        yield from reader.read_last(limit or LAST_SHOWN, HISTORY_SECONDS, accept)
    if not follow:
        if not last:
            yield from filter(accept, reader.records(HISTORY_SECONDS, until_end=True))
        return
    while True:
        yield from filter(accept, reader.records(FOLLOW_SECONDS))
