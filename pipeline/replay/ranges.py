"""Which records of a topic a replay reads: what a user says → offsets, fixed once and for all. Pure but for a port."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from headrace.pipeline.errors import ConfigError

_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_RELATIVE = re.compile(r"-(\d+(?:\.\d+)?)([smhdw])")
_OFFSETS = re.compile(r"\d+:\d+(?:,\d+:\d+)*")
_MAX_OFFSET = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Earliest:
    """The first record that is retained."""


@dataclass(frozen=True, slots=True)
class Latest:
    """Behind the last record that is committed when the replay begins."""


@dataclass(frozen=True, slots=True)
class At:
    """The first record with this timestamp or a later one."""

    epoch_ms: int


@dataclass(frozen=True, slots=True)
class Offsets:
    """An offset in each of these partitions; the others are left out."""

    by_partition: Mapping[int, int]


Bound = Earliest | Latest | At | Offsets


def bound(text: str, now_ms: int) -> Bound:
    """What ``--from`` and ``--to`` say.

    Args:
        text: ``earliest``, ``latest``, an ISO 8601 time (UTC unless it says otherwise), a time ago (``-2h``; s, m, h, d
            or w), or offsets by partition (``0:1200,1:1180``).
        now_ms: what a time ago is reckoned from, in epoch milliseconds.

    Raises:
        ConfigError: it is none of these.
    """
    if text in ("earliest", "latest"):
        return Earliest() if text == "earliest" else Latest()
    if ago := _RELATIVE.fullmatch(text):
        ago_ms = float(ago[1]) * _UNIT_SECONDS[ago[2]] * 1000
        return At(now_ms - round(min(ago_ms, now_ms)))
    if _OFFSETS.fullmatch(text):
        return _offsets(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"{text!r} is no place in a topic: give earliest, latest, a time (2026-11-27T09:00, UTC unless it says "
            "otherwise), a time ago (-2h) or offsets by partition (0:1200,1:1180)"
        ) from None
    # not below 0: there Kafka takes a time for the name of a place, such as -1 for the end
    return At(max(0, round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)))


def _offsets(text: str) -> Offsets:
    pairs = [
        (int(partition), int(offset)) for partition, _, offset in (each.partition(":") for each in text.split(","))
    ]
    if len({partition for partition, _ in pairs}) < len(pairs):
        raise ConfigError(f"{text!r} names a partition twice")
    if any(offset > _MAX_OFFSET for _, offset in pairs):
        raise ConfigError(f"{text!r} has an offset beyond {_MAX_OFFSET}")
    return Offsets(dict(pairs))


@dataclass(frozen=True, slots=True)
class Retained:
    """What a partition holds: offsets from ``start`` up to, but without, ``end``, where all is committed."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class PartitionRange:
    """Offsets from ``start`` up to, but without, ``end``."""

    partition: int
    start: int
    end: int

    @property
    def offsets(self) -> int:
        """How many offsets; fewer records, for transaction markers and compaction leave offsets without one."""
        return self.end - self.start


class TopicHistory(Protocol):
    """A topic's past, as a ``read_committed`` consumer sees it."""

    def retained(self) -> Mapping[int, Retained]:
        """Of each partition. Raises UnavailableError, or FatalError if there is no such topic."""

    def offsets_at(self, epoch_ms: int) -> Mapping[int, int | None]:
        """In each partition the first offset with this timestamp or a later one; None if there is none.

        Raises UnavailableError.
        """


def resolve(history: TopicHistory, begin: Bound, end: Bound) -> tuple[PartitionRange, ...]:
    """The offsets between two bounds, of each partition that both speak of; where there are none the range is empty.

    Raises:
        ConfigError: an offset is not in the topic, or no partition is left.
        UnavailableError, FatalError: as the history does.
    """
    retained = history.retained()
    for each in (begin, end):
        if isinstance(each, Offsets):
            _check(each, retained)
    starts, ends = (_places(history, retained, each) for each in (begin, end))
    both = sorted(starts.keys() & ends.keys())
    if not both:
        raise ConfigError("the range is empty: its two ends name different partitions")
    return tuple(PartitionRange(each, starts[each], max(starts[each], ends[each])) for each in both)


def _places(history: TopicHistory, retained: Mapping[int, Retained], where: Bound) -> Mapping[int, int]:
    match where:
        case Earliest():
            return {partition: held.start for partition, held in retained.items()}
        case Latest():
            return {partition: held.end for partition, held in retained.items()}
        case Offsets(by_partition):
            return by_partition
        case At(epoch_ms):
            found = history.offsets_at(epoch_ms)
            return {
                partition: held.end if (offset := found.get(partition)) is None else min(offset, held.end)
                for partition, held in retained.items()
            }


def _check(named: Offsets, retained: Mapping[int, Retained]) -> None:
    for partition, offset in named.by_partition.items():
        held = retained.get(partition)
        if held is None:
            raise ConfigError(f"there is no partition {partition}: the topic has 0 to {len(retained) - 1}")
        if not held.start <= offset <= held.end:
            raise ConfigError(f"offset {offset} is not in partition {partition}: it holds {held.start} to {held.end}")


def total(ranges: Sequence[PartitionRange]) -> int:
    """Offsets in all of them together."""
    return sum(each.offsets for each in ranges)
