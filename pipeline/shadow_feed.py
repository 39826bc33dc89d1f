"""One route's shadow: a dispatcher of its own, fed so that nothing live ever waits for it or fails with it."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from headrace.pipeline.admission import check_deadline
from headrace.pipeline.budget import Budget
from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.dispatch import Outcome, RouteDispatcher
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.flow import Calls, RecordRef
from headrace.pipeline.health import Health
from headrace.pipeline.journey import PartTask
from headrace.pipeline.ports import Clock
from headrace.pipeline.records import PartOutput, Stage, TopicPartition
from headrace.pipeline.turns import Turn

log = logging.getLogger(__name__)

MakeDispatcher = Callable[[RouteSettings, Calls, Health, Outcome], RouteDispatcher]

FIRST_PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 60.0
_SILENT = frozenset({"MODEL_NOT_FOUND", "MODEL_UNAVAILABLE", "RETRIES_EXHAUSTED"})
"""With these a part fails because its model has not answered at all."""


def as_dispatched(route: RouteSettings) -> RouteSettings:
    """A route as its shadow's dispatcher has it, under a name that no route can have: ``image/shadow``."""
    shadow = route.shadow
    assert shadow is not None
    changed = {
        "name": f"{route.name}/shadow",
        "model": shadow.model or route.model,
        "version": shadow.version,
        "max_concurrency": shadow.max_concurrency,
        "shadow": None,
        "breaker": None,
        "fallback": None,
    }
    return route.model_copy(update=changed)


@dataclass(slots=True)
class Trust:
    """Whether a model is asked. One that answers nothing is asked for one part now and then, until it does. Pure.

    Without this, each event would be held up for the whole of its patience for as long as the model is away.
    """

    answered_at: float = -math.inf
    paused_until: float = -math.inf
    pause_seconds: float = 0.0
    """0: it answers, as far as is known."""

    def asks(self, now: float) -> bool:
        """Whether to ask it for a part."""
        if not self.pause_seconds:
            return True
        if now < self.paused_until:
            return False
        self.pause_seconds = min(2 * self.pause_seconds, LONGEST_PAUSE_SECONDS)
        self.paused_until = now + self.pause_seconds
        return True

    def answered(self, now: float) -> bool:
        """It has answered something. True if it had lost the trust before."""
        lost, self.answered_at, self.pause_seconds = self.pause_seconds > 0, now, 0.0
        return lost

    def silent(self, since: float, now: float) -> bool:
        """A part that it was asked for then has no answer. True if it has lost the trust now."""
        if self.pause_seconds or self.answered_at >= since:
            return False
        self.pause_seconds = FIRST_PAUSE_SECONDS
        self.paused_until = now + self.pause_seconds
        return True


@dataclass(slots=True)
class Room:
    """How many parts a model may have in hand, so that the last of them is still answered in time. Pure.

    It moves as TCP's congestion window does: to half when one is late, and up by one for so many answered in time.
    Without this, a model that is a little too slow would have each part grow too old before its call, and answer none.

    Attributes:
        least: for one part in each infer call.
        most: for each infer call in flight a full batch, and for the next one too.
        parts: now; at the beginning as many as there may be.
    """

    least: int
    most: int
    parts: float = field(init=False)
    halved_at: float = -math.inf

    def __post_init__(self) -> None:
        self.parts = self.most

    def in_time(self) -> None:
        """A part has been answered while it was still wanted."""
        self.parts = min(self.most, self.parts + 1 / self.parts)

    def late(self, in_hand: int, since: float, now: float) -> None:
        """A part that was asked for then has waited too long, one of so many. Those asked for before the last one's
        lateness was known say nothing new.
        """
        if since >= self.halved_at:
            self.parts = max(self.least, min(self.parts, in_hand) / 2)
            self.halved_at = now


class _Unheld:
    """``flow.Calls`` of a shadow: no drain waits for it, and it has its own way to end a part (see ``give_up``)."""

    def wants(self, partition: TopicPartition, generation: int) -> bool:
        return True

    def begin_call(self, ref: RecordRef) -> bool:
        return True

    def end_call(self, ref: RecordRef) -> None:
        return None


