"""How far the answers of a chaos run are, and how long a partition got none. Pure: time is an argument."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from tests.chaos.tally import DEAD, RESULT, TWIN


@dataclass(frozen=True, slots=True)
class Stall:
    """So long a partition of the request topic had unanswered inputs and none of them was answered.

    Attributes:
        seconds: its length.
        partition: where.
        began_seconds: after the watcher's start.
    """

    seconds: float = 0.0
    partition: int = -1
    began_seconds: float = 0.0


class _Partition:
    """Progress in one partition of the request topic, 9 bytes an input."""

    __slots__ = ("answered", "flags", "inputs", "seen_at", "since", "stall")

    def __init__(self) -> None:
        self.flags = bytearray()
        self.seen_at = array("d")  # 0: its input has not been seen
        self.inputs = self.answered = 0
        self.since = 0.0
        self.stall = Stall()

    def reach(self, offset: int) -> None:
        more = offset + 1 - len(self.flags)
        if more > 0:
            self.flags.extend(bytes(more))
            self.seen_at.frombytes(bytes(8 * more))


class Progress:
    """How far the answers are, and how long a partition got none. Pure; times are seconds since the start, above 0.

    An input is answered by a dead letter, or by a result and its twin.
    """

    def __init__(self) -> None:
        self._partitions: dict[int, _Partition] = {}
        self.inputs = 0
        self.answered = 0
        self.slowest_seconds = 0.0
        """The longest that an input was unanswered, of those that have been answered."""

    def add_input(self, partition: int, offset: int, now: float) -> None:
        state = self._at(partition, offset, now)
        if state.inputs <= state.answered:
            state.since = now
        state.inputs += 1
        state.seen_at[offset] = now
        self.inputs += 1

    def add_output(self, kind: int, partition: int, offset: int, now: float) -> None:
        """Takes note of an output, by the position that it answers."""
        state = self._at(partition, offset, now)
        before = state.flags[offset]
        state.flags[offset] = after = before | 1 << kind
        if _is_answered(before) or not _is_answered(after):
            return
        if state.inputs > state.answered:
            self._note_stall(state, partition, now)
        state.since = now
        state.answered += 1
        self.answered += 1
        if seen_at := state.seen_at[offset]:
            self.slowest_seconds = max(self.slowest_seconds, now - seen_at)

    def look(self, now: float) -> None:
        """Takes note of stalls that have not ended."""
        for partition, state in self._partitions.items():
            if state.inputs > state.answered:
                self._note_stall(state, partition, now)

    @property
    def stalls(self) -> dict[int, Stall]:
        """The longest of each partition."""
        return {partition: state.stall for partition, state in sorted(self._partitions.items())}

    @property
    def longest_stall(self) -> Stall:
        return max(self.stalls.values(), key=lambda stall: stall.seconds, default=Stall())

    def _at(self, partition: int, offset: int, now: float) -> _Partition:
        state = self._partitions.get(partition)
        if state is None:
            state = self._partitions[partition] = _Partition()
            state.since = now
        state.reach(offset)
        return state

    def _note_stall(self, state: _Partition, partition: int, now: float) -> None:
        if now - state.since > state.stall.seconds:
            state.stall = Stall(now - state.since, partition, state.since)


def _is_answered(flags: int) -> bool:
    both = 1 << RESULT | 1 << TWIN
    return bool(flags & 1 << DEAD) or flags & both == both
