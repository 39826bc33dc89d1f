"""Circuit breaker: a model that fails again and again is called no more, but for a probe now and then. Pure.

After Nygard, *Release It!*: closed (all calls), open (none), half-open (one, whose outcome decides).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable

from headrace.pipeline.config_breaker import BreakerSettings
from headrace.pipeline.ports import Clock


class BreakerState(enum.StrEnum):
    """A breaker's state, and the only ones that may follow."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"

    @property
    def next(self) -> frozenset[BreakerState]:
        return _NEXT[self]


_NEXT = {
    BreakerState.CLOSED: frozenset({BreakerState.OPEN}),
    BreakerState.OPEN: frozenset({BreakerState.HALF_OPEN}),
    BreakerState.HALF_OPEN: frozenset({BreakerState.OPEN, BreakerState.CLOSED}),
}


class Breaker:
    """One model's.

    Args:
        clock: monotonic.
        on_change: told of each new state.
    """

    def __init__(
        self, settings: BreakerSettings, clock: Clock, on_change: Callable[[BreakerState], None] = lambda _: None
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._on_change = on_change
        self._failures = 0
        self._open_seconds = 0.0
        self._since = -math.inf
        self._until = 0.0
        self._probing = False
        self.state = BreakerState.CLOSED

    @property
    def remaining_seconds(self) -> float:
        """Until a probe may be made; 0 if it may, or if none is needed."""
        return max(0.0, self._until - self._clock.monotonic()) if self.state is BreakerState.OPEN else 0.0

    @property
    def refusing(self) -> bool:
        """Whether no call may begin now."""
        return self.look() is BreakerState.OPEN or self._probing

    def look(self) -> BreakerState:
        """The state now: what is open long enough becomes half-open."""
        if self.state is BreakerState.OPEN and not self.remaining_seconds:
            self._become(BreakerState.HALF_OPEN)
        return self.state

    def admits(self) -> bool:
        """Whether a call may begin now. A probe's outcome must be told, with ``answered`` or ``failed``."""
        match self.look():
            case BreakerState.CLOSED:
                return True
            case BreakerState.HALF_OPEN if not self._probing:
                self._probing = True
                return True
            case _:
                return False

    def answered(self, began: float) -> None:
        """A call was answered, if only with a refusal of its input: the model is there.

        Args:
            began: when the call did, by the clock. Calls that began in an earlier state say nothing of this one.
        """
        if began < self._since:
            return
        self._failures = 0
        if self.state is BreakerState.HALF_OPEN:
            self._open_seconds = 0.0
            self._become(BreakerState.CLOSED)

    def failed(self, began: float) -> None:
        """A call that ``began`` then failed, or was not answered (see ``answered``)."""
        if began < self._since:
            return
        match self.state:
            case BreakerState.CLOSED:
                self._failures += 1
                if self._failures >= self._settings.failures:
                    self._open()
            case BreakerState.HALF_OPEN:
                self._open()
            case BreakerState.OPEN:
                pass

    def _open(self) -> None:
        longest = self._settings.max_open_seconds
        self._open_seconds = min(longest, 2 * self._open_seconds or self._settings.open_seconds)
        self._until = self._clock.monotonic() + self._open_seconds
        self._failures = 0
        self._become(BreakerState.OPEN)

    def _become(self, state: BreakerState) -> None:
        if state not in self.state.next:
            raise ValueError(f"a breaker that is {self.state.value} cannot become {state.value}")
        self._probing = False
        self._since = self._clock.monotonic()
        self.state = state
        self._on_change(state)
