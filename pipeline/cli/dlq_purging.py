"""``headrace dlq purge``: what would be deleted, the question, and the doing."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import click

from headrace.connectors.kafka.redrive import KafkaRedrives, dead_letters_of, delete_before, mark_records
from headrace.pipeline.cli.dlq_reading import LetterReader, MarksReader
from headrace.pipeline.cli.terminal import confirmed
from headrace.pipeline.config import Settings
from headrace.pipeline.exit_codes import ExitCode
from headrace.pipeline.records import OutputRecord
from headrace.pipeline.redriving import SpentMarks, marks_topic, unmark
from headrace.pipeline.replay.ranges import total
from headrace.pipeline.tables import table

UNIT_MARKS = 1_000
"""Marks that are taken away in one transaction."""


def purge_letters(settings: Settings, reader: LetterReader, *, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Delete what is before the end of the reader's range. Returns the exit code.

    Raises:
        click.UsageError: nobody is there to be asked.
        FatalError, UnavailableError: Kafka or the registry does not let us.
    """
    topic = settings.topics.dead_letters
    if dry_run or not yes:
        plan = _plan(settings, reader)
        if dry_run and as_json:
            click.echo(json.dumps({"state": "dry_run", "topic": topic, **plan}))
        else:
            for line in _plan_lines(topic, plan):
                click.echo(line, err=not dry_run)
        if dry_run or not plan["offsets"]:
            return ExitCode.OK
        if not confirmed("delete them for good?"):
            click.echo("nothing was deleted", err=True)
            return ExitCode.FAILED
    ends = {each.partition: each.end for each in reader.ranges if each.offsets}
    starts = delete_before(settings, ends)
    marks = _take_away_marks(settings, {**{each.partition: each.start for each in reader.ranges}, **starts})
    offsets = total(reader.ranges)
    if as_json:
        fields = {"offsets": offsets, "starts": {str(each): starts[each] for each in starts}, "marks": marks}
        click.echo(json.dumps({"state": "purged", "topic": topic, **fields}))
    else:
        click.echo(f"purge: offsets={offsets} partitions={len(starts)} marks={marks}")
    return ExitCode.OK


def _plan(settings: Settings, reader: LetterReader) -> dict[str, Any]:
    """What would be deleted now."""
    marks = MarksReader(settings).read()
    codes: Counter[tuple[str, str]] = Counter()
    redriven = 0
    for _, letter in reader.read():
        if letter is not None:
            codes[letter.content.code, letter.content.stage] += 1
            redriven += marks.redriven_ms(letter.record.provenance) is not None
    return {
        "offsets": total(reader.ranges),
        "dead_letters": codes.total(),
        "redriven": redriven,
        "by_code": [{"code": code, "stage": stage, "count": count} for (code, stage), count in codes.most_common()],
    }


def _plan_lines(topic: str, plan: dict[str, Any]) -> list[str]:
    if not plan["offsets"]:
        return [f"nothing in {topic} is older"]
    never = plan["dead_letters"] - plan["redriven"]
    rows = [(each["code"], each["stage"], f"{each['count']:,}") for each in plan["by_code"]]
    return [
        f"to delete: {plan['dead_letters']:,} dead letters of {topic}, whatever their reasons; "
        f"{never:,} of them were never redriven",
        *(f"  {line}" for line in table(("code", "stage", "count"), rows, right=(2,))),
    ]


def _take_away_marks(settings: Settings, starts: dict[int, int]) -> int:
    """Of what is gone no mark is needed. Returns how many there were."""
    letters, marks = dead_letters_of(settings), marks_topic(settings)
    spent = SpentMarks(letters, starts)
    for record in mark_records(settings)[1]:
        spent.take(record)
    gone = [*spent]
    if gone:
        asyncio.run(_write(settings, (unmark(letters, place, marks) for place in gone)))
    return len(gone)


async def _write(settings: Settings, outputs: Iterable[OutputRecord]) -> None:
    redrives = KafkaRedrives(settings)
    await redrives.start()
    try:
        left = iter(outputs)
        while unit := [*itertools.islice(left, UNIT_MARKS)]:
            await redrives.commit(unit)
    finally:
        await redrives.close()
