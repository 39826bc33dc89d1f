"""The breakers of one route's models, and what becomes of parts while one is open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from headrace.pipeline import metrics
from headrace.pipeline.breaker import Breaker, BreakerState
from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.errors import ExhaustedError
from headrace.pipeline.journey import PartTask
from headrace.pipeline.ports import Clock
from headrace.pipeline.records import Stage

log = logging.getLogger(__name__)

LONGEST_WAIT_SECONDS = 1.0
"""A drain waits for those that wait here, and deadlines pass meanwhile: so often they look."""

MAX_OTHERS = 100
"""Events may name any number of versions: of those so many breakers are kept, of the ones that failed last."""

Model = tuple[str, str]
"""Name and version, an empty one if the server is to choose."""


class Breakers:
    """Of one route. Without ``breaker`` in its settings there are none, and every call is admitted.

    Args:
        on_hold: told whether the route can take no more events for now: its own model's breaker is open.
    """

    def __init__(self, route: RouteSettings, clock: Clock, on_hold: Callable[[bool], None]) -> None:
        self._route = route
        self._clock = clock
        self._on_hold = on_hold
        self._own = (route.model, route.version)
        self._measured = {self._own}
        """Events may name any other, which are not measured: that were labels without end."""
        if route.fallback:
            self._measured.add((route.fallback.model, route.fallback.version))
        self._breakers: dict[Model, Breaker] = {}
        self._changed = asyncio.Event()
        self._timers: dict[Model, asyncio.TimerHandle] = {}
        if route.breaker:
            for model, _ in self._measured:
                metrics.BREAKER_STATE.labels(route.name, model).set(_GAUGE[BreakerState.CLOSED])

    def admits(self, task: PartTask) -> bool:
        """Whether a call to a part's model may begin now (see ``Breaker.admits``)."""
        breaker = self._of(task)
        return breaker is None or breaker.admits()

    def diverts(self, task: PartTask) -> bool:
        """Whether a part goes elsewhere (see ``divert``): its model is not called now, and there is an elsewhere.

        A lane waits instead, if it has no fallback: nothing else is behind it.
        """
        breaker = self._of(task)
        if breaker is None or not breaker.refusing:
            return False
        delays, retry = self._route.retries.delays, task.journey.retry
        if self._falls_back(task):
            return True
        if self._route.topics or not delays:
            return False
        # With its last delay behind it it would be a dead letter: while a probe is under way, it waits for that.
        return breaker.state is BreakerState.OPEN or retry is None or retry.number < len(delays)

    def answered(self, task: PartTask, began: float) -> None:
        """A call to its model was answered (see ``Breaker.answered``)."""
        if breaker := self._of(task):
            breaker.answered(began)

    def failed(self, task: PartTask, began: float) -> None:
        """A call to its model failed."""
        if self._route.breaker is None:
            return
        model = (task.model, task.version)
        breaker = self._breakers.pop(model, None)
        if breaker is None:
            breaker = Breaker(self._route.breaker, self._clock, partial(self._note, model))
        self._breakers[model] = breaker  # as the one that failed last
        breaker.failed(began)
        others = [each for each in self._breakers if each not in self._measured]
        for model in others[:-MAX_OTHERS]:
            del self._breakers[model]
            if timer := self._timers.pop(model, None):
                timer.cancel()

    async def wait(self, task: PartTask) -> None:
        """Until a call may be admitted, as far as is known, or for ``LONGEST_WAIT_SECONDS``: then ask again."""
        self._changed.clear()
        breaker = self._of(task)
        if breaker is None or not breaker.refusing:  # it has become half-open: nothing more may happen to it
            return
        try:
            async with asyncio.timeout(min(breaker.remaining_seconds or LONGEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS)):
                await self._changed.wait()
        except TimeoutError:
            pass

    def divert(self, task: PartTask) -> ExhaustedError | None:
        """Give a part to the fallback, if it may be given to one; else say with what to put its event off."""
        route = self._route
        if route.fallback and self._falls_back(task):
            metrics.DIVERTED.labels(route.name, route.fallback.model).inc()
            task.model, task.version = route.fallback.model, route.fallback.version
            return None
        message = f"model {task.model} is not called for now: it failed {self._failures} times in a row"
        return ExhaustedError(Stage.ADMIT, "BREAKER_OPEN", message)

    def _falls_back(self, task: PartTask) -> bool:
        """Not what names a model itself."""
        route = self._route
        return route.fallback is not None and task.model == route.model and task.journey.request.model is None

    def close(self) -> None:
        """Nothing more is called."""
        for timer in self._timers.values():
            timer.cancel()

    @property
    def _failures(self) -> int:
        return self._route.breaker.failures if self._route.breaker else 0

    def _of(self, task: PartTask) -> Breaker | None:
        """None if its model has not failed yet, or long ago."""
        return self._breakers.get((task.model, task.version))

    def _note(self, model: Model, state: BreakerState) -> None:
        route, breaker = self._route, self._breakers[model]
        if model in self._measured:
            metrics.BREAKER_STATE.labels(route.name, model[0]).set(_GAUGE[state])
            metrics.BREAKER_CHANGES.labels(route.name, model[0], state.value).inc()
        name, seconds = " version ".join(filter(None, model)), breaker.remaining_seconds
        if timer := self._timers.pop(model, None):
            timer.cancel()
        match state:
            case BreakerState.OPEN:
                log.warning("route %s: breaker of model %s opens, for %.1f s", route.name, name, seconds)
                self._timers[model] = asyncio.get_running_loop().call_later(seconds, breaker.look)
            case BreakerState.HALF_OPEN:
                log.info("route %s: breaker of model %s is half-open: one call is made", route.name, name)
            case BreakerState.CLOSED:
                log.info("route %s: breaker of model %s closes: it answers again", route.name, name)
        if route.topics and not route.fallback and model == self._own:
            self._on_hold(state is BreakerState.OPEN)
        self._changed.set()


_GAUGE = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}
