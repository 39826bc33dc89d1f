"""Follows one model's breaker by what its worker measures. Pure: told, never asks."""

from __future__ import annotations

import itertools
from collections import Counter

from headrace.pipeline.breaker import BreakerState
from headrace.pipeline.measured import measured

CHANGES = "headrace_breaker_changes_total"


class BreakerWatch:
    """Of one route's model, in one worker that was just started.

    Args:
        route, model: whose breaker.
    """

    def __init__(self, route: str, model: str) -> None:
        self.states = [BreakerState.CLOSED]
        """Since the beginning, the last one being that of now."""
        self._labels = {"route": route, "model": model}
        self._known: Counter[BreakerState] = Counter()

    @property
    def state(self) -> BreakerState:
        return self.states[-1]

    def look(self, text: str) -> list[BreakerState]:
        """The states that it has taken since the last look, in order.

        They are counted, not listed: between two looks there is an order of them that a breaker may take, mostly one.

        Args:
            text: what the worker serves at ``/metrics``.

        Raises:
            ValueError: it is of another format, or counts what no breaker can do.
        """
        counts = self._counts(text)
        left = counts - self._known
        self._known = counts
        taken = []
        while left.total():
            state = next((each for each in BreakerState if each in self.state.next and left[each]), None)
            if state is None:
                raise ValueError(f"a breaker that is {self.state.value} cannot become {', '.join(map(str, +left))}")
            if state is BreakerState.CLOSED and left[BreakerState.OPEN] and left[BreakerState.HALF_OPEN]:
                state = BreakerState.OPEN  # probes that fail come before the one that is answered
            left[state] -= 1
            self.states.append(state)
            taken.append(state)
        return taken

    def _counts(self, text: str) -> Counter[BreakerState]:
        found: Counter[BreakerState] = Counter()
        lines = "\n".join(line for line in text.splitlines() if CHANGES in line)  # the others take longer to parse
        for row in measured(f"{lines}\n"):
            labels = dict(row.labels)
            if row.name == CHANGES and self._labels.items() <= labels.items():
                found[BreakerState(labels["state"])] += int(row.value)
        return found


def is_round(states: list[BreakerState]) -> bool:
    """Whether a breaker was closed, opened, and closed again behind a probe; and took no step that it must not."""
    steps = itertools.pairwise(states)
    return (
        states[0] is states[-1] is BreakerState.CLOSED
        and BreakerState.HALF_OPEN in states
        and all(then in before.next for before, then in steps)
    )
