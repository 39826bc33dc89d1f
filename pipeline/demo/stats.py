"""Latency, recovery and batch figures from what was measured outside the workers. Pure: times in, numbers out.

Definitions, in seconds on one monotonic clock:

- *latency* of an event: from just before it was handed to the producer until its first outcome was read by the
  read_committed consumer.
- *recovery*: from the SIGKILL until an outcome that was completed after the SIGKILL has been read of every partition
  the killed worker owned; so, of the slowest of them. A partition's owner is the worker of its last outcome completed
  before the SIGKILL.
- *settled*: what had piled up on those partitions by the recovery has been answered.
- *touched by the recovery*: events, of any partition, that were in flight at the SIGKILL or were sent before all was
  settled: the group rebalances as a whole, and the pile is worked off beside new events. The percentiles leave them
  out, and give them apart.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

RATE_WINDOW_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Journey:
    """One event's times. ``completed_ms`` is the worker's epoch clock, on the same machine as the killer's.

    ``partition`` is the event's own, in the request topic; ``worker`` the one that completed it.
    """

    partition: int
    sent_seconds: float
    seen_seconds: float
    worker: str
    completed_ms: int

    @property
    def latency_seconds(self) -> float:
        return self.seen_seconds - self.sent_seconds


@dataclass(frozen=True, slots=True)
class Kill:
    """The moment of the SIGKILL, on both clocks, and whose it was."""

    seconds: float
    epoch_ms: int
    worker: str


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles in milliseconds; ``nan`` where nothing was measured."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Recovery:
    """What the SIGKILL cost, in seconds from it. Both are None until every affected partition flows again."""

    seconds: float | None
    settled_seconds: float | None
    partitions: tuple[int, ...]
    touched: Latency


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: an observed value, never an interpolated one. ``nan`` of nothing."""
    if not values:
        return math.nan
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[max(0, rank - 1)]


def latency(journeys: Iterable[Journey]) -> Latency:
    """Percentiles over these journeys."""
    millis = [journey.latency_seconds * 1000 for journey in journeys]
    return Latency(len(millis), percentile(millis, 50), percentile(millis, 99), max(millis, default=math.nan))


def affected_partitions(journeys: Iterable[Journey], kill: Kill) -> frozenset[int]:
    """Partitions whose last outcome completed before the SIGKILL came from the killed worker."""
    owners: dict[int, Journey] = {}
    for journey in journeys:
        if journey.completed_ms > kill.epoch_ms:
            continue
        last = owners.get(journey.partition)
        if last is None or journey.completed_ms >= last.completed_ms:
            owners[journey.partition] = journey
    return frozenset(partition for partition, last in owners.items() if last.worker == kill.worker)


def recovery_seconds(journeys: Sequence[Journey], kill: Kill, partitions: frozenset[int]) -> float | None:
    """See *recovery* above. None while a partition has not recovered, 0.0 if the killed worker owned none."""
    back: dict[int, float] = {}
    for journey in journeys:
        if journey.partition in partitions and journey.completed_ms > kill.epoch_ms:
            seen = journey.seen_seconds
            back[journey.partition] = min(back.get(journey.partition, seen), seen)
    if len(back) < len(partitions):
        return None
    return max((seen - kill.seconds for seen in back.values()), default=0.0)


def split_by_recovery(
    journeys: Sequence[Journey], kill: Kill | None, *, finished: bool = False
) -> tuple[tuple[Journey, ...], Recovery | None]:
    """The journeys that the recovery did not touch, and the recovery itself (None if nobody was killed).

    Once the run is ``finished``, a partition that got no more events has nothing to recover and does not count.
    """
    if kill is None:
        return tuple(journeys), None
    partitions = affected_partitions(journeys, kill)
    if finished:
        partitions &= {journey.partition for journey in journeys if journey.completed_ms > kill.epoch_ms}
    seconds = recovery_seconds(journeys, kill, partitions)
    settled = None if seconds is None else _settled_seconds(journeys, kill, partitions, seconds)
    until = math.inf if settled is None else kill.seconds + settled
    touched: list[Journey] = []
    untouched: list[Journey] = []
    for journey in journeys:
        hit = journey.seen_seconds >= kill.seconds and journey.sent_seconds <= until
        (touched if hit else untouched).append(journey)
    return tuple(untouched), Recovery(seconds, settled, tuple(sorted(partitions)), latency(touched))


def _settled_seconds(journeys: Sequence[Journey], kill: Kill, partitions: frozenset[int], recovery: float) -> float:
    back = kill.seconds + recovery
    piled_up = (
        journey.seen_seconds
        for journey in journeys
        if journey.partition in partitions and journey.sent_seconds <= back and journey.seen_seconds >= kill.seconds
    )
    return max(piled_up, default=back) - kill.seconds


class ModelStats:
    """One model's outputs as they are read: how many, how fast now, and how large its infer calls are."""

    def __init__(self) -> None:
        self.outputs = 0
        self._calls = 0.0
        self._recent: deque[float] = deque()

    def add(self, seen_seconds: float, batch_size: int) -> None:
        """One output that was computed in an infer call of ``batch_size`` rows."""
        self.outputs += 1
        self._calls += 1 / max(1, batch_size)  # the rows of one call together count as one call
        self._recent.append(seen_seconds)

    @property
    def mean_batch_size(self) -> float:
        """Rows in an infer call, on average over calls (an average over outputs would favour the large ones)."""
        return self.outputs / self._calls if self._calls else 0.0

    def rate(self, now_seconds: float) -> float:
        """Outputs a second over the last seconds."""
        while self._recent and self._recent[0] < now_seconds - RATE_WINDOW_SECONDS:
            self._recent.popleft()
        return len(self._recent) / RATE_WINDOW_SECONDS
