"""Which events are compared, and which of their parts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.headers import delivery_of
from headrace.pipeline.records import InferenceRequest, Part, Provenance, SourceRecord
from headrace.pipeline.replay.chosen import sampled
from headrace.pipeline.replay.ranges import PartitionRange
from headrace.pipeline.routing import Router

PartsOf = Callable[[SourceRecord, InferenceRequest], Sequence[Part]]
"""The parts of an event that the candidate is to answer; none, if it is to leave out the event."""


@dataclass(slots=True)
class LeftOut:
    """Records of topics of answers that are not compared.

    Attributes:
        unreadable: neither result nor dead letter.
        others: of events that are not compared.
    """

    unreadable: int = 0
    others: int = 0

    def add(self, more: LeftOut) -> None:
        """Those as well."""
        self.unreadable += more.unreadable
        self.others += more.others


class OffsetSet:
    """Offsets within fixed ranges of a topic, a bit each: a million take 125 kB."""

    def __init__(self, topic: str, ranges: Iterable[PartitionRange]) -> None:
        self.topic = topic
        self._ranges = {each.partition: each for each in ranges}
        self._bits = {partition: bytearray((each.offsets + 7) // 8) for partition, each in self._ranges.items()}

    def add(self, at: Provenance) -> None:
        """The position must be within the ranges."""
        place = at.offset - self._ranges[at.partition].start
        self._bits[at.partition][place >> 3] |= 1 << (place & 7)

    def __contains__(self, at: Provenance) -> bool:
        held = self._ranges.get(at.partition)
        if held is None or at.topic != self.topic or not held.start <= at.offset < held.end:
            return False
        place = at.offset - held.start
        return bool(self._bits[at.partition][place >> 3] >> (place & 7) & 1)

    def hold(self, partitions: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of so many positions in the topic are in it."""
        found = np.zeros(len(offsets), np.bool_)
        for partition, held in self._ranges.items():
            inside = np.flatnonzero((partitions == partition) & (offsets >= held.start) & (offsets < held.end))
            places = offsets[inside] - held.start
            found[inside] = np.frombuffer(self._bits[partition], np.uint8)[places >> 3] >> (places & 7) & 1
        return found

    def update(self, other: OffsetSet) -> None:
        """Add another's, which must be of the same ranges."""
        for partition, bits in other._bits.items():
            mine = np.frombuffer(self._bits[partition], np.uint8)
            mine |= np.frombuffer(bits, np.uint8)


def replayed_parts(routes: Sequence[RouteSettings], only: Iterable[str]) -> PartsOf:
    """The parts that a replay answers.

    What ``before`` hooks of user code make of an event is not seen here.

    Args:
        routes: those of the settings.
        only: the routes whose parts the replay was told to answer; none of them: all.
    """
    named = frozenset(only)
    if not named:
        return lambda _, request: request.parts
    router = Router(routes)

    def parts(record: SourceRecord, request: InferenceRequest) -> Sequence[Part]:
        try:
            delivery_of(record.headers)
            plan = router.plan(request, record.headers, record.provenance.topic)
        except PoisonError:  # it becomes a dead letter before it is asked which routes are replayed
            return request.parts
        return tuple(request.parts[each.part_index] for each in plan if each.route.name in named)

    return parts


def shadowed_parts(routes: Sequence[RouteSettings]) -> PartsOf:
    """The parts that shadows are to answer: those in their sample that name no other version than their route's.

    What ``before`` hooks of user code make of an event is not seen here.
    """
    router = Router(routes)

    def parts(record: SourceRecord, request: InferenceRequest) -> Sequence[Part]:
        try:
            plan = router.plan(request, record.headers, record.provenance.topic)
        except PoisonError:
            return ()
        return tuple(
            request.parts[each.part_index]
            for each in plan
            if each.route.shadow is not None
            and each.version == each.route.version
            and sampled(request.id, each.route.shadow.share)
        )

    return parts
