"""What ``headrace dlq stats`` shows: reasons, how many of each, and how that goes over time."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

import click

from headrace.pipeline.cli.dlq_reading import LetterReader, MarksReader
from headrace.pipeline.cli.terminal import print_table
from headrace.pipeline.config import Settings
from headrace.pipeline.errors import UnavailableError
from headrace.pipeline.letter_reasons import ReasonCount, ReasonHistogram, bar, width_text
from headrace.pipeline.offset_table import OffsetTable
from headrace.pipeline.present import moment
from headrace.pipeline.replay.ranges import PartitionRange
from headrace.pipeline.tables import cut, table

FOLLOW_SECONDS = 2.0
TITLES = ("code", "stage", "route", "model", "count", "redriven", "over time", "first", "last")
_NUMBERS = (4, 5)


class Counted:
    """The dead letters that were read so far, by reason.

    Args:
        settings: of the pipeline.
        reader: of those that are wanted.
        keep: what each was, so that it is noticed when one is redriven later: eight bytes for each.
    """

    def __init__(self, settings: Settings, reader: LetterReader, *, keep: bool) -> None:
        self._reader = reader
        self._marks = MarksReader(settings)
        self._next = {each.partition: each.start for each in reader.ranges}
        self._reasons = OffsetTable() if keep else None
        """The number of its reason, plus one, of each that was not redriven yet."""
        self.topic = settings.topics.dead_letters
        self.histogram = ReasonHistogram()
        self.unreadable = 0
        self.trouble: str | None = None
        """Why it is not known what has come since."""
        self._read(reader.ranges)

    def read_on(self) -> bool:
        """Count what has come since, and what has been redriven. False if nothing has changed.

        Raises:
            FatalError: it cannot be read on.
        """
        before, self.trouble = self._state, None
        try:
            self._read(self._reader.come_since(self._next))
        except UnavailableError as error:
            self.trouble = str(error)
        return before != self._state

    @property
    def _state(self) -> tuple[int, int, int, str | None]:
        return self.histogram.count, self.histogram.redriven, self.unreadable, self.trouble

    def _read(self, ranges: Sequence[PartitionRange]) -> None:
        marks = self._marks.read(self._note_redriven)
        for record, letter in self._reader.read(ranges):
            self._next[record.provenance.partition] = record.provenance.offset + 1
            if letter is None:
                self.unreadable += 1
            elif self._reader.wants(letter):
                at = record.provenance
                number = self.histogram.add(letter.content, at.timestamp_ms)
                if marks.redriven_ms(at) is not None:
                    self.histogram.redrive(number)
                elif self._reasons is not None:
                    self._reasons[at.partition, at.offset] = number + 1
        self._next |= {each.partition: each.end for each in ranges}

    def _note_redriven(self, place: tuple[int, int]) -> None:
        if self._reasons is not None and (number := self._reasons[place]):
            self.histogram.redrive(number - 1)
            self._reasons[place] = 0


def show_stats(settings: Settings, reader: LetterReader, *, follow: bool, as_json: bool) -> None:
    """Count, and show; and, if it is to follow, again whenever something has changed, until Ctrl-C.

    Raises:
        UnavailableError, FatalError: Kafka or the registry does not let us.
    """
    counted = Counted(settings, reader, keep=follow)
    if follow and sys.stdout.isatty() and not as_json:
        _live(counted)
    _echo(counted, as_json, indent=None if follow else 2)
    while follow:
        time.sleep(FOLLOW_SECONDS)
        if counted.read_on():
            _echo(counted, as_json, indent=None)


def _live(counted: Counted) -> None:
    """One table that changes in its place."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    def shown() -> Text:
        width = shutil.get_terminal_size().columns
        lines = [*table(TITLES, _rows(counted), right=_NUMBERS), *_feet(counted)]
        return Text("\n".join(cut(line, width) for line in lines), no_wrap=True)

    with Live(shown(), console=Console(highlight=False), auto_refresh=False) as live:
        while True:
            time.sleep(FOLLOW_SECONDS)
            if counted.read_on():
                live.update(shown(), refresh=True)


def _echo(counted: Counted, as_json: bool, indent: int | None) -> None:
    if as_json:
        click.echo(json.dumps(_fields(counted), indent=indent))
        return
    if counted.histogram.count:
        print_table(TITLES, _rows(counted), right=_NUMBERS)
    for line in _feet(counted):
        click.echo(line)


def _rows(counted: Counted) -> list[tuple[str, ...]]:
    return [
        (
            *(row.reason.code, row.reason.stage, row.reason.route, row.reason.model),
            *(f"{row.count:,}", f"{row.redriven:,}", bar(row.buckets), _time(row.first_ms), _time(row.last_ms)),
        )
        for row in counted.histogram.rows()
    ]


def _feet(counted: Counted) -> list[str]:
    histogram = counted.histogram
    trouble = [counted.trouble] if counted.trouble else []
    if not histogram.count:
        return [f"no such dead letters in {counted.topic}", *trouble]
    lines = [f"{histogram.count:,} dead letters in {counted.topic}, {histogram.redriven:,} of them redriven"]
    if histogram.begin_ms:
        since = _time(histogram.begin_ms)
        lines.append(f"over time: a bar for each {width_text(histogram.bucket_seconds)} since {since}")
    if counted.unreadable:
        lines.append(f"{counted.unreadable:,} records beside them are no dead letters: somebody else wrote them")
    return [*lines, *trouble]


def _time(epoch_ms: int) -> str:
    """Local, to the second."""
    return moment(epoch_ms)[:19]


def _fields(counted: Counted) -> dict[str, Any]:
    histogram = counted.histogram
    return {
        "topic": counted.topic,
        "dead_letters": histogram.count,
        "redriven": histogram.redriven,
        "unreadable": counted.unreadable,
        "trouble": counted.trouble,
        "bucket_seconds": histogram.bucket_seconds,
        "reasons": [_reason_fields(histogram, row) for row in histogram.rows()],
    }


def _reason_fields(histogram: ReasonHistogram, row: ReasonCount) -> dict[str, Any]:
    width_ms = 1000 * histogram.bucket_seconds
    return {
        "code": row.reason.code,
        "stage": row.reason.stage,
        "route": row.reason.route or None,
        "model": row.reason.model or None,
        "count": row.count,
        "redriven": row.redriven,
        "first_ms": row.first_ms,
        "last_ms": row.last_ms,
        "buckets": [
            {"begin_ms": histogram.begin_ms + number * width_ms, "count": count}
            for number, count in enumerate(row.buckets)
            if count
        ],
    }
