"""Sending at a steady rate. Pure: the caller brings the monotonic time and does the waiting."""

from __future__ import annotations

MAX_CATCH_UP_SECONDS = 0.5
"""How much of a hold-up is usually made up for: past it the schedule moves, or a burst would follow every pause."""


class Pace:
    """A schedule of ``per_second`` events a second: the n-th is due n / ``per_second`` after the start, so that the
    time that sending takes never adds up.

    Args:
        per_second: more than 0.
        now: monotonic seconds, when the first is due.
        catch_up_seconds: how much of a hold-up is made up for; infinite: all, the schedule never moves.
    """

    def __init__(self, per_second: float, now: float, catch_up_seconds: float = MAX_CATCH_UP_SECONDS) -> None:
        self._interval_seconds = 1.0 / per_second
        self._start = now
        self._taken = 0
        self._catch_up_seconds = catch_up_seconds

    def wait_seconds(self, now: float) -> float:
        """How long until the next is due; 0 or less if it is."""
        return self._start + self._taken * self._interval_seconds - now

    def take(self, now: float) -> None:
        """The next goes now."""
        late = -self.wait_seconds(now)
        if late > self._catch_up_seconds:
            self._start += late - self._catch_up_seconds
        self._taken += 1
