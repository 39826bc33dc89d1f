"""How far a group has committed each partition, and what is done above that: the offset metadata, decoded. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.pipeline.errors import FatalError
from headrace.pipeline.offsets import OffsetBitmap, decode_metadata
from headrace.pipeline.overviews import CommittedOffset, TopicState
from headrace.pipeline.records import TopicPartition


@dataclass(frozen=True, slots=True)
class PartitionReport:
    """One partition.

    Attributes:
        where: topic and partition.
        start: offset of the oldest record retained.
        end: of the next one that will be written.
        committed: the lowest offset that is not done, as the group has committed it; None if it has none.
        metadata: as it is.
        format: of the metadata, ``h1`` or ``h2``; empty if there is none that can be read.
        runs: what is done at or above ``committed``, as runs: first offset, and the one after the last.
        complaint: the metadata is somebody else's: a worker would go on as if there were none.
        problem: the metadata cannot be read: a worker would refuse to start with it.
    """

    where: TopicPartition
    start: int
    end: int
    committed: int | None
    metadata: str
    format: str
    runs: tuple[tuple[int, int], ...]
    complaint: str = ""
    problem: str = ""

    @property
    def done_above(self) -> int:
        """Offsets done at or above the committed one: a successor will skip them."""
        return sum(end - first for first, end in self.runs)

    @property
    def owed(self) -> int:
        """Offsets up to the end that are not done. Markers of transactions are among them."""
        low = max(self.start, self.committed or 0)
        done = sum(max(0, min(end, self.end) - max(first, low)) for first, end in self.runs)
        return max(0, self.end - low) - done


def report(
    states: Mapping[str, TopicState | None], committed: Mapping[TopicPartition, CommittedOffset]
) -> tuple[PartitionReport, ...]:
    """Every partition of the topics that exist, in order."""
    return tuple(
        _partition(TopicPartition(topic, partition), state, committed.get(TopicPartition(topic, partition)))
        for topic, state in states.items()
        if state is not None
        for partition in sorted(state.ends)
    )


def _partition(where: TopicPartition, state: TopicState, found: CommittedOffset | None) -> PartitionReport:
    done, complaint, problem = OffsetBitmap(0), "", ""
    offset, metadata = (found.offset, found.metadata) if found else (None, "")
    if found:
        try:
            done, foreign = decode_metadata(found.offset, found.metadata)
            complaint = foreign or ""
        except FatalError as error:
            problem = str(error)
    return PartitionReport(
        where=where,
        start=state.starts[where.partition],
        end=state.ends[where.partition],
        committed=offset,
        metadata=metadata,
        format="" if complaint or problem else metadata.partition(":")[0],
        runs=tuple(done.runs(offset)) if offset is not None else (),
        complaint=complaint,
        problem=problem,
    )
