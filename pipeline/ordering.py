"""The completion ledger: which records of a partition are done, which may be committed, and in which order.

Pure: no clock, no I/O. One ledger a partition and assignment. A record's life here::

    admit ──▶ WAITING ──complete──▶ COMPLETE ──its turn in all its lanes──▶ READY ──take──▶ TAKEN

A *lane* is what must stay in order: a route's records of one key, or of the whole partition, or nothing. Lanes are
entered in offset order, so waiting for one's turn cannot deadlock.
"""

from __future__ import annotations

import enum
import sys
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import chain

from headrace.pipeline.light import light_dataclass
from headrace.pipeline.offsets import OffsetBitmap, Window
from headrace.pipeline.records import OutputRecord

Lane = Hashable
_FAR_RECORDS = 1_000
"""Completions beyond the near window that one transaction takes at most: bounds the search for those that fit."""


class EntryState(enum.Enum):
    """A record's state: each follows the one before it, and no other."""

    WAITING = "waiting"
    COMPLETE = "complete"
    READY = "ready"
    TAKEN = "taken"


Instead = Callable[[int, str], "Completion"]
"""What is written instead of a record's outputs if one of them, by its place, is refused by its topic, and why."""


@light_dataclass(frozen=True, slots=True)
class Completion:
    """What comes of one record. ``instead`` is None if nothing can stand in for it: a dead letter."""

    outputs: Sequence[OutputRecord]
    instead: Instead | None = None

    @property
    def size_bytes(self) -> int:
        return sum([output.size_bytes for output in self.outputs])


_NOTHING = Completion(())


@dataclass(slots=True)
class _Entry:
    offset: int
    size_bytes: int
    state: EntryState = EntryState.WAITING
    lanes: tuple[Lane, ...] = ()
    completion: Completion = _NOTHING
    """Once it is complete."""
    output_bytes: int = 0
    """Of its completion, which would count them each time that it is asked."""

    def become(self, state: EntryState, before: EntryState) -> None:
        if self.state is not before:
            raise ValueError(f"offset {self.offset} is {self.state.value} and cannot become {state.value}")
        self.state = state


@dataclass(frozen=True, slots=True)
class Taken:
    """What one ledger gives to one transaction: outputs in order, and the offset and metadata that cover them.

    ``size_bytes`` is that of the records, ``output_bytes`` that of what comes of them. ``offsets`` are those of the
    records, in the order of their completions.
    """

    completions: tuple[Completion, ...]
    offset: int
    metadata: str
    size_bytes: int
    offsets: tuple[int, ...] = ()
    output_bytes: int = 0

    @property
    def records(self) -> int:
        return len(self.completions)

    @property
    def outputs(self) -> tuple[OutputRecord, ...]:
        return tuple([output for completion in self.completions for output in completion.outputs])


