"""Why events became dead letters: how many of each reason, since when, and how that goes over time. Pure.

Takes the room of so many reasons, however many dead letters there are: one pass, in any order. The times are counted in
buckets of one width for all, which grows with the time that they have to cover.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from headrace.pipeline.records import DeadLetter

MAX_BUCKETS = 24
MAX_REASONS = 1_000
"""Codes and models may be what a sender or user code has made up: what is beyond counts as one reason more."""
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_WIDTHS_SECONDS = (
    *(1, 5, 10, 30, _MINUTE, 5 * _MINUTE, 10 * _MINUTE, 30 * _MINUTE),
    *(_HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR, _DAY, 7 * _DAY, 28 * _DAY, 364 * _DAY),
)
"""Each divides the next, so that buckets can be put together."""
_BARS = "▁▂▃▄▅▆▇█"
_NOTHING = "·"


@dataclass(frozen=True, slots=True)
class Reason:
    """What made an event a dead letter; ``route`` and ``model`` are empty if it had none yet."""

    code: str
    stage: str
    route: str = ""
    model: str = ""


OTHERS = Reason("…", "…", "…", "…")
"""All reasons beyond ``MAX_REASONS``."""


def reason_of(letter: DeadLetter) -> Reason:
    """Why."""
    return Reason(letter.code, letter.stage, letter.route or "", letter.model or "")


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """One reason so far.

    Attributes:
        reason: which.
        count: dead letters.
        redriven: of them, redriven.
        first_ms, last_ms: when they were written; epoch milliseconds, 0 if none says.
        buckets: how many in each of the histogram's buckets.
    """

    reason: Reason
    count: int
    redriven: int
    first_ms: int
    last_ms: int
    buckets: tuple[int, ...]


class _Tally:
    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        self.count = self.redriven = self.first_ms = self.last_ms = 0
        self.buckets: Counter[int] = Counter()


class ReasonHistogram:
    """Counts dead letters by reason.

    Args:
        max_reasons: are told apart; the others are counted together.
        max_buckets: of time.
    """

    def __init__(self, max_reasons: int = MAX_REASONS, max_buckets: int = MAX_BUCKETS) -> None:
        self._max_reasons = max_reasons
        self._max_buckets = max_buckets
        self._numbers: dict[Reason, int] = {}
        self._tallies: list[_Tally] = []
        self._widths = _widths()
        self._width_ms = next(self._widths)
        self._first: int | None = None
        self._last = 0

    @property
    def count(self) -> int:
        """Dead letters."""
        return sum(each.count for each in self._tallies)

    @property
    def redriven(self) -> int:
        """Of them, redriven."""
        return sum(each.redriven for each in self._tallies)

    @property
    def bucket_seconds(self) -> int:
        """How long a bucket is."""
        return self._width_ms // 1000

    @property
    def begin_ms(self) -> int:
        """When the first bucket begins, in epoch milliseconds; 0 if there is none."""
        return 0 if self._first is None else self._first * self._width_ms

    def add(self, letter: DeadLetter, written_ms: int) -> int:
        """One more, written at that time (epoch milliseconds; 0 or less: not known). Returns its reason's number."""
        number = self._number(reason_of(letter))
        tally = self._tallies[number]
        tally.count += 1
        if written_ms > 0:
            tally.first_ms = min(tally.first_ms or written_ms, written_ms)
            tally.last_ms = max(tally.last_ms, written_ms)
            bucket = self._bucket(written_ms)  # first: it may put all buckets into wider ones
            tally.buckets[bucket] += 1
        return number

    def redrive(self, number: int) -> None:
        """One of the reason of this number was redriven."""
        self._tallies[number].redriven += 1

    def rows(self) -> list[ReasonCount]:
        """The most frequent first."""
        buckets = range(0) if self._first is None else range(self._first, self._last + 1)
        rows = [
            ReasonCount(
                *(each.reason, each.count, each.redriven, each.first_ms, each.last_ms),
                buckets=tuple(each.buckets[bucket] for bucket in buckets),
            )
            for each in self._tallies
        ]
        return sorted(rows, key=lambda row: (-row.count, row.reason.code, row.reason.stage))

    def _number(self, reason: Reason) -> int:
        number = self._numbers.get(reason)
        if number is None:
            if len(self._numbers) >= self._max_reasons and reason is not OTHERS:
                return self._number(OTHERS)
            number = self._numbers[reason] = len(self._tallies)
            self._tallies.append(_Tally(reason))
        return number

    def _bucket(self, written_ms: int) -> int:
        """Where it belongs, having made the buckets wide enough."""
        bucket = written_ms // self._width_ms
        first = bucket if self._first is None else min(self._first, bucket)
        last = max(self._last, bucket)
        while last - first >= self._max_buckets:
            old_ms, self._width_ms = self._width_ms, next(self._widths)
            factor = self._width_ms // old_ms
            for each in self._tallies:
                wider: Counter[int] = Counter()
                for at, count in each.buckets.items():
                    wider[at // factor] += count
                each.buckets = wider
            first, last, bucket = first // factor, last // factor, bucket // factor
        self._first, self._last = first, last
        return bucket


def _widths() -> Iterator[int]:
    """In milliseconds, without end."""
    longest = _WIDTHS_SECONDS[-1]
    doubled = (longest * 2**power for power in itertools.count(1))
    return (seconds * 1000 for seconds in itertools.chain(_WIDTHS_SECONDS, doubled))


def bar(buckets: tuple[int, ...]) -> str:
    """A character for each bucket, the higher the more; a dot for none."""
    most = max(buckets, default=0)
    return "".join(_BARS[-(-count * len(_BARS) // most) - 1] if count else _NOTHING for count in buckets)


def width_text(seconds: int) -> str:
    """``30 s``, ``5 min``, ``3 h`` or ``7 d``."""
    for unit, length in (("d", _DAY), ("h", _HOUR), ("min", _MINUTE)):
        if seconds % length == 0:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
