"""Keeps what the demo sees from outside the workers: deliveries, outcomes, times. Pure: told, never asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from headrace.pipeline.demo import content
from headrace.pipeline.demo.check import Checker, Fault, Finding, Position, Verdict
from headrace.pipeline.demo.events import Encoded, PlannedEvent
from headrace.pipeline.demo.stats import Journey, Kill, Latency, ModelStats, Recovery, latency, split_by_recovery
from headrace.pipeline.errors import StackError
from headrace.pipeline.outcomes import Outcome, OutcomeDecoder, Unreadable
from headrace.pipeline.records import DeadLetter, InferenceResult, Provenance, SourceRecord


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """One model's outputs so far."""

    name: str
    outputs: int
    rate: float
    mean_batch_size: float


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything the view shows, at one moment."""

    sent: int
    results: int
    dead_letters: int
    latency: Latency
    recovery: Recovery | None
    models: tuple[ModelFigures, ...]


class Observations:
    """Deliveries and outcomes of one run, joined by position."""

    def __init__(self) -> None:
        self.checker = Checker()
        self.kill: Kill | None = None
        self.unreadable: list[Unreadable] = []
        self.results = 0
        self.dead_letters = 0
        self._sent: dict[Position, tuple[Encoded, float]] = {}
        self._first: dict[Position, tuple[Outcome, float]] = {}
        self._models: dict[str, ModelStats] = {}

    def delivered(self, sent: Encoded, position: Position, sent_seconds: float) -> None:
        """The broker confirmed an event that was handed to the producer at ``sent_seconds``."""
        self.checker.delivered(position, sent.event.expected)
        self._sent[position] = (sent, sent_seconds)

    def seen(self, outcome: Outcome | Unreadable, seen_seconds: float) -> None:
        """The read_committed consumer read a record of an output topic."""
        if isinstance(outcome, Unreadable):
            self.unreadable.append(outcome)
            return
        said = outcome.content
        where = position_of(said.provenance)
        self._first.setdefault(where, (outcome, seen_seconds))
        if isinstance(said, DeadLetter):
            self.dead_letters += 1
            self.checker.dead_letter(where, said.code)
            return
        self.results += 1
        self.checker.result(where)
        for output in said.outputs:
            self._models.setdefault(output.model, ModelStats()).add(seen_seconds, output.batch_size)

    @property
    def answered(self) -> int:
        """Events of ours with at least one outcome."""
        return sum(position in self._first for position in self._sent)

    def owners(self) -> dict[int, str]:
        """The worker of each partition's last outcome."""
        last: dict[int, Journey] = {}
        for journey in self.journeys():
            known = last.get(journey.partition)
            if known is None or journey.completed_ms >= known.completed_ms:
                last[journey.partition] = journey
        return {partition: journey.worker for partition, journey in last.items()}

    def journeys(self) -> list[Journey]:
        """One for each event that has an outcome."""
        found = []
        for position, (_, sent_seconds) in self._sent.items():
            if position in self._first:
                outcome, seen_seconds = self._first[position]
                said = outcome.content
                done_ms = said.last_failed_ms if isinstance(said, DeadLetter) else said.completed_ms
                found.append(Journey(position.partition, sent_seconds, seen_seconds, said.worker, done_ms))
        return found

    def figures(self, now_seconds: float, *, finished: bool = False) -> Figures:
        """What is known now. Latency is without the events that the recovery touched."""
        untouched, recovery = split_by_recovery(self.journeys(), self.kill, finished=finished)
        return Figures(
            sent=len(self._sent),
            results=self.results,
            dead_letters=self.dead_letters,
            latency=latency(untouched),
            recovery=recovery,
            models=tuple(
                ModelFigures(name, stats.outputs, stats.rate(now_seconds), stats.mean_batch_size)
                for name, stats in sorted(self._models.items())
            ),
        )

    def answers(self) -> list[tuple[PlannedEvent, InferenceResult]]:
        """Good events with their result, in the order of sending."""
        return [(sent.event, result) for _, sent, _, result in self._good_results()]

    def letters(self) -> list[tuple[PlannedEvent, Outcome]]:
        """Events with their dead letter, in the order of sending."""
        return [(sent.event, outcome) for _, sent, outcome, _ in self._letters()]

    def verdict(self, sentences: Sequence[Sequence[str]]) -> Verdict:
        """The checker's verdict, and whether each event's first outcome says what it has to say.

        Args:
            sentences: what the texts are made of; those of one group mean the same.
        """
        counted = self.checker.verdict()
        wrong = [*self._result_findings(), *self._letter_findings(), *self._nearest_findings(sentences)]
        return replace(counted, findings=(*counted.findings, *wrong))

    def _result_findings(self) -> Iterator[Finding]:
        for position, sent, outcome, result in self._good_results():
            for fault in content.result_faults(sent, outcome.record.key, result):
                yield Finding(Fault.WRONG_CONTENT, position, fault)

    def _letter_findings(self) -> Iterator[Finding]:
        for position, sent, _, letter in self._letters():
            for fault in content.letter_faults(sent, letter):
                yield Finding(Fault.WRONG_CONTENT, position, fault)

    def _nearest_findings(self, sentences: Sequence[Sequence[str]]) -> Iterator[Finding]:
        groups = {sentence: number for number, group in enumerate(sentences) for sentence in group}
        positions, texts = [], []
        for position, sent, _, result in self._good_results():
            for text in content.embeddings(sent.event, result):
                positions.append(position)
                texts.append(text)
        for row, fault in content.nearest_faults(texts, groups):
            yield Finding(Fault.WRONG_CONTENT, positions[row], fault)

    def _good_results(self) -> Iterator[tuple[Position, Encoded, Outcome, InferenceResult]]:
        """First outcomes that are a result of a good event: one of a bad event is a fault by itself."""
        for position, sent, outcome in self._answered():
            if isinstance(outcome.content, InferenceResult) and sent.event.defect is None:
                yield position, sent, outcome, outcome.content

    def _letters(self) -> Iterator[tuple[Position, Encoded, Outcome, DeadLetter]]:
        for position, sent, outcome in self._answered():
            if isinstance(outcome.content, DeadLetter):
                yield position, sent, outcome, outcome.content

    def _answered(self) -> Iterator[tuple[Position, Encoded, Outcome]]:
        for position, (sent, _) in self._sent.items():
            if position in self._first:
                yield position, sent, self._first[position][0]


def content_of(decoder: OutcomeDecoder, record: SourceRecord) -> InferenceResult | DeadLetter:
    """What a record of an output topic says. Raises StackError if it is no outcome; as the decoder, if that cannot."""
    (outcome,) = decoder.decode([record])
    if isinstance(outcome, Unreadable):
        raise StackError(f"{record.provenance} is no outcome: {outcome.reason}")
    return outcome.content


def position_of(provenance: Provenance) -> Position:
    """The position of the event that an outcome is of."""
    return Position(provenance.topic, provenance.partition, provenance.offset)
