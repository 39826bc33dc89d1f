"""Infer calls of one route: collect parts into batches, keep calls in flight, retry what may succeed.

Decisions are taken elsewhere, purely (``batching``, ``admission``, ``inference``); this carries them out.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from headrace.pipeline import metrics
from headrace.pipeline.admission import attempts_left, backoff_seconds, patience_seconds
from headrace.pipeline.batching import Batch, Batcher, halves
from headrace.pipeline.breakers import Breakers
from headrace.pipeline.call_tasks import CallTasks
from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.errors import ExhaustedError, FatalError, PoisonError, RetriableError, UnavailableError
from headrace.pipeline.flow import Calls
from headrace.pipeline.health import Health
from headrace.pipeline.inference import Prepared, answers, call_of, is_sampled, max_rows, prepare
from headrace.pipeline.journey import PartTask, wanted
from headrace.pipeline.ports import Clock, FrameSampler, InferenceClient, ModelSignature
from headrace.pipeline.records import Modality, PartOutput, Stage
from headrace.pipeline.sampling import Samplings, Video
from headrace.pipeline.signatures import Signatures, Waits
from headrace.pipeline.turns import Turn

log = logging.getLogger(__name__)

Outcome = Callable[[PartTask, PartOutput | PoisonError], None]


class _Item(NamedTuple):
    """A part that waits for its call, and the signature that its row was made for."""

    task: PartTask
    prepared: Prepared
    signature: ModelSignature


@dataclass(slots=True)
class _Search:
    """For the record at fault in a batch: how often or how long halves may still fail. Those that succeed cost nothing.

    So often that one record is always found, and so long that a model which fails at once is asked for each record.
    """

    failures: int
    seconds: float

    @property
    def goes_on(self) -> bool:
        return self.failures > 0 or self.seconds > 0


_WaitsByModel = defaultdict[tuple[str, str], Waits]


def _waits() -> _WaitsByModel:
    return defaultdict(Waits)


class RouteDispatcher:
    """One route's batches and calls.

    Args:
        finish: takes each part's outcome, once, while its record is still in flight.
        on_hold: told whether the route can take no more events for now (see ``Breakers``).
    """

    def __init__(
        self,
        route: RouteSettings,
        timeout_seconds: float,
        client: InferenceClient,
        sampler: FrameSampler,
        flow: Calls,
        health: Health,
        clock: Clock,
        finish: Outcome,
        on_hold: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._route = route
        self._timeout_seconds = timeout_seconds
        self._client = client
        self._flow = flow
        self._health = health
        self._clock = clock
        self._finish = finish
        batch = route.batch
        self._batcher: Batcher[_Item] = Batcher(batch.max_records, batch.max_bytes, batch.max_delay_seconds)
        self._breakers = Breakers(route, clock, on_hold)
        self._signatures = Signatures(route, client, flow, health, clock, self._breakers)
        self._samplings = Samplings(route, sampler, flow, health, clock, self._add_sampled, self._fail_unprepared)
        self._infer_seconds = metrics.INFER_SECONDS.labels(route.name)
        self._batch_records = metrics.BATCH_RECORDS.labels(route.name)
        self._waiting_seconds = metrics.WAITING_SECONDS.labels(route.name)
        self._wake = asyncio.Event()
        self._calls = CallTasks(f"infer {route.name}", route.max_concurrency, self._wake.set)
        self._diverted_since = -math.inf
        self._diverted_waits = _waits()

    async def submit(self, tasks: Sequence[PartTask]) -> None:
        """Prepare parts and queue them. Waits while a model's signature cannot be had (see ``Signatures.wait``)."""
        await self._submit(tasks, _waits())  # they all began to wait when they came here

    async def _submit(self, tasks: Sequence[PartTask], waits: _WaitsByModel) -> None:
        turn = Turn(self._clock)
        for task in tasks:
            if self._breakers.diverts(task):
                await self._divert(task, waits)
                continue
            try:
                signature = self._signatures.known(task)
                if signature is None:
                    signature = await self._signatures.of(task, waits[task.model, task.version])
            except FatalError:
                raise
            except Exception as error:  # noqa: BLE001 - becomes the part's outcome
                self._fail_unprepared(task, error)
            else:
                if signature is not None:
                    self._queue(task, signature)
                elif self._breakers.diverts(task):
                    await self._divert(task, waits)
            if turn.is_over:
                await turn.give_way()
        self._wake.set()

    async def _divert(self, task: PartTask, waits: _WaitsByModel) -> None:
        """Its model is not called for now: another answers, or it is put off."""
        if error := self._breakers.divert(task):
            self._finish(task, error)
        else:
            await self._submit([task], waits)

    def _queue(self, task: PartTask, signature: ModelSignature) -> None:
        part = task.part
        try:
            prepared = prepare(part, signature, task.version, task.journey.request.parameters)
        except Exception as error:  # noqa: BLE001 - becomes the part's outcome
            self._fail_unprepared(task, error)
            return
        task.admitted_at = now = self._clock.monotonic()
        if part.modality is Modality.VIDEO and is_sampled(part, signature, self._route.video):
            self._samplings.add(Video(task, prepared, signature))
        else:
            self._add(_Item(task, prepared, signature), now)

    def _add_sampled(self, video: Video) -> None:
        self._add(_Item(*video), self._clock.monotonic(), len(video.prepared.row))
        self._wake.set()

    def _add(self, item: _Item, now: float, rows: int = 1) -> None:
        _, prepared, signature = item
        # Rows made for different signatures must not share a call. By identity: the items keep it alive, and the hash
        # of a signature costs as much as the rest of the way.
        bucket = (id(signature), prepared.bucket)
        priority = item.task.journey.delivery.priority
        self._batcher.add(item, prepared.weight_bytes, bucket, now, max_rows(signature), rows, priority)

    def _fail_unprepared(self, task: PartTask, error: Exception) -> None:
        if isinstance(error, PoisonError):
            self._finish(task, error)
            return
        log.error("route %s: preparing a part failed", self._route.name, exc_info=error)
        self._finish(task, _unexpected(Stage.PREPARE, error))

    async def run(self) -> None:
        """Start calls while there are slots and batches. An error that escapes a call ends this, and so the process."""
        try:
            while True:
                timer = self._set_timer()
                await self._wake.wait()
                self._wake.clear()
                if timer:
                    timer.cancel()
                self._samplings.start(self._wake.set)
                self._calls.collect()
                self._start_calls()
        finally:
            self._calls.cancel()
            self._breakers.close()
            await self._samplings.stop()

    def _set_timer(self) -> asyncio.TimerHandle | None:
        due = self._batcher.next_due()
        if due is None or self._calls.full:
            return None
        return asyncio.get_running_loop().call_later(max(0.0, due - self._clock.monotonic()), self._wake.set)

    def _start_calls(self) -> bool:
        """Whether any was started."""
        started = False
        while not self._calls.full and (batch := self._batcher.take(self._clock.monotonic(), self._calls.idle)):
            self._calls.start(self._run_batch(batch))
            started = True
        return started

    async def _start_next(self) -> None:
        """Of a call that has its answers: the model gets its next rows before these are worked on."""
        self._calls.give_up_place()
        if self._start_calls():
            await self._calls.sent()

    async def _run_batch(self, batch: Batch[_Item]) -> None:
        begun = [item for item in batch.items if self._flow.begin_call(item.task.journey.ref)]
        try:
            await self._infer(self._in_time(begun))
        finally:
            for item in begun:
                self._flow.end_call(item.task.journey.ref)
            if self._samplings.frame_bytes:
                self._release(batch.items)

    def _release(self, items: Sequence[_Item]) -> None:
        """The frames of these have been answered, or are not wanted: there is room for those of other videos."""
        for item in items:
            if item.prepared.frames is not None:
                self._samplings.release(item.prepared)
        self._wake.set()

    def _in_time(self, items: Sequence[_Item]) -> list[_Item]:
        """Those still wanted and before their deadline; the late ones become dead letters before they cost a call."""
        kept = []
        now_ms = self._clock.epoch_ms()
        for item in items:
            try:
                if wanted(item.task, self._flow, now_ms):
                    kept.append(item)
            except PoisonError as error:
                self._finish(item.task, error)
        return kept

    async def _infer(
        self, items: list[_Item], failures: int = 0, waits: Waits | None = None, search: _Search | None = None
    ) -> None:
        """Call until every item has its outcome or is no longer wanted.

        Args:
            items: rows of one call.
            failures: attempts that have failed already.
            waits: for the model, until now. A half goes on with what its batch has left of both.
            search: of which this is a part, if these are a half.
        """
        began = self._clock.monotonic()
        waits = waits or Waits()
        while items:
            lead = items[0].task
            given_up: PoisonError | None = None
            if not self._breakers.admits(lead):
                items = await self._wait_or_divert(items)
                continue
            called = self._clock.monotonic()
            try:
                outcomes = await self._call(items, failures + 1)
            except UnavailableError as error:
                self._count("unavailable")
                self._breakers.failed(lead, called)
                if not self._breakers.diverts(lead):
                    given_up = await self._signatures.wait(lead, error, waits)
            except RetriableError as error:
                self._count("retry")
                self._breakers.failed(lead, called)
                failures += 1
                if not attempts_left(failures, self._route.retries):
                    given_up = _exhausted(error, failures)
                elif not self._breakers.diverts(lead):
                    await asyncio.sleep(backoff_seconds(failures, self._route.retries, random.random()))
            except PoisonError as error:
                self._count("poison")
                self._breakers.answered(lead, called)
                given_up = error.with_traceback(None)  # whose frames hold the batch, and this frame the error
            else:
                self._breakers.answered(lead, called)
                if outcomes is not None:
                    if search is None:
                        await self._start_next()
                    for item, outcome in zip(items, outcomes, strict=True):
                        self._finish(item.task, outcome)
                return
            if given_up:
                if search is None:
                    search = _Search(len(items).bit_length(), patience_seconds(self._route.retries))
                else:
                    search.failures -= 1
                    search.seconds -= self._clock.monotonic() - began
                await self._isolate(items, given_up, failures, waits, search)
                return
            items = self._in_time(items)

    async def _wait_or_divert(self, items: list[_Item]) -> list[_Item]:
        """Their model is not called for now. Returns those to be tried again then: they have nowhere else to go."""
        left = []
        for item in items:
            if self._breakers.diverts(item.task):
                await self._divert(item.task, self._waits_of_queued(item.task))
            else:
                left.append(item)
        if left:
            await self._breakers.wait(left[0].task)
        return self._in_time(left)

    def _waits_of_queued(self, task: PartTask) -> _WaitsByModel:
        """All that were queued when the first of them was diverted wait for the fallback together."""
        if task.admitted_at > self._diverted_since:
            self._diverted_since, self._diverted_waits = self._clock.monotonic(), _waits()
        return self._diverted_waits

    async def _isolate(
        self, items: list[_Item], error: PoisonError, failures: int, waits: Waits, search: _Search
    ) -> None:
        """What failed as a whole may be one record's fault: halve it until that one stands alone.

        Within bounds, for a model that hangs makes each call last and holds up its route.
        """
        if len(items) == 1 or error.code == "MODEL_NOT_FOUND":
            self._fail(items, error)
            return
        for half in halves(tuple(items)):
            if search.goes_on:
                await self._infer(self._in_time(half), failures, waits, search)
            else:
                self._fail(self._in_time(half), error)

    async def _call(self, items: list[_Item], attempt: int) -> Sequence[PartOutput | PoisonError] | None:
        """One infer call: an outcome for each item; None if they wait for another call.

        Raises what the client raises; anything else goes wrong for these items alone.
        """
        began = self._clock.monotonic()
        for item in items:
            item.task.attempts = attempt
        try:
            outcomes = await self._answers(items)
        except (RetriableError, PoisonError, FatalError):
            raise
        except Exception as error:
            log.exception("route %s: an infer call failed", self._route.name)
            return [_unexpected(Stage.INFER, error)] * len(items)
        self._health.report("triton", up=True)
        if outcomes is None:
            self._count("poison")
            return None
        self._count("ok")
        elapsed = self._clock.monotonic() - began
        self._infer_seconds.observe(elapsed)
        self._batch_records.observe(self._rows(items))
        for task, _, _ in items:
            task.waited_seconds, task.inferred_seconds = began - task.admitted_at, elapsed
            self._waiting_seconds.observe(task.waited_seconds)
        return outcomes

    async def _answers(self, items: list[_Item]) -> list[PartOutput | PoisonError] | None:
        """An outcome for each item; None if they wait for another call, because the model has another signature now."""
        signature, tasks = items[0].signature, [item.task for item in items]
        rows = [item.prepared for item in items]
        try:
            reply = await self._client.infer(call_of(rows, signature), self._timeout_seconds)
        except PoisonError:
            if (renewed := await self._signatures.renewed(tasks, signature)) is None:
                raise
            for task in tasks:
                self._queue(task, renewed)
            self._wake.set()
            return None
        names = [task.part.name for task in tasks]
        outcomes = answers(reply, signature, names, rows, self._route.name)
        if all(map(_is_bad_output, outcomes)) and (renewed := await self._signatures.renewed(tasks, signature)):
            return answers(reply, renewed, names, rows, self._route.name)
        return outcomes

    def _rows(self, items: Sequence[_Item]) -> int:
        return sum(item.prepared.rows for item in items) if self._samplings.frame_bytes else len(items)

    def _fail(self, items: Sequence[_Item], error: PoisonError) -> None:
        for item in items:
            self._finish(item.task, error)

    def _count(self, outcome: str) -> None:
        metrics.INFER_CALLS.labels(self._route.name, outcome).inc()


def _is_bad_output(outcome: PartOutput | PoisonError) -> bool:
    return isinstance(outcome, PoisonError) and outcome.code == "BAD_MODEL_OUTPUT"


def _exhausted(error: RetriableError, attempts: int) -> ExhaustedError:
    return ExhaustedError(Stage.INFER, "RETRIES_EXHAUSTED", f"{attempts} attempts failed, the last one: {error}")


def _unexpected(stage: Stage, error: Exception) -> PoisonError:
    return PoisonError(stage, "UNEXPECTED", f"{type(error).__name__}: {error}"[:1000])
