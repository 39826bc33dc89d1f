"""Accounts for every event by its original position: what was sent against all that the topics hold. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from headrace.pipeline.demo.check import Checker, Expected, Position
from headrace.pipeline.demo.resilience.events import FATES, Kind
from headrace.pipeline.records import InferenceResult


@dataclass(frozen=True, slots=True)
class Sent:
    """An event that was delivered: where it lies, and what it is."""

    position: Position
    kind: Kind
    request_id: str


@dataclass(frozen=True, slots=True)
class Count:
    """What the topics hold. All but ``duplicates`` count events, not records.

    Attributes:
        sent: delivered.
        results: answered in the end.
        retried: that waited in a delay topic.
        dead_letters: that have a dead letter, redriven or not.
        redriven: of these, by the topic of redriven records.
        missing: without a result or a dead letter; of those redriven, without a result.
        duplicates: outcomes too many, of whatever event.
        answered_by: results by model.
        findings: whatever is not as it must be, in words.
    """

    sent: int
    results: int
    retried: int
    dead_letters: int
    redriven: int
    missing: int
    duplicates: int
    answered_by: dict[str, int]
    findings: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Each event has the one outcome that it had to have, by the way that it had to take."""
        return not (self.findings or self.missing or self.duplicates)


class Account:
    """Collects what was sent and what the topics hold, in any order; then counts."""

    def __init__(self) -> None:
        self._sent: dict[Position, Sent] = {}
        self._results: dict[Position, list[InferenceResult]] = {}
        self._letters: dict[Position, list[str]] = {}
        self._put_off: Counter[Position] = Counter()
        self._redriven: Counter[Position] = Counter()

    def sent(self, event: Sent) -> None:
        """An event was delivered."""
        self._sent[event.position] = event

    def result(self, position: Position, result: InferenceResult) -> None:
        """A committed result of the event at this position."""
        self._results.setdefault(position, []).append(result)

    def dead_letter(self, position: Position, code: str) -> None:
        """A committed dead letter of it."""
        self._letters.setdefault(position, []).append(code)

    def put_off(self, position: Position) -> None:
        """A committed record of it in a delay topic."""
        self._put_off[position] += 1

    def redriven(self, position: Position) -> None:
        """A committed record of it in the topic of redriven records."""
        self._redriven[position] += 1

    def count(self) -> Count:
        """What is true of everything told so far."""
        checker = Checker()
        for event in self._sent.values():
            fate = FATES[event.kind]
            final = fate.code and not fate.redriven
            checker.delivered(event.position, Expected(frozenset({fate.code} if final else ())))
        for position, results in self._results.items():
            for _ in results:
                checker.result(position)
        for position in self._letters:
            for code in self._final_letters(position):
                checker.dead_letter(position, code)
        verdict = checker.verdict()
        models = Counter(
            output.model for results in self._results.values() for result in results for output in result.outputs
        )
        wrong = [
            f"{event.position}, {event.kind}: {fault}" for event in self._sent.values() for fault in self._faults(event)
        ]
        strays = {*self._put_off, *self._redriven} - self._sent.keys()
        return Count(
            sent=verdict.sent,
            results=verdict.results,
            retried=len(self._put_off),
            dead_letters=len(self._letters),
            redriven=len(self._redriven),
            missing=verdict.missing,
            duplicates=verdict.duplicates,
            answered_by=dict(models),
            findings=(
                *map(str, verdict.findings),
                *wrong,
                *(f"{position}: put off or redriven, and never sent" for position in sorted(strays)),
            ),
        )

    def _final_letters(self, position: Position) -> list[str]:
        """Without the one that was redriven: what came of that is the outcome."""
        letters = list(self._letters[position])
        if position in self._redriven and (event := self._sent.get(position)) and FATES[event.kind].code in letters:
            letters.remove(FATES[event.kind].code)
        return letters

    def _faults(self, event: Sent) -> list[str]:
        """Of the way that an event took, and of what its results say; how many they are is the checker's matter."""
        fate, position = FATES[event.kind], event.position
        faults = []
        if fate.redriven and fate.code not in self._letters.get(position, ()):
            faults.append(f"no dead letter {fate.code}")
        if self._redriven[position] != fate.redriven:
            faults.append(f"redriven {self._redriven[position]} times, not {int(fate.redriven)}")
        if self._put_off[position] < fate.put_off or bool(self._put_off[position]) is not bool(fate.put_off):
            faults.append(f"put off {self._put_off[position]} times, not {fate.put_off}")
        for result in self._results.get(position, ()):
            if result.request_id != event.request_id:
                faults.append(f"its result is of request {result.request_id}, not {event.request_id}")
            if len(result.outputs) != 1 or result.outputs[0].model not in fate.models:
                faults.append(f"answered by {', '.join(each.model for each in result.outputs) or 'nobody'}")
        return faults
