"""Counts a run by its topics alone, as any consumer reads them: not by what the run says of itself."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.connectors.kafka.reader import Beginning, CommittedReader
from headrace.pipeline.config import Settings
from headrace.pipeline.demo.check import Checker, Expected, Position, Verdict
from headrace.pipeline.demo.observe import content_of, position_of
from headrace.pipeline.outcomes import OutcomeDecoder
from headrace.pipeline.ports import SchemaRegistry
from headrace.pipeline.records import DeadLetter
from headrace.pipeline.replay.settings import run_topics

READ_SECONDS = 60.0


def count(settings: Settings, registry: SchemaRegistry, run: str, sent: Iterable[Position]) -> Verdict:
    """Each event that was sent against the outcomes in a run's topics, by its original position.

    Raises:
        StackError: there is a record that is no outcome.
        UnavailableError, FatalError: Kafka or the registry does not let us.
    """
    results, dead_letters, _ = run_topics(settings, run)
    checker = Checker()
    for position in sent:
        checker.delivered(position, Expected())
    decoder = OutcomeDecoder(registry, dead_letters)
    with CommittedReader(settings.kafka, (results, dead_letters), Beginning()) as reader:
        for record in reader.records(READ_SECONDS, until_end=True):
            said = content_of(decoder, record)
            if isinstance(said, DeadLetter):
                checker.dead_letter(position_of(said.provenance), said.code)
            else:
                checker.result(position_of(said.provenance))
    return checker.verdict()
