"""What ``headrace send`` shows: lines or JSON on stdout, a progress bar and the summary on stderr."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Protocol

import click

from headrace.pipeline.outcomes import Outcome
from headrace.pipeline.present import dead_letter_json, position, result_json, result_lines, result_timing
from headrace.pipeline.records import DeadLetter
from headrace.pipeline.tables import clean

if TYPE_CHECKING:  # rich and the client are loaded when they are needed, not for --help
    from rich.progress import Progress, TaskID

    from headrace.pipeline.cli.deliveries import Delivered

UPDATE_SECONDS = 0.1
RATE_SECONDS = 0.2
_MEGA, _KILO = 1_000_000, 1_000


class Bar(Protocol):
    """Shows how far sending is."""

    def update(self, sent: int, sent_bytes: int, total: int | None, rate: float | None, note: str) -> None: ...
    def say(self, line: str) -> None:
        """A line for stdout, without breaking the bar."""

    def complain(self, line: str) -> None:
        """A line for stderr, without breaking the bar."""

    def stop(self) -> None: ...


class NoBar:
    """For pipes, files and single events."""

    def update(self, sent: int, sent_bytes: int, total: int | None, rate: float | None, note: str) -> None:
        """Nothing to show."""

    def say(self, line: str) -> None:
        """As it is."""
        click.echo(line)

    def complain(self, line: str) -> None:
        """As it is."""
        click.echo(line, err=True)

    def stop(self) -> None:
        """Nothing to stop."""


class RichBar:
    """On the terminal that stderr is."""

    def __init__(self, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        def fixed(text: str) -> TextColumn:
            return TextColumn(text, table_column=Column(no_wrap=True))

        self._shown_at = 0.0
        self._console = Console(stderr=True, highlight=False)
        self._progress: Progress = Progress(
            fixed("sending"),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            fixed("{task.fields[count]}"),
            fixed("{task.fields[rate]}"),
            fixed("{task.fields[size]}"),
            fixed("{task.fields[note]}"),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            console=self._console,
            redirect_stdout=False,
            redirect_stderr=False,
            expand=True,
        )
        self._task: TaskID = self._progress.add_task("", total=total, count="0", rate="", size="", note="")
        self._progress.start()

    def update(self, sent: int, sent_bytes: int, total: int | None, rate: float | None, note: str) -> None:
        """At most ten times a second, and always at the end."""
        now = time.monotonic()
        if now - self._shown_at < UPDATE_SECONDS and sent != total:
            return
        self._shown_at = now
        self._progress.update(
            self._task,
            total=total,
            completed=sent,
            count=f"{sent:,}" if total is None else f"{sent:,}/{total:,}",
            rate="" if rate is None else f"{rate:,.1f}/s",
            size=size(sent_bytes),
            note=note,
        )

    def say(self, line: str) -> None:
        """Above the bar if stdout is a terminal too; else it goes its own way."""
        if click.get_text_stream("stdout").isatty():
            self.complain(line)
        else:
            click.echo(line)

    def complain(self, line: str) -> None:
        """Above the bar."""
        self._progress.print(line, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """The bar stays as it was last."""
        self._progress.stop()


class View:
    """Everything that is said.

    Args:
        topic: where the events go.
        as_json: an object an event and outcome on stdout; no bar.
        positions: say where each event lies.
        bar: shows progress.
        total: how many events there may be, None if nobody knows.
    """

    def __init__(self, topic: str, *, as_json: bool, positions: bool, bar: Bar, total: int | None) -> None:
        self._topic = topic
        self._as_json = as_json
        self._positions = positions
        self._bar = bar
        self._total = total
        self._began = time.monotonic()
        self._first_at = self._last_at = self._began
        self._skipped: Counter[str] = Counter()
        self._first_skipped: dict[str, str] = {}
        self._sent = 0
        self._sent_bytes = 0
        self.results = 0
        self.dead_letters = 0
        self.bad = 0

    def delivered(self, record: Delivered) -> None:
        """An event is in Kafka."""
        self._sent += 1
        self._sent_bytes += record.bytes
        self._last_at = time.monotonic()
        if self._sent == 1:
            self._first_at = self._last_at
        report = record.report
        if self._as_json:
            fields = {
                "kind": "sent",
                "id": record.request_id,
                "topic": report.topic,
                "partition": report.partition,
                "offset": report.offset,
                "timestamp_ms": report.timestamp_ms,
                "key": None if record.key is None else record.key.decode(errors="backslashreplace"),
                "origin": record.origin,
            }
            self._bar.say(json.dumps(fields))
        elif self._positions:
            self._bar.say(f"sent to {report.topic}:{report.partition}:{report.offset}")
        self.refresh()

    def settled(self, outcome: Outcome, after_seconds: float) -> None:
        """An event has its outcome."""
        content = outcome.content
        dead = isinstance(content, DeadLetter)
        self.dead_letters += dead
        self.results += not dead
        for line in self._json_lines(outcome) if self._as_json else _lines(outcome, after_seconds):
            self._bar.say(line)
        self.refresh()

    def skipped(self, origin: str, reason: str) -> None:
        """A file is left out, as it should be."""
        self._skipped[reason] += 1
        self._first_skipped.setdefault(reason, origin)
        self._one_less()

    def left_out(self, message: str) -> None:
        """Wrong input is left out, as was asked for."""
        self.bad += 1
        self._one_less()
        self._bar.complain(f"left out: {message}")

    def refresh(self) -> None:
        """Show how far it is."""
        answered = self.results + self.dead_letters
        note = f"{answered:,} answered" if answered else ""
        self._bar.update(self._sent, self._sent_bytes, self._total, self._rate(), note)

    def stop(self) -> None:
        """The bar shows no more."""
        self.refresh()
        self._bar.stop()

    def summary(self, waited: bool, unconfirmed: int = 0) -> list[str]:
        """How many were sent, in what time and where to; what was left out; what came of them."""
        seconds, found = self._last_at - self._began, self._rate()
        rate = "" if found is None else f", {found:,.1f}/s"
        lines = [
            f"sent {self._sent:,} {'event' if self._sent == 1 else 'events'} ({size(self._sent_bytes)}) to "
            f"{self._topic} in {seconds:.1f} s{rate}"
        ]
        if unconfirmed:
            lines.append(f"{unconfirmed:,} more were on their way: the broker may have them")
        for reason, count in self._skipped.most_common():
            first = self._first_skipped[reason]
            lines.append(f"skipped {count:,} {'file' if count == 1 else 'files'}: {reason} (the first: {first})")
        if self.bad:
            lines.append(f"left out {self.bad:,} that could not be sent")
        if waited:
            lines.append(f"answered: {self.results:,} results, {self.dead_letters:,} dead letters")
        return lines

    def _rate(self) -> float | None:
        """Events a second since the first was confirmed, if that is long enough ago to say so."""
        seconds = self._last_at - self._first_at
        return (self._sent - 1) / seconds if seconds >= RATE_SECONDS else None

    def _one_less(self) -> None:
        if self._total is not None:
            self._total -= 1

    def _json_lines(self, outcome: Outcome) -> list[str]:
        content, record = outcome.content, outcome.record
        found = dead_letter_json(content, record) if isinstance(content, DeadLetter) else result_json(content, record)
        return [json.dumps(found)]


def size(count: int) -> str:
    """Bytes in decimal units."""
    if count < _KILO:
        return f"{count} B"
    return f"{count / _KILO:,.1f} kB" if count < _MEGA else f"{count / _MEGA:,.1f} MB"


def _lines(outcome: Outcome, after_seconds: float) -> list[str]:
    content = outcome.content
    if isinstance(content, DeadLetter):
        where = position(content.provenance)
        return [
            clean(f"dead letter of {where}: {content.stage}/{content.code}: {content.message}"),
            f"  headrace dlq show {position(outcome.record.provenance)}",
        ]
    head = f"result of {position(content.provenance)} after {after_seconds * 1000:.0f} ms ({result_timing(content)})"
    return [head, *(f"  {line}" for line in result_lines(content))]
