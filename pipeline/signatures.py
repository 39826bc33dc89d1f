"""What one route's models take and give, as far as it is known; and waiting for models that do not answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.pipeline.admission import patience_seconds, unavailable_backoff_seconds
from headrace.pipeline.breakers import Breakers
from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.errors import ExhaustedError, PoisonError, RetriableError
from headrace.pipeline.flow import Calls
from headrace.pipeline.health import Health
from headrace.pipeline.journey import PartTask, wanted
from headrace.pipeline.ports import Clock, InferenceClient, ModelSignature
from headrace.pipeline.records import Stage

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Waits:
    """How often a model was waited for, and for how long of that its server was up.

    Several may wait at a time: that counts once.
    """

    times: int = 0
    live_seconds: float = 0.0
    until: float = 0.0
    """The end of the last of these waits, by the monotonic clock."""

    def wait(self, now: float, seconds: float) -> None:
        """One more waits so long, while the server is up."""
        self.live_seconds += max(0.0, now + seconds - max(now, self.until))
        self.until = max(self.until, now + seconds)


class Signatures:
    """The signatures of one route's models, by model and version."""

    def __init__(
        self,
        route: RouteSettings,
        client: InferenceClient,
        flow: Calls,
        health: Health,
        clock: Clock,
        breakers: Breakers,
    ) -> None:
        self._route = route
        self._client = client
        self._flow = flow
        self._health = health
        self._clock = clock
        self._breakers = breakers
        self._known: dict[tuple[str, str], ModelSignature] = {}

    def known(self, task: PartTask) -> ModelSignature | None:
        """What a task's model takes and gives, if it has been asked for."""
        return self._known.get((task.model, task.version))

    async def of(self, task: PartTask, waits: Waits) -> ModelSignature | None:
        """What a task's model takes and gives: asked for once, and waited for.

        None if the task is not wanted any more, or goes elsewhere (see ``Breakers.diverts``).

        Raises:
            PoisonError: there is no such model, it does not answer (see ``wait``), or the task's deadline has passed.
        """
        key = (task.model, task.version)
        while (known := self._known.get(key)) is None:
            began = self._clock.monotonic()
            try:
                self._known[key] = await self._client.signature(*key)
                self._health.report("triton", up=True)
            except RetriableError as error:
                self._breakers.failed(task, began)
                if not wanted(task, self._flow, self._clock.epoch_ms()) or self._breakers.diverts(task):
                    return None
                if given_up := await self.wait(task, error, waits):
                    raise given_up from error
        return known

    async def renewed(self, tasks: Sequence[PartTask], before: ModelSignature) -> ModelSignature | None:
        """The signature as it is now, if it is not the one ``before``, for which the rows of these tasks were made.

        Asked for once a task: a model that changes to and fro (two servers behind one address, say) keeps none here.
        """
        if any(task.renewed for task in tasks):
            return None
        key = (tasks[0].model, tasks[0].version)
        now = await self._client.signature(*key)
        for task in tasks:
            task.renewed = True
        if now == before:
            return None
        if self._known.get(key) != now:
            log.info("route %s: model %s has another signature than before", self._route.name, key[0])
            self._known[key] = now
        return self._known[key]

    async def wait(self, task: PartTask, error: RetriableError, waits: Waits) -> PoisonError | None:
        """Wait before the next try, or say with what to give up.

        A server that is down is waited for as long as it takes. If it is up and yet does not answer for a model,
        that may be the fault of the model or of a record, which must not hold up all others for ever.
        """
        waits.times += 1
        seconds = unavailable_backoff_seconds(waits.times)
        if await self._client.live():  # not "ready": that waits for every model, this one and all others
            if waits.live_seconds >= patience_seconds(self._route.retries):
                return _unavailable(task, error, waits.live_seconds)
            if not waits.live_seconds:
                log.warning("route %s: waiting for model %s: %s", self._route.name, task.model, error)
            elif await self._lacks_version_only(task):
                return _not_served(task, error)
            waits.wait(self._clock.monotonic(), seconds)
        else:
            self._health.report("triton", up=False, detail=str(error))
        await asyncio.sleep(seconds)
        return None

    async def _lacks_version_only(self, task: PartTask) -> bool:
        """Whether the model is served, but not in the version that an event names: the route does not wait for that."""
        route, fallback = self._route, self._route.fallback
        if task.version in ("", route.version) or (fallback and fallback.model == task.model):
            return False
        try:
            await self._client.signature(task.model)
        except (RetriableError, PoisonError):
            return False
        return True


def _unavailable(task: PartTask, error: RetriableError, seconds: float) -> PoisonError:
    message = (
        f"model {task.model} did not answer for {seconds:.0f} s although its server is up: "
        f"load it or start the server again, then send the record again; the last answer: {error}"
    )
    return ExhaustedError(Stage.INFER, "MODEL_UNAVAILABLE", message)


def _not_served(task: PartTask, error: RetriableError) -> PoisonError:
    message = f"model {task.model} is served, but not in version {task.version}: name another, or none; {error}"
    return PoisonError(Stage.INFER, "MODEL_NOT_FOUND", message)
