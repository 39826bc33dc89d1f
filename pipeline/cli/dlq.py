"""``headrace dlq``: dead letters, one by one or in a list."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click

from headrace.pipeline.cli.options import settings_option
from headrace.pipeline.config import Settings
from headrace.pipeline.errors import HeadraceError, PoisonError
from headrace.pipeline.outcomes import Outcome, OutcomeDecoder
from headrace.pipeline.present import (
    dead_letter_json,
    dead_letter_line,
    dead_letter_lines,
    request_lines,
)
from headrace.pipeline.records import DeadLetter, SourceRecord

if TYPE_CHECKING:  # the client is loaded when it is needed, not for --help
    from headrace.connectors.kafka.reader import CommittedReader
    from headrace.pipeline.ports import SchemaRegistry

READ_SECONDS = 60.0
"""Longest wait for more of what is already there."""


class PositionType(click.ParamType):
    """``TOPIC:PARTITION:OFFSET``."""

    name = "position"

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> tuple[str, int, int]:
        found = re.fullmatch(r"([A-Za-z0-9._-]+):([0-9]{1,9}):([0-9]{1,18})", value)
        if found is None:
            self.fail(f"{value!r}: say TOPIC:PARTITION:OFFSET, as `headrace dlq list` prints it", param, context)
        return found[1], int(found[2]), int(found[3])


@click.group()
def command() -> None:
    """Look at dead letters: events that could not be answered, their bytes untouched, and why."""


@command.command("list")
@click.option("--max", "-n", "limit", type=click.IntRange(1), default=20, show_default=True, help="The newest so many.")
@click.option("--code", help="Only with this reason code.")
@click.option("--stage", help="Only from this stage: decode, route, admit, prepare, infer, user_code or encode.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, bytes in base64.")
@settings_option
def list_letters(settings: Settings, limit: int, code: str | None, stage: str | None, as_json: bool) -> None:
    """The newest dead letters, oldest first: where each lies, of which event, stage, code and reason."""

    def read(reader: CommittedReader, decoder: OutcomeDecoder, _: SchemaRegistry) -> None:
        def wanted(record: SourceRecord) -> bool:
            letter = _letter(decoder, record)
            return letter is not None and code in (None, letter.code) and stage in (None, letter.stage)

        found = reader.read_last(limit, READ_SECONDS, wanted)
        if not found:
            click.echo(f"no {'such ' if code or stage else ''}dead letters in {settings.topics.dead_letters}", err=True)
        for record in found:
            letter = _letter(decoder, record)
            if letter is not None:
                click.echo(
                    json.dumps(dead_letter_json(letter, record)) if as_json else dead_letter_line(letter, record)
                )

    _with_reader(settings, read)


@command.command("show")
@click.argument("where", type=PositionType(), metavar="TOPIC:PARTITION:OFFSET")
@click.option("--raw", is_flag=True, help="Write the original value's bytes to stdout, nothing else.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object, bytes in base64.")
@settings_option
def show(settings: Settings, where: tuple[str, int, int], raw: bool, as_json: bool) -> None:
    """One dead letter, by its own position in the dead-letter topic or by the original event's position."""

    def read(reader: CommittedReader, decoder: OutcomeDecoder, registry: SchemaRegistry) -> None:
        record, letter = _find(reader, decoder, where, settings.topics.dead_letters)
        if raw:
            click.get_binary_stream("stdout").write(letter.value or b"")
        elif as_json:
            click.echo(json.dumps(dead_letter_json(letter, record)))
        else:
            for line in (*dead_letter_lines(letter, record), *_decoded(letter, registry)):
                click.echo(line)

    _with_reader(settings, read)


def _with_reader(settings: Settings, use: Callable[[CommittedReader, OutcomeDecoder, SchemaRegistry], None]) -> None:
    from headrace.connectors.kafka.reader import Beginning, CommittedReader
    from headrace.connectors.registry import ConfluentRegistry

    with (
        ConfluentRegistry(settings.registry.url, settings.registry.timeout_seconds) as registry,
        CommittedReader(settings.kafka, [settings.topics.dead_letters], Beginning()) as reader,
    ):
        use(reader, OutcomeDecoder(registry, settings.topics.dead_letters), registry)


def _find(
    reader: CommittedReader, decoder: OutcomeDecoder, where: tuple[str, int, int], dead_letters: str
) -> tuple[SourceRecord, DeadLetter]:
    topic, partition, offset = where
    if topic == dead_letters:
        record = reader.record_at(topic, partition, offset, READ_SECONDS)
        candidates: Iterable[SourceRecord] = () if record is None else (record,)
    else:
        candidates = reader.records(READ_SECONDS, until_end=True)
    for candidate in candidates:
        letter = _letter(decoder, candidate)
        if letter is None:
            continue
        original = letter.provenance
        if topic == dead_letters or (original.topic, original.partition, original.offset) == where:
            return candidate, letter
    raise HeadraceError(
        f"there is no dead letter at or of {topic}:{partition}:{offset} in {dead_letters}: "
        "`headrace dlq list` shows those that are there"
    )


def _letter(decoder: OutcomeDecoder, record: SourceRecord) -> DeadLetter | None:
    """None for a record that somebody else wrote there."""
    outcome = decoder.decode([record])[0]
    return outcome.content if isinstance(outcome, Outcome) and isinstance(outcome.content, DeadLetter) else None


def _decoded(letter: DeadLetter, registry: SchemaRegistry) -> list[str]:
    """What the original value says, if it can be decoded now."""
    from headrace.pipeline.envelope import RequestDecoder

    decoder = RequestDecoder()
    for schema_id in decoder.missing([letter.value]):
        decoder.add_schema(schema_id, registry.schema(schema_id))
    try:
        return request_lines(decoder.decode(letter.value))
    except PoisonError as error:
        return [f"{'decoded':<12} no: {error.message}"]
