"""Sends events and reads what is committed, in one thread: texts at a steady rate, the rest when it is told to."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from headrace.connectors.kafka.producer import DeliveryReport, EventSender
from headrace.connectors.kafka.reader import CommittedReader, End
from headrace.pipeline.config import Settings
from headrace.pipeline.demo.check import Position
from headrace.pipeline.demo.observe import content_of, position_of
from headrace.pipeline.demo.resilience.account import Sent
from headrace.pipeline.demo.resilience.events import Kind, Planned, Planner
from headrace.pipeline.envelope import encode_request
from headrace.pipeline.headers import request_headers
from headrace.pipeline.outcomes import OutcomeDecoder
from headrace.pipeline.records import DeadLetter, InferenceResult
from headrace.pipeline.retrying import Retry, delay_topics, resumed

TEXTS_PER_SECOND = 5.0
TICK_SECONDS = 0.02
"""Longest wait for a record before the next look at what is due."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A record that came of an event: its result, its dead letter, or that it was put off or redriven."""

    topic: str
    kind: Kind
    content: InferenceResult | DeadLetter | Retry
    seconds: float
    """Since the event was handed to the producer."""


class Traffic:
    """A pipeline's sender and reader.

    Args:
        settings: where Kafka is, and the topics' names.
        schema_id: of requests.
        decoder: of results and dead letters.
        planner: makes the events.

    Raises:
        UnavailableError, FatalError: on construction, if the topics cannot be read.
    """

    def __init__(self, settings: Settings, schema_id: int, decoder: OutcomeDecoder, planner: Planner) -> None:
        self.planner = planner
        self.sent: list[Sent] = []
        """What was delivered."""
        self.seen: list[Seen] = []
        """What came of it, in the order in which it was read; for people: counts are made anew, at the end."""
        self._settings = settings
        self._schema_id = schema_id
        self._decoder = decoder
        self._waiting = delay_topics(settings)
        self._answered: set[Position] = set()
        self._sent_at: dict[Position, tuple[Kind, float]] = {}
        self._text_at = 0.0
        self._resources = contextlib.ExitStack()
        topics = (settings.topics.results, settings.topics.dead_letters, *self._waiting)
        with contextlib.ExitStack() as made:
            self._reader = made.enter_context(CommittedReader(settings.kafka, topics, End()))
            self._sender = made.enter_context(EventSender(settings.kafka, settings.topics.max_message_bytes))
            self._resources = made.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def send(self, planned: Planned) -> None:
        """Hand an event to the producer. Raises UnavailableError or FatalError if an earlier one was not taken."""
        request, sent_seconds = planned.request, time.monotonic()

        def delivered(report: DeliveryReport) -> None:
            position = Position(report.topic, report.partition, report.offset)
            self.sent.append(Sent(position, planned.kind, request.id))
            self._sent_at[position] = planned.kind, sent_seconds

        self._sender.send(
            self._settings.topics.requests[0],
            encode_request(request, self._schema_id),
            key=planned.key,
            headers=request_headers(request),
            on_delivery=delivered,
        )

    def tick(self) -> None:
        """Send a text if one is due, and read what is there. To be called again and again.

        Raises:
            UnavailableError, FatalError: Kafka or the registry does not let us.
            StackError: a record is none of headrace's.
        """
        now = time.monotonic()
        if now >= self._text_at:
            self._text_at = now + 1 / TEXTS_PER_SECOND
            self.send(self.planner.text(now_ms()))
        self._sender.poll()
        for record in self._reader.read(TICK_SECONDS):
            topic = record.provenance.topic
            if topic in self._waiting:
                retry = resumed(record)[1]
                self._note(topic, position_of(retry.provenance), retry)
                continue
            said = content_of(self._decoder, record)
            self._note(topic, position_of(said.provenance), said)

    def flush(self) -> None:
        """Wait until all that was sent is delivered. Raises as ``send``."""
        self._sender.flush()

    def end_texts(self) -> None:
        """Send no more texts; what was sent is delivered. Raises as ``send``."""
        self._text_at = math.inf
        self.flush()

    @property
    def unanswered(self) -> int:
        """Events that were delivered, and have neither a result nor a dead letter."""
        return len(self._sent_at.keys() - self._answered)

    def results(self, kind: Kind, since: int = 0) -> list[InferenceResult]:
        """Of the events of a kind; ``since`` so many records were seen."""
        return [each.content for each in self._of(kind, since) if isinstance(each.content, InferenceResult)]

    def dead_letters(self) -> list[DeadLetter]:
        """All of them."""
        return [each.content for each in self.seen if isinstance(each.content, DeadLetter)]

    def put_off(self) -> Counter[str]:
        """How many records each delay topic has taken."""
        apart = self._settings.redriven_topic
        return Counter(each.topic for each in self.seen if isinstance(each.content, Retry) and each.topic != apart)

    def median_ms(self, kind: Kind, since: int = 0) -> float:
        """From sending an event to reading its result, in milliseconds; ``nan`` if there is none."""
        took = [each.seconds for each in self._of(kind, since) if isinstance(each.content, InferenceResult)]
        return 1000 * statistics.median(took) if took else math.nan

    def _of(self, kind: Kind, since: int) -> Iterator[Seen]:
        return (each for each in self.seen[since:] if each.kind is kind)

    def _note(self, topic: str, position: Position, content: InferenceResult | DeadLetter | Retry) -> None:
        if position not in self._sent_at:  # its delivery report is late, which the broker sent first
            self._sender.flush()
        kind, sent_seconds = self._sent_at[position]
        if not isinstance(content, Retry):
            self._answered.add(position)
        self.seen.append(Seen(topic, kind, content, time.monotonic() - sent_seconds))


def now_ms() -> int:
    """Epoch milliseconds."""
    return round(time.time() * 1000)
