"""``headrace dlq redrive``: what would be done, the question, and the doing."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click

from headrace.connectors.kafka.redrive import KafkaRedrives, marked_elsewhere, prepare_topics
from headrace.pipeline.cli.dlq_reading import LetterReader, MarksReader
from headrace.pipeline.cli.dlq_view import JsonView, TextView, View, outcome_fields, plan_lines
from headrace.pipeline.cli.interrupts import PatientInterrupts
from headrace.pipeline.cli.terminal import confirmed
from headrace.pipeline.config import Settings
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.exit_codes import ExitCode
from headrace.pipeline.records import OutputRecord
from headrace.pipeline.redrive_course import Course, Read, to_redrive
from headrace.pipeline.redriving import Left, Marks, Redriving, Tally, marks_topic


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a user asks, in the words of the command line."""

    pipelines: tuple[str, ...]
    limit: int | None
    rate: float | None
    again: bool
    dry_run: bool
    yes: bool
    as_json: bool


def redrive_letters(settings: Settings, reader: LetterReader, wishes: Wishes) -> int:
    """Redrive what the reader's user wants. Returns the exit code.

    Raises:
        click.UsageError: nobody is there to be asked.
        ConfigError: the pipeline's name, or ``topics.redriven``, seems to have been another.
        FatalError, UnavailableError: Kafka or the registry does not let us, or another process has begun.
    """
    for topic, marks in marked_elsewhere(settings) if not wishes.again else ():
        if count := _redriven(settings, reader, marks, wishes):
            raise ConfigError(
                f"{count} of these dead letters were redriven before, by marks in {topic}, and there are none in "
                f"{marks_topic(settings)}: if topics.redriven or the pipeline's name has changed, set it back, or they "
                "are redriven twice; if they are to be, say so with --again, once"
            )
    if others := [each for each in wishes.pipelines if each != settings.name]:
        click.echo(f"what {', '.join(others)} redrove is not known here: --pipeline redrives it again", err=True)
    if wishes.dry_run or not wishes.yes:
        plan = _plan(settings, reader, wishes)
        if wishes.dry_run and wishes.as_json:
            click.echo(json.dumps(outcome_fields(plan, "dry_run")))
        else:
            for line in plan_lines(plan, settings.topics.dead_letters, settings.redriven_topic):
                click.echo(line, err=not wishes.dry_run)
        if wishes.dry_run or not plan.count:
            return ExitCode.OK
        if not confirmed("redrive them?"):
            click.echo("nothing was redriven", err=True)
            return ExitCode.FAILED
    return _redrive(settings, reader, wishes)


def _plan(settings: Settings, reader: LetterReader, wishes: Wishes) -> Tally:
    """What would be done now; nothing is written."""
    redriving = Redriving(settings, MarksReader(settings).read(), wishes.pipelines, again=wishes.again)
    tally, now_ms = Tally(), time.time_ns() // 1_000_000
    for letter in itertools.islice(to_redrive(reader.read(), reader.wants, redriving, tally), wishes.limit):
        tally.add([letter], now_ms)
    return tally


def _redriven(settings: Settings, reader: LetterReader, marks: Marks, wishes: Wishes) -> int:
    """How many of those that are wanted these marks know."""
    redriving, tally = Redriving(settings, marks, wishes.pipelines), Tally()
    for _ in to_redrive(reader.read(), reader.wants, redriving, tally):
        pass
    return tally.left[Left.REDRIVEN]


def _redrive(settings: Settings, reader: LetterReader, wishes: Wishes) -> int:
    prepare_topics(settings)
    view: View = (JsonView if wishes.as_json else TextView)(reader.ranges, wishes.limit)
    redrives, tally, state = KafkaRedrives(settings, view.waiting), Tally(), "failed"
    with asyncio.Runner() as runner, PatientInterrupts() as interrupts:

        def commit(outputs: Sequence[OutputRecord]) -> None:
            runner.run(redrives.commit(outputs))

        def passing() -> Iterator[Read]:
            for each in reader.read(reader.retained()):
                view.passed(each[0])
                yield each

        try:
            runner.run(redrives.start())
            marks = MarksReader(settings).read()  # now that nobody can add to them without ending this process
            redriving = Redriving(settings, marks, wishes.pipelines, again=wishes.again)
            course = Course(
                redriving,
                commit,
                limit=wishes.limit,
                rate=wishes.rate,
                told=lambda: view.tell(tally),
                held=interrupts.held,
                tally=tally,
            )
            course.perform(passing(), reader.wants)
            state = "complete"
        except KeyboardInterrupt:
            state = "stopped"
        finally:
            view.stop()
            view.end(state, tally)
            runner.run(redrives.close())
    if state == "stopped":
        click.echo("stopped: the same command goes on with the rest", err=True)
        return ExitCode.INTERRUPTED
    return ExitCode.OK
