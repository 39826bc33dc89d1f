"""Counts by the topics alone, as any consumer reads them: read_committed, from beginning to end."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.connectors.kafka.reader import Beginning, CommittedReader
from headrace.pipeline.config import Settings
from headrace.pipeline.demo.observe import content_of, position_of
from headrace.pipeline.demo.resilience.account import Account, Count, Sent
from headrace.pipeline.outcomes import OutcomeDecoder
from headrace.pipeline.ports import SchemaRegistry
from headrace.pipeline.records import DeadLetter
from headrace.pipeline.retrying import delay_topics, resumed

READ_SECONDS = 60.0


def count(settings: Settings, registry: SchemaRegistry, sent: Iterable[Sent]) -> Count:
    """Every event that was sent against all that the pipeline's topics hold.

    Raises:
        StackError: there is a record that is no outcome.
        PoisonError: there is a record in a delay topic that no worker has put there.
        UnavailableError, FatalError: Kafka or the registry does not let us.
    """
    account = Account()
    for event in sent:
        account.sent(event)
    topics, waiting = settings.topics, delay_topics(settings)
    decoder = OutcomeDecoder(registry, topics.dead_letters)
    with CommittedReader(settings.kafka, (topics.results, topics.dead_letters, *waiting), Beginning()) as reader:
        for record in reader.records(READ_SECONDS, until_end=True):
            if record.provenance.topic in waiting:
                tell = account.redriven if record.provenance.topic == settings.redriven_topic else account.put_off
                tell(position_of(resumed(record)[1].provenance))
                continue
            said = content_of(decoder, record)
            if isinstance(said, DeadLetter):
                account.dead_letter(position_of(said.provenance), said.code)
            else:
                account.result(position_of(said.provenance), said)
    return account.count()
