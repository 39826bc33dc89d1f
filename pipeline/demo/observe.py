"""Keeps what the demo sees from outside the workers: deliveries, outcomes, times. Pure: told, never asks."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.pipeline.demo.check import Checker, Position
from headrace.pipeline.demo.events import PlannedEvent
from headrace.pipeline.demo.stats import Journey, Kill, Latency, ModelStats, Recovery, latency, split_by_recovery
from headrace.pipeline.outcomes import Outcome, Unreadable
from headrace.pipeline.records import DeadLetter, InferenceResult, Provenance


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
        self._sent: dict[Position, tuple[PlannedEvent, float]] = {}
        self._first: dict[Position, tuple[Outcome, float]] = {}
        self._models: dict[str, ModelStats] = {}

    def delivered(self, event: PlannedEvent, position: Position, sent_seconds: float) -> None:
        """The broker confirmed an event that was handed to the producer at ``sent_seconds``."""
        self.checker.delivered(position, event.expected)
        self._sent[position] = (event, sent_seconds)

    def seen(self, outcome: Outcome | Unreadable, seen_seconds: float) -> None:
        """The read_committed consumer read a record of an output topic."""
        if isinstance(outcome, Unreadable):
            self.unreadable.append(outcome)
            return
        content = outcome.content
        where = position_of(content.provenance)
        self._first.setdefault(where, (outcome, seen_seconds))
        if isinstance(content, DeadLetter):
            self.dead_letters += 1
            self.checker.dead_letter(where, content.code)
            return
        self.results += 1
        self.checker.result(where)
        for output in content.outputs:
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
                content = outcome.content
                done_ms = content.last_failed_ms if isinstance(content, DeadLetter) else content.completed_ms
                found.append(Journey(position.partition, sent_seconds, seen_seconds, content.worker, done_ms))
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
        """Events with their result, in the order of sending."""
        return [
            (event, content)
            for position, (event, _) in self._sent.items()
            if position in self._first and isinstance(content := self._first[position][0].content, InferenceResult)
        ]

    def letters(self) -> list[tuple[PlannedEvent, Outcome]]:
        """Events with their dead letter, in the order of sending."""
        return [
            (event, self._first[position][0])
            for position, (event, _) in self._sent.items()
            if position in self._first and isinstance(self._first[position][0].content, DeadLetter)
        ]


def position_of(provenance: Provenance) -> Position:
    """The position of the event that an outcome is of."""
    return Position(provenance.topic, provenance.partition, provenance.offset)
