"""``headrace send``: events from the command line, and their outcome."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import click

from headrace.pipeline.cli.options import settings_option
from headrace.pipeline.compose import part_of, requests_of
from headrace.pipeline.config import Settings
from headrace.pipeline.errors import HeadraceError, UnavailableError
from headrace.pipeline.outcomes import Outcome, OutcomeDecoder
from headrace.pipeline.present import position, result_lines, result_timing
from headrace.pipeline.records import DeadLetter, Headers, InferenceRequest

if TYPE_CHECKING:  # the client is loaded when it is needed, not for --help
    from headrace.connectors.kafka.producer import DeliveryReport
    from headrace.connectors.kafka.reader import CommittedReader
    from headrace.pipeline.ports import SchemaRegistry

ANSWER_SECONDS = 10.0
"""How long Kafka may take to accept an event."""
DEAD_LETTER_EXIT_CODE = 4
TIMEOUT_EXIT_CODE = 5


class NoOutcomeError(HeadraceError):
    """Sent, but neither a result nor a dead letter was seen in time."""

    exit_code = TIMEOUT_EXIT_CODE


@click.command()
@click.argument("content", nargs=-1, required=True, metavar="TEXT|FILE...")
@click.option("--wait", "-w", is_flag=True, help="Wait for each event's result or dead letter and print it.")
@click.option("--timeout", type=click.FloatRange(min=0.1), default=30.0, show_default=True, help="Seconds to wait.")
@click.option("--together", is_flag=True, help="Send all arguments as the parts of one event.")
@click.option("--text", "as_text", is_flag=True, help="Take every argument as text, also if it names a file.")
@click.option("--model", help="Model that is to answer; default: what the routes say.")
@click.option("--key", help="Record key: results of one key come in order.")
@click.option("--type", "event_type", default="headrace.cli", show_default=True, help="Event type.")
@click.option("--source", default="headrace/cli", show_default=True, help="Event source.")
@click.option("--topic", help="Request topic; default: the first of topics.requests.")
@settings_option
@click.pass_context
def command(
    context: click.Context,
    settings: Settings,
    content: tuple[str, ...],
    wait: bool,
    timeout: float,
    together: bool,
    as_text: bool,
    model: str | None,
    key: str | None,
    event_type: str,
    source: str,
    topic: str | None,
) -> None:
    """Send events: texts, or JPEG, PNG and WAV files (known by their first bytes). One event for each argument.

    \b
    Exit codes: 0 sent (with --wait: and answered), 1 failed, 2 wrong arguments, 4 a dead letter came of it,
    5 no outcome within --timeout.
    """  # noqa: D301 - \b is click's mark for a paragraph not to be rewrapped
    requests = requests_of(
        [part_of(argument, as_text=as_text) for argument in content],
        together=together,
        event_type=event_type,
        source=source,
        time_ms=round(time.time() * 1000),
        model=model,
    )
    into = topic or settings.topics.requests[0]
    dead = _send(settings, requests, into, os.fsencode(key) if key is not None else None, timeout if wait else None)
    if dead:
        context.exit(DEAD_LETTER_EXIT_CODE)


def _send(
    settings: Settings, requests: Sequence[InferenceRequest], topic: str, key: bytes | None, wait_seconds: float | None
) -> bool:
    """Sends, prints positions and, if asked, outcomes. True if a dead letter came of any."""
    from headrace.connectors.kafka.reader import CommittedReader, End
    from headrace.connectors.registry import ConfluentRegistry
    from headrace.pipeline.setup import reply_topics

    dead_letters = settings.topics.dead_letters
    with ExitStack() as resources:
        registry = resources.enter_context(ConfluentRegistry(settings.registry.url, settings.registry.timeout_seconds))
        schema_id = _schema_id(registry, topic)
        reader = None
        if wait_seconds is not None:
            # its start is fixed before anything is sent, so no outcome can come too early for it
            reader = CommittedReader(settings.kafka, (*reply_topics(settings), dead_letters), End())
            resources.enter_context(reader)
        began = time.monotonic()
        sent = _deliver(settings, requests, topic, key, schema_id)
        for report in sent:
            click.echo(f"sent to {report.topic}:{report.partition}:{report.offset}")
        if reader is None or wait_seconds is None:
            return False
        return _await_outcomes(reader, OutcomeDecoder(registry, dead_letters), sent, began, wait_seconds)


def _schema_id(registry: SchemaRegistry, topic: str) -> int:
    from headrace.pipeline.avro import Contract, schema_json
    from headrace.pipeline.setup import COMPATIBILITY

    try:
        return registry.register(f"{topic}-value", schema_json(Contract.REQUEST), COMPATIBILITY)
    except UnavailableError as error:
        raise UnavailableError(f"{error}: `headrace up` starts one, registry.url says where it is") from error


def _deliver(
    settings: Settings, requests: Sequence[InferenceRequest], topic: str, key: bytes | None, schema_id: int
) -> list[DeliveryReport]:
    """Sends all, or none if one is refused, and returns where they are, in the order of the requests."""
    from headrace.connectors.kafka.producer import EventSender

    reports: dict[int, DeliveryReport] = {}
    events = [_encoded(request, schema_id) for request in requests]
    with EventSender(settings.kafka, settings.topics.max_message_bytes, ANSWER_SECONDS) as sender:
        for value, headers in events:
            sender.check_size(topic, value, key=key, headers=headers)
        for number, (value, headers) in enumerate(events):
            sender.send(topic, value, key=key, headers=headers, on_delivery=partial(reports.__setitem__, number))
        sender.flush()
    return [reports[number] for number in range(len(requests))]


def _encoded(request: InferenceRequest, schema_id: int) -> tuple[bytes, Headers]:
    """Value and headers of its record."""
    from headrace.pipeline.envelope import encode_request
    from headrace.pipeline.headers import Delivery, random_trace, request_headers

    return encode_request(request, schema_id), request_headers(request, Delivery(trace=random_trace()))


def _await_outcomes(
    reader: CommittedReader,
    decoder: OutcomeDecoder,
    sent: Sequence[DeliveryReport],
    began: float,
    wait_seconds: float,
) -> bool:
    """Prints each outcome as it is read. True if one is a dead letter.

    Raises:
        NoOutcomeError: some are missing when the time is up.
    """
    open_positions = {(report.topic, report.partition, report.offset) for report in sent}
    dead = False
    for record in reader.records(wait_seconds):
        for outcome in decoder.decode([record]):
            if not isinstance(outcome, Outcome):
                continue  # somebody else's record: not of these events
            where = outcome.content.provenance
            if (where.topic, where.partition, where.offset) in open_positions:
                open_positions.remove((where.topic, where.partition, where.offset))
                dead = _print(outcome, time.monotonic() - began) or dead
        if not open_positions:
            return dead
    listing = ", ".join(f"{topic}:{partition}:{offset}" for topic, partition, offset in sorted(open_positions))
    raise NoOutcomeError(
        f"no outcome of {listing} within {wait_seconds:g} s: is a worker running? `headrace status` shows the stack's"
    )


def _print(outcome: Outcome, after_seconds: float) -> bool:
    """True if it is a dead letter."""
    content = outcome.content
    if isinstance(content, DeadLetter):
        click.echo(f"dead letter of {position(content.provenance)}: {content.stage}/{content.code}: {content.message}")
        click.echo(f"  headrace dlq show {position(outcome.record.provenance)}")
        return True
    click.echo(
        f"result of {position(content.provenance)} after {after_seconds * 1000:.0f} ms ({result_timing(content)})"
    )
    for line in result_lines(content):
        click.echo(f"  {line}")
    return False
