"""Whose outcomes are still to come, among events that are sent and outcomes that are read at the same time. Pure."""

from __future__ import annotations

from typing import NamedTuple

from headrace.pipeline.outcomes import Outcome


class Place(NamedTuple):
    """Where an event's record lies: what its outcome is told by."""

    topic: str
    partition: int
    offset: int


class Settled(NamedTuple):
    """An outcome of one of the events, and when that was sent (monotonic seconds)."""

    outcome: Outcome
    sent_at: float


class Awaited:
    """The events that have no outcome yet.

    An outcome may be read before the broker's confirmation of its event is: it is kept for then, if it may be ours.
    """

    def __init__(self) -> None:
        self._unconfirmed: dict[str, int] = {}
        self._open: dict[Place, float] = {}
        self._early: dict[Place, Outcome] = {}

    @property
    def open(self) -> tuple[Place, ...]:
        """The confirmed events without an outcome, in the order of their places."""
        return tuple(sorted(self._open))

    def __len__(self) -> int:
        return len(self._open)

    def sending(self, request_id: str) -> None:
        """An event goes to the broker."""
        self._unconfirmed[request_id] = self._unconfirmed.get(request_id, 0) + 1

    def sent(self, request_id: str, place: Place, sent_at: float) -> Settled | None:
        """The broker has it. Its outcome, if that was read already."""
        self._unconfirmed[request_id] -= 1
        if not self._unconfirmed[request_id]:
            del self._unconfirmed[request_id]
        early = self._early.pop(place, None)
        if not self._unconfirmed:
            self._early.clear()
        if early is not None:
            return Settled(early, sent_at)
        self._open[place] = sent_at
        return None

    def read(self, outcome: Outcome) -> Settled | None:
        """An outcome that was read, if it is one of these events'; None if it is somebody else's, or early."""
        where = outcome.content.provenance
        place = Place(where.topic, where.partition, where.offset)
        sent_at = self._open.pop(place, None)
        if sent_at is not None:
            return Settled(outcome, sent_at)
        request_id = outcome.content.request_id
        if request_id in self._unconfirmed or (request_id is None and self._unconfirmed):
            self._early[place] = outcome
        return None
