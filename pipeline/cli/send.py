"""``headrace send``: events from the command line, files, folders and JSON lines, and their outcomes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from headrace.pipeline.cli.event_options import event_options
from headrace.pipeline.cli.options import settings_option
from headrace.pipeline.errors import UnavailableError
from headrace.pipeline.exit_codes import ExitCode, epilog

if TYPE_CHECKING:  # not needed by --help
    from headrace.pipeline.cli.sending import Wishes
    from headrace.pipeline.config import Settings
    from headrace.pipeline.event_sources import Input
    from headrace.pipeline.ports import SchemaRegistry

ANSWER_SECONDS = 10.0
"""How long Kafka may take to accept an event."""


@click.command(epilog=epilog("send"))
@event_options
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Events a second; default: as fast as it goes.")
@click.option("--repeat", type=click.IntRange(1), default=1, help="Send everything so many times, each a new event.")
@click.option("--skip-bad", is_flag=True, help="Leave out what cannot be sent, instead of stopping there.")
@click.option("--wait", "-w", is_flag=True, help="Print each event's result or dead letter as it comes.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=30.0,
    show_default=True,
    help="Seconds to wait for outcomes after the last event.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each event (and outcome).")
@click.option("--topic", help="Request topic; default: the first of topics.requests.")
@settings_option
@click.pass_context
def command(
    context: click.Context,
    settings: Settings,
    together: bool,
    make_input: Callable[[int], Input],
    rate: float | None,
    repeat: int,
    skip_bad: bool,
    wait: bool,
    timeout: float,
    as_json: bool,
    topic: str | None,
) -> None:
    """Send events: an argument an event, a file of a folder an event, a line of JSON an event.

    Files are known by their first bytes: JPEG, PNG, WAV, MP4; with --model a file that is named may be of any kind.
    Folders are searched to the bottom, hidden files left out; other kinds in them are skipped and counted. Globs are
    for quoted patterns ("photos/**/*.jpg"). "-" reads JSON lines from standard input: {"text": "..."}, {"file": "..."},
    or whole events with id, type, source, key, model, version, parameters, headers and parts.

    Of words and files that are named one by one nothing is sent if one of them is wrong. Elsewhere sending stops at
    what is wrong and says how much was sent.
    """
    from headrace.pipeline.cli.sending import Wishes

    given = make_input(settings.topics.max_message_bytes)
    if repeat > 1 and given.has_lines:
        raise click.UsageError("standard input can be read once: --repeat needs words, files or folders")
    wishes = Wishes(topic or settings.topics.requests[0], together, rate, repeat, skip_bad, as_json)
    context.exit(_run(settings, given, wishes, timeout if wait else None))


def _run(settings: Settings, given: Input, wishes: Wishes, wait_seconds: float | None) -> ExitCode:
    from headrace.connectors.kafka.producer import EventSender
    from headrace.connectors.kafka.reader import CommittedReader, End
    from headrace.connectors.registry import ConfluentRegistry
    from headrace.pipeline.cli.sending import Outcomes, Sending
    from headrace.pipeline.outcomes import OutcomeDecoder
    from headrace.pipeline.setup import reply_topics

    with ExitStack() as resources:
        registry = resources.enter_context(ConfluentRegistry.of(settings.registry))
        schema_id = _schema_id(registry, wishes.topic)
        outcomes = None
        if wait_seconds is not None:
            # its start is fixed before anything is sent, so no outcome can come too early for it
            dead_letters = settings.topics.dead_letters
            reader = CommittedReader(settings.kafka, (*reply_topics(settings), dead_letters), End())
            decoder = OutcomeDecoder(registry, dead_letters)
            outcomes = Outcomes(resources.enter_context(reader), decoder, wait_seconds)
        sender = EventSender(settings.kafka, settings.topics.max_message_bytes, ANSWER_SECONDS)
        return Sending(resources.enter_context(sender), schema_id, given, wishes, outcomes).run()


def _schema_id(registry: SchemaRegistry, topic: str) -> int:
    from headrace.pipeline.avro import Contract, schema_json
    from headrace.pipeline.setup import COMPATIBILITY

    try:
        return registry.register(f"{topic}-value", schema_json(Contract.REQUEST), COMPATIBILITY)
    except UnavailableError as error:
        raise UnavailableError(f"{error}: `headrace up` starts one, registry.url says where it is") from error
