"""The checker: every event by the position its delivery report gave, against everything that came out. Pure."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple


class Position(NamedTuple):
    """Where an event lies in its request topic: its identity in every check."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}:{self.offset}"


@dataclass(frozen=True, slots=True)
class Expected:
    """What must come of an event: a result if there are no codes, else a dead letter with one of these codes."""

    codes: frozenset[str] = frozenset()


class Fault(enum.StrEnum):
    """What can be wrong with the outcome of one event."""

    MISSING = "no result and no dead letter"
    DUPLICATE = "more than one outcome"
    UNKNOWN = "an outcome of a position that was never sent"
    WRONG_KIND = "a result where a dead letter was due, or the other way round"
    WRONG_CODE = "a dead letter with another reason than was planted"
    WRONG_CONTENT = "an outcome that does not fit its event"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault, in words."""

    fault: Fault
    position: Position
    detail: str

    def __str__(self) -> str:
        return f"{self.position}: {self.fault} ({self.detail})"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The count. ``duplicates`` are outcomes beyond the first of an event, and outcomes of events never sent.

    ``results`` and ``dead_letters`` count events by their first outcome, so that ``results + dead_letters + missing``
    is ``sent`` whatever else went wrong.
    """

    sent: int
    results: int
    dead_letters: int
    duplicates: int
    missing: int
    findings: tuple[Finding, ...]

    @property
    def exactly_once(self) -> bool:
        """One outcome for each event and none besides."""
        return self.duplicates == 0 and self.missing == 0 and self.results + self.dead_letters == self.sent

    @property
    def passed(self) -> bool:
        """Exactly once, and each event with the outcome it had to have."""
        return self.exactly_once and not self.findings


class Checker:
    """Collects what was sent and what was seen, in any order: an outcome may be seen before its delivery report."""

    def __init__(self) -> None:
        self._sent: dict[Position, Expected] = {}
        self._outcomes: dict[Position, list[str | None]] = {}

    @property
    def sent(self) -> int:
        return len(self._sent)

    @property
    def answered(self) -> int:
        """Positions with at least one outcome."""
        return len(self._outcomes)

    def delivered(self, position: Position, expected: Expected) -> None:
        """An event was delivered to this position.

        Raises:
            ValueError: if another event was: the broker gives every position once.
        """
        if position in self._sent:
            raise ValueError(f"two events were reported as delivered to {position}")
        self._sent[position] = expected

    def result(self, position: Position) -> None:
        """A committed result of the event at this position was read."""
        self._outcomes.setdefault(position, []).append(None)

    def dead_letter(self, position: Position, code: str) -> None:
        """A committed dead letter of the event at this position was read."""
        self._outcomes.setdefault(position, []).append(code)

    def outcomes(self, position: Position) -> int:
        return len(self._outcomes.get(position, ()))

    def verdict(self) -> Verdict:
        """What is true of everything told so far."""
        findings = [*self._event_findings(), *self._stray_findings()]
        first = Counter(
            "missing" if position not in self._outcomes else "results" if self._first(position) is None else "dead"
            for position in self._sent
        )
        doubled = sum(len(seen) - 1 for position, seen in self._outcomes.items() if position in self._sent)
        strays = sum(len(seen) for position, seen in self._outcomes.items() if position not in self._sent)
        return Verdict(
            sent=len(self._sent),
            results=first["results"],
            dead_letters=first["dead"],
            duplicates=doubled + strays,
            missing=first["missing"],
            findings=tuple(findings),
        )

    def _first(self, position: Position) -> str | None:
        return self._outcomes[position][0]

    def _event_findings(self) -> list[Finding]:
        found = []
        for position, expected in self._sent.items():
            seen = self._outcomes.get(position)
            if not seen:
                found.append(Finding(Fault.MISSING, position, _words(expected)))
                continue
            if len(seen) > 1:
                listing = ", ".join(_outcome(code) for code in seen)
                found.append(Finding(Fault.DUPLICATE, position, listing))
            if (seen[0] is None) != (not expected.codes):
                found.append(Finding(Fault.WRONG_KIND, position, f"{_outcome(seen[0])}, {_words(expected)}"))
            elif seen[0] is not None and seen[0] not in expected.codes:
                found.append(Finding(Fault.WRONG_CODE, position, f"{_outcome(seen[0])}, {_words(expected)}"))
        return found

    def _stray_findings(self) -> list[Finding]:
        return [
            Finding(Fault.UNKNOWN, position, ", ".join(_outcome(code) for code in seen))
            for position, seen in self._outcomes.items()
            if position not in self._sent
        ]


def _outcome(code: str | None) -> str:
    return "result" if code is None else f"dead letter {code}"


def _words(expected: Expected) -> str:
    return f"dead letter {' or '.join(sorted(expected.codes))} was due" if expected.codes else "result was due"
