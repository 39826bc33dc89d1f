"""What ``headrace tail`` prints: a table on a terminal, stable lines into a pipe, JSON if asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import click

from headrace.pipeline.cli.terminal import styled, width
from headrace.pipeline.config import Settings
from headrace.pipeline.outcomes import Outcome, Unreadable
from headrace.pipeline.present import (
    dead_letter_json,
    dead_letter_line,
    finding,
    moment,
    position,
    result_json,
    result_lines,
)
from headrace.pipeline.records import DeadLetter, InferenceResult, PartOutput
from headrace.pipeline.selection import Selection
from headrace.pipeline.tables import Column, StreamingTable, clean

Show = Callable[[Outcome | Unreadable], None]

_WIDE = 110
"""Characters from which on the table has the columns that can be done without."""


def printer(settings: Settings, selection: Selection, *, as_json: bool) -> Show:
    """What prints an outcome, as stdout is now."""
    columns = width()
    if as_json:
        return _readable(lambda outcome: click.echo(json.dumps(_fields(outcome))))
    if columns is None:
        return _readable(lambda outcome: _echo_all(lines(outcome, selection)))
    return _readable(_TablePrinter(settings, selection, columns).show)


def lines(outcome: Outcome, selection: Selection) -> Sequence[str]:
    """When, of which event, and a line for each part that is asked for."""
    content, record = outcome.content, outcome.record
    when = _time_of_day(outcome)
    if isinstance(content, DeadLetter):
        return (f"{when}  {dead_letter_line(content, record)}",)
    key = "" if record.key is None else f"  key {clean(_key(outcome))}"
    head = f"{when}  {position(content.provenance)}{key}"
    found = result_lines(_narrowed(content, selection))
    return (f"{head}  {found[0]}",) if len(found) == 1 else (head, *(f"{'':14}{line}" for line in found))


class _TablePrinter:
    """The topic of an event is left out on a narrow terminal, if there is one request topic only."""

    def __init__(self, settings: Settings, selection: Selection, columns: int) -> None:
        requests = settings.topics.requests
        self._selection = selection
        self._short = columns < _WIDE and len(requests) == 1
        place = len("00:0000") if self._short else max(map(len, requests)) + len(":00:0000")
        self._table = StreamingTable(
            (
                Column("time", 12),
                Column("event", place, most=place + 24),
                Column("key", 8, most=16, from_width=_WIDE),
                Column("part", 6, most=16),
                Column("result", rest=True),
                Column("model", 16, most=24),
                Column("batch", 5, from_width=_WIDE),
            ),
            columns,
        )
        self._headed = False

    def show(self, outcome: Outcome) -> None:
        """A row for each part; of a result with several, time and event stand in the first."""
        if not self._headed:
            click.echo(styled(self._table.head(), dim=True))
            self._headed = True
        content = outcome.content
        first = (_time_of_day(outcome), self._place(outcome), _key(outcome))
        if isinstance(content, DeadLetter):
            row = self._table.row((*first, "", f"{content.stage}/{content.code}: {content.message}", "dead letter", ""))
            click.echo(styled(row, fg="red"))
            return
        for number, output in enumerate(_narrowed(content, self._selection).outputs):
            click.echo(self._table.row((*(first if number == 0 else ("", "", "")), *_cells(output))))

    def _place(self, outcome: Outcome) -> str:
        where = outcome.content.provenance
        return f"{where.partition}:{where.offset}" if self._short else position(where)


def _cells(output: PartOutput) -> tuple[str, ...]:
    model = f"{output.model} {output.model_version}".strip()
    return output.part, finding(output), model, str(output.batch_size)


def _narrowed(result: InferenceResult, selection: Selection) -> InferenceResult:
    return replace(result, outputs=selection.matching(result))


def _readable(show: Callable[[Outcome], None]) -> Show:
    def either(outcome: Outcome | Unreadable) -> None:
        if isinstance(outcome, Unreadable):
            click.echo(f"{position(outcome.record.provenance)}: not a result: {outcome.reason}", err=True)
        else:
            show(outcome)

    return either


def _fields(outcome: Outcome) -> dict[str, object]:
    content, record = outcome.content, outcome.record
    return dead_letter_json(content, record) if isinstance(content, DeadLetter) else result_json(content, record)


def _echo_all(found: Sequence[str]) -> None:
    for line in found:
        click.echo(line)


def _time_of_day(outcome: Outcome) -> str:
    return moment(outcome.record.provenance.timestamp_ms)[11:23]


def _key(outcome: Outcome) -> str:
    key = outcome.record.key
    return "" if key is None else key.decode(errors="backslashreplace")