class PartitionLedger:
    """Completion of one partition's records during one assignment.

    Args:
        start: the committed offset to start from.
        done: what is already done at or above it (see ``offsets``).
        window: how far above the lowest incomplete offset completions may be committed.
    """

    def __init__(self, start: int, done: OffsetBitmap, window: Window = Window()) -> None:  # noqa: B008 - frozen
        self._done = done
        self._void = OffsetBitmap(start)
        self._window = window
        self._gaps: deque[tuple[int, int]] = deque()
        self._next = start
        self._said = done.count() > 0
        self._open: deque[_Entry] = deque()
        self._entries: dict[int, _Entry] = {}
        self._lanes: dict[Lane, deque[_Entry]] = {}
        self._ready: deque[_Entry] = deque()
        self._waiting = 0
        self._outstanding_bytes = 0

    @property
    def waiting(self) -> int:
        """Records admitted and not yet completed."""
        return self._waiting

    @property
    def outstanding(self) -> tuple[int, int]:
        """Records and bytes admitted and not yet taken into a transaction."""
        return len(self._entries), self._outstanding_bytes

    @property
    def base(self) -> int:
        """The lowest offset that is not yet done: what a commit now would commit."""
        return self._open[0].offset if self._open else self._next

    def admit(self, offset: int, size_bytes: int) -> bool:
        """Take note of a consumed record. False if it is already done and must be skipped.

        Raises:
            ValueError: if offsets do not increase: a record would be processed twice.
        """
        if offset < self._next:
            raise ValueError(
                f"offset {offset} consumed again: the ledger is at {self._next}. If the topic lost its end (an unclean "
                "leader election) or was made anew, reset the group's offsets"
            )
        if self._open and offset > self._next:
            self._gaps.append((self._next, offset))
        self._next = offset + 1
        if offset in self._done:
            return False
        entry = _Entry(offset, size_bytes)
        self._entries[offset] = entry
        self._open.append(entry)
        self._waiting += 1
        self._outstanding_bytes += size_bytes
        return True

    def enter(self, offset: int, lanes: Sequence[Lane]) -> None:
        """Queue a record in its lanes, each once. To be called in offset order, before the record completes."""
        entry = self._entries[offset]
        entry.lanes = tuple(lanes) if len(lanes) < 2 else tuple(dict.fromkeys(lanes))
        for lane in entry.lanes:
            queue = self._lanes.get(lane)
            if queue is None:
                self._lanes[lane] = deque((entry,))
            else:
                queue.append(entry)

    def complete(self, offset: int, outputs: Sequence[OutputRecord], instead: Instead | None = None) -> bool:
        """A record is processed (see ``Completion``). True if this (or what waited for it) may now be committed.

        Raises:
            KeyError: the record is not in flight here.
            ValueError: it was completed before.
        """
        entry = self._entries[offset]
        entry.become(EntryState.COMPLETE, EntryState.WAITING)
        entry.completion = completion = Completion(outputs, instead)
        entry.output_bytes = completion.size_bytes
        self._waiting -= 1
        return self._release(entry)

    def _release(self, entry: _Entry) -> bool:
        pending, released = [entry], False
        while pending:
            entry = pending.pop()
            if entry.state is not EntryState.COMPLETE or not self._leads(entry):
                continue
            entry.become(EntryState.READY, EntryState.COMPLETE)
            self._ready.append(entry)
            released = True
            for lane in entry.lanes:
                queue = self._lanes[lane]
                queue.popleft()
                if queue:
                    pending.append(queue[0])
                else:
                    del self._lanes[lane]
        return released

    def _leads(self, entry: _Entry) -> bool:
        """Whether it is its turn in all its lanes."""
        for lane in entry.lanes:  # noqa: SIM110 - a hot path
            if self._lanes[lane][0] is not entry:
                return False
        return True

    def take(self, max_records: int, max_bytes: int = sys.maxsize, *, at_least_one: bool = True) -> Taken | None:
        """Move up to ``max_records`` ready records into a transaction; None if there is nothing to commit.

        Their outputs have ``max_bytes`` at most, unless ``at_least_one`` is asked for and the first alone has more.

        A taken record stays taken: if its transaction is aborted the same unit is tried again, or the partition has
        been revoked and the whole ledger is dropped.
        """
        base = self.base
        self._done.rebase(base)  # a topic's first retained offset may be billions above where the ledger started
        self._void.rebase(base)
        self._pass_gaps(base)
        chosen = self._choose(base, max_records, max_bytes, at_least_one)
        taken = [entry for entry in self._ready if entry.offset in chosen]
        if not taken:
            return self._passed(base)
        left = () if len(taken) == len(self._ready) else [entry for entry in self._ready if entry.offset not in chosen]
        self._ready = deque(left)
        size_bytes = output_bytes = 0
        for entry in taken:
            entry.become(EntryState.TAKEN, EntryState.READY)
            self._done.add(entry.offset)
            del self._entries[entry.offset]
            size_bytes += entry.size_bytes
            output_bytes += entry.output_bytes
        self._outstanding_bytes -= size_bytes
        while self._open and self._open[0].state is EntryState.TAKEN:
            self._open.popleft()
        base = self.base
        metadata = self._done.encode(base, self._void)
        self._said = bool(metadata)
        completions = tuple([entry.completion for entry in taken])
        offsets = tuple([entry.offset for entry in taken])
        return Taken(completions, base, metadata, size_bytes, offsets, output_bytes)

    def _passed(self, base: int) -> Taken | None:
        """All that the metadata said was done has been read and skipped, and nothing is left to do: that alone."""
        if self._entries or not self._said or self._done.encode(base, self._void):
            return None
        self._said = False
        return Taken((), base, "", 0)

    def _pass_gaps(self, base: int) -> None:
        """Offsets without a record (transaction markers, compaction) must not part the runs, nor make any."""
        limit = base + self._window.far
        while self._gaps and self._gaps[0][0] < limit:
            start, end = self._gaps.popleft()
            if end > limit:
                self._gaps.appendleft((limit, end))
            for offset in range(max(start, base), min(end, limit)):
                self._void.add(offset)

    def _choose(self, base: int, max_records: int, max_bytes: int, at_least_one: bool) -> frozenset[int]:
        """Offsets of ready records that one transaction can commit: within its limits, and such that the metadata fits.

        Whoever comes before one of them in a lane is among them, for it is ready and its offset is lower.
        """
        near = base + self._window.near
        far = base + self._window.far
        within = [entry for entry in self._ready if entry.offset < near]
        more = len(within) < len(self._ready)
        beyond = [entry for entry in self._ready if near <= entry.offset < far] if more else []
        chosen: list[int] = []
        for entry in chain(within, nsmallest(_FAR_RECORDS, beyond, key=lambda entry: entry.offset)):
            max_bytes -= entry.output_bytes
            if len(chosen) == max_records or (max_bytes < 0 and (chosen or not at_least_one)):
                break
            chosen.append(entry.offset)
        if not beyond:
            return frozenset(chosen)
        fits = self._fitting(near, [offset for offset in chosen if offset >= near])
        return frozenset([offset for offset in chosen if offset < near]).union(fits)

    def _fitting(self, near: int, offsets: Sequence[int]) -> Sequence[int]:
        """The first of these ascending offsets beyond the near window, as many as leave few enough runs there."""

        def runs(count: int) -> int:
            return self._done.runs_with(near, offsets[:count], self._void)

        if not offsets or runs(len(offsets)) <= self._window.far_runs:
            return offsets
        return offsets[: max(0, bisect_right(range(len(offsets)), self._window.far_runs, key=runs) - 1)]
