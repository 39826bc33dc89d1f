"""What ``headrace dlq redrive`` says: what would be done, how far it is, and what became of it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import click

from headrace.pipeline.records import SourceRecord
from headrace.pipeline.redriving import LEFT_MEANS, Tally
from headrace.pipeline.replay.ranges import PartitionRange, total
from headrace.pipeline.tables import table

LINE_SECONDS = 5.0
"""Between lines of progress where there is no terminal."""
JSON_SECONDS = 1.0
BAR_SECONDS = 0.2


def code_fields(tally: Tally) -> list[dict[str, Any]]:
    """How many of each code and stage, the most frequent first."""
    return [{"code": code, "stage": stage, "count": count} for (code, stage), count in tally.redriven.most_common()]


def code_lines(tally: Tally) -> list[str]:
    """The same as a table."""
    rows = [(each["code"], each["stage"], f"{each['count']:,}") for each in code_fields(tally)]
    return [f"  {line}" for line in table(("code", "stage", "count"), rows, right=(2,))]


def plan_lines(tally: Tally, dead_letters: str, topic: str) -> list[str]:
    """What a redrive would do."""
    lines = [f"to redrive: {tally.count:,} dead letters of {dead_letters}, to {topic}"]
    return [*lines, *(code_lines(tally) if tally.count else ()), *_asides(tally)]


def _asides(tally: Tally) -> list[str]:
    lines = [f"left out: {count:,} {LEFT_MEANS[why]}" for why, count in tally.left.items()]
    if tally.unreadable:
        lines.append(f"left out: {tally.unreadable:,} records that are no dead letters")
    if tally.late:
        lines.append(f"of them {tally.late:,} have a deadline that has passed: each will be a dead letter again")
    return lines


def outcome_fields(tally: Tally, state: str) -> dict[str, Any]:
    """What became of it, or would."""
    return {
        "state": state,
        "redriven": tally.count,
        "by_code": code_fields(tally),
        "left": {str(why): count for why, count in tally.left.items()},
        "deadline_passed": tally.late,
        "unreadable": tally.unreadable,
    }


class View:
    """How far a redrive is: in offsets of the dead-letter topic, of which some may have no record.

    Args:
        ranges: that are read.
        limit: so many dead letters at most.
    """

    seconds = LINE_SECONDS

    def __init__(self, ranges: Sequence[PartitionRange], limit: int | None) -> None:
        self._offsets = total(ranges)
        self._next = {each.partition: each.start for each in ranges}
        self._ends = {each.partition: each.end for each in ranges}
        self._limit = limit
        self._began = self._told = time.monotonic()

    def passed(self, record: SourceRecord) -> None:
        """It has been read."""
        self._next[record.provenance.partition] = record.provenance.offset + 1

    def tell(self, tally: Tally) -> None:
        """Show how far it is, if that was not done a moment ago."""
        now = time.monotonic()
        if now - self._told >= self.seconds:
            self._told = now
            self.show(self._numbers(tally, now))

    def _numbers(self, tally: Tally, now: float) -> dict[str, Any]:
        seconds = now - self._began
        remaining = sum(self._ends[partition] - at for partition, at in self._next.items())
        return {
            "state": "running",
            "offsets": self._offsets,
            "remaining_offsets": remaining,
            "redriven": tally.count,
            "left": tally.left.total(),
            "per_second": round(tally.count / seconds, 1),
            "eta_seconds": self._eta_seconds(tally, seconds, remaining),
        }

    def _eta_seconds(self, tally: Tally, seconds: float, remaining: int) -> float | None:
        done = self._offsets - remaining
        found = [seconds * remaining / done] if done else []
        if self._limit is not None and tally.count:
            found.append(seconds * (self._limit - tally.count) / tally.count)
        return round(min(found), 1) if found else None

    def waiting(self, down: bool) -> None:
        """Kafka answers no more, or again; called by another thread."""
        click.echo("Kafka does not answer: waiting for it" if down else "Kafka answers again", err=True)

    def show(self, progress: dict[str, Any]) -> None:
        """One state of affairs."""

    def stop(self) -> None:
        """Nothing more is shown."""

    def end(self, state: str, tally: Tally) -> None:
        """The outcome."""

    @property
    def active_seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began


class JsonView(View):
    """A line a second."""

    seconds = JSON_SECONDS

    def show(self, progress: dict[str, Any]) -> None:
        click.echo(json.dumps(progress))

    def end(self, state: str, tally: Tally) -> None:
        click.echo(json.dumps({**outcome_fields(tally, state), "seconds": round(self.active_seconds, 3)}))


class TextView(View):
    """A bar where stderr is a terminal, else a line now and then."""

    def __init__(self, ranges: Sequence[PartitionRange], limit: int | None) -> None:
        super().__init__(ranges, limit)
        self._bar: Any = None
        if sys.stderr.isatty():
            from headrace.pipeline.cli.dlq_bar import RedriveBar

            self._bar = RedriveBar(self._offsets)
            self.seconds = BAR_SECONDS

    def show(self, progress: dict[str, Any]) -> None:
        if self._bar is not None:
            self._bar.update(progress)
            return
        done, eta = self._offsets - progress["remaining_offsets"], progress["eta_seconds"]
        click.echo(
            f"{done:,} of {self._offsets:,} offsets, {progress['redriven']:,} redriven, {progress['left']:,} left out, "
            f"{progress['per_second']:,.1f}/s" + ("" if eta is None else f", {eta:,.0f} s to go"),
            err=True,
        )

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def end(self, state: str, tally: Tally) -> None:
        for line in (*(code_lines(tally) if tally.count else ()), *_asides(tally)):
            click.echo(line, err=True)
        click.echo(
            f"redrive: state={state} redriven={tally.count} left={tally.left.total()} seconds={self.active_seconds:.1f}"
        )