class _Untold(Health):
    """What a shadow waits for makes no worker unready."""

    def report(self, dependency: str, up: bool, detail: str = "") -> None:
        return None


class ShadowFeed:
    """Takes parts for a route's shadow, as long as there is room and its model answers.

    Args:
        route: whose shadow it is.
        budget: for the parts in hand of all shadows, both ends on the event loop.
        make_dispatcher: makes the one that the parts go to.
        tell: takes each part's outcome, once.
    """

    def __init__(
        self, route: RouteSettings, budget: Budget, clock: Clock, make_dispatcher: MakeDispatcher, tell: Outcome
    ) -> None:
        self._route = as_dispatched(route)
        calls = self._route.max_concurrency
        self._room = Room(calls, 2 * calls * self._route.batch.max_records)
        self._budget = budget
        self._clock = clock
        self._tell = tell
        self._trust = Trust()
        self._asked_at: dict[PartTask, float] = {}
        self._waiting: asyncio.Queue[PartTask] = asyncio.Queue()  # bounded by the room
        self._failed = False
        self._dispatcher = make_dispatcher(self._route, _Unheld(), _Untold(), self._finish)

    @property
    def model(self) -> str:
        return self._route.model

    @property
    def version(self) -> str:
        return self._route.version

    def offer(self, task: PartTask) -> bool:
        """Take a part, or leave it. Never waits."""
        now = self._clock.monotonic()
        if self._failed or self._budget.full or len(self._asked_at) >= self._room.parts or not self._trust.asks(now):
            return False
        self._budget.take(1, task.journey.record.size_bytes)
        self._asked_at[task] = now
        self._waiting.put_nowait(task)
        return True

    def give_up(self, task: PartTask, late: bool = False) -> None:
        """Nobody wants this part's outcome any more.

        Args:
            task: it has no outcome yet.
            late: because it has been waited for as long as it may be, which says something of the model.
        """
        task.give_up()
        if late:
            asked_at = self._asked_at[task]
            self._room.late(len(self._asked_at), asked_at, self._clock.monotonic())
            self._doubt(asked_at)

    async def run(self) -> None:
        """Feed the dispatcher, for ever. Should it fail, this shadow has ended, and the worker goes on."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._dispatcher.run(), name=f"route {self._route.name}")
                group.create_task(self._feed(), name=f"feed {self._route.name}")
        except* Exception as errors:
            log.error("route %s has failed: events go without their shadow", self._route.name, exc_info=errors)
            self._failed = True
            for task in tuple(self._asked_at):
                self._finish(task, PoisonError(Stage.PREPARE, "UNEXPECTED", "the shadow has ended"))

    async def _feed(self) -> None:
        turn = Turn(self._clock)
        while True:
            task = await self._waiting.get()
            try:
                check_deadline(task.deadline_ms, self._clock.epoch_ms())
            except PoisonError as error:  # without asking for a model's signature on its account
                self._finish(task, error)
            else:
                await self._dispatcher.submit([task])
            if turn.is_over:
                await turn.give_way()

    def _finish(self, task: PartTask, outcome: PartOutput | PoisonError) -> None:
        asked_at = self._asked_at.pop(task, None)
        if asked_at is None:
            return  # it ended with the whole shadow
        self._budget.release(1, task.journey.record.size_bytes)
        if isinstance(outcome, PoisonError) and outcome.code in _SILENT:
            self._doubt(asked_at)
        elif not task.given_up and (isinstance(outcome, PartOutput) or outcome.stage == Stage.INFER):
            self._room.in_time()
            self._believe()
        self._tell(task, outcome)

    def _believe(self) -> None:
        if self._trust.answered(self._clock.monotonic()):
            log.info("route %s: model %s answers again", self._route.name, self.model)

    def _doubt(self, asked_at: float) -> None:
        if self._trust.silent(asked_at, self._clock.monotonic()):
            log.warning(
                "route %s: model %s does not answer in time: it is asked for one part now, after %.0f s and ever more",
                self._route.name,
                self.model,
                FIRST_PAUSE_SECONDS,
            )
