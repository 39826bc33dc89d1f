"""Infer calls of one route: collect parts into batches, keep calls in flight, retry what may succeed.

Decisions are taken elsewhere, purely (``batching``, ``admission``, ``inference``); this carries them out.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

from headrace.pipeline import metrics
from headrace.pipeline.admission import attempts_left, backoff_seconds, check_deadline
from headrace.pipeline.batching import Batch, Batcher, halves
from headrace.pipeline.config import RouteSettings
from headrace.pipeline.errors import FatalError, PoisonError, RetriableError, UnavailableError
from headrace.pipeline.flow import Flow
from headrace.pipeline.health import Health
from headrace.pipeline.inference import Prepared, call_of, max_rows, prepare, split
from headrace.pipeline.journey import PartTask
from headrace.pipeline.ports import Clock, InferenceClient, ModelSignature
from headrace.pipeline.records import PartOutput, Stage

log = logging.getLogger(__name__)

UNAVAILABLE_BACKOFF_SECONDS = 2.0
"""Longest wait between two calls to a server that does not answer: also how soon its return is noticed."""

Outcome = Callable[[PartTask, PartOutput | PoisonError], None]


class RouteDispatcher:
    """One route's batches and calls.

    Args:
        finish: takes each part's outcome, once, while its record is still in flight.
    """

    def __init__(
        self,
        route: RouteSettings,
        timeout_seconds: float,
        client: InferenceClient,
        flow: Flow,
        health: Health,
        clock: Clock,
        finish: Outcome,
    ) -> None:
        self._route = route
        self._timeout_seconds = timeout_seconds
        self._client = client
        self._flow = flow
        self._health = health
        self._clock = clock
        self._finish = finish
        batch = route.batch
        self._batcher: Batcher[tuple[PartTask, Prepared]] = Batcher(
            batch.max_records, batch.max_bytes, batch.max_delay_seconds
        )
        self._signatures: dict[tuple[str, str], ModelSignature] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()

    async def submit(self, tasks: Sequence[PartTask]) -> None:
        """Prepare parts and queue them. Waits while the model's signature cannot be had."""
        for task in tasks:
            try:
                signature = await self._wait_for_signature(task)
                prepared = prepare(task.part, signature, task.version, task.journey.request.parameters)
            except PoisonError as error:
                self._finish(task, error)
            except FatalError:
                raise
            except Exception as error:
                log.exception("route %s: preparing a part failed", self._route.name)
                self._finish(task, _unexpected(Stage.PREPARE, error))
            else:
                now = self._clock.monotonic()
                task.admitted_at = now
                bucket = (task.model, prepared.bucket)
                self._batcher.add((task, prepared), prepared.weight_bytes, bucket, now, max_rows(signature))
        self._wake.set()

    async def run(self) -> None:
        """Start calls while there are slots and batches. An error that escapes a call ends this, and so the process."""
        try:
            while True:
                timer = self._set_timer()
                await self._wake.wait()
                self._wake.clear()
                if timer:
                    timer.cancel()
                self._start_calls()
        finally:
            for call in self._calls:
                call.cancel()

    def _set_timer(self) -> asyncio.TimerHandle | None:
        due = self._batcher.next_due()
        if due is None or len(self._calls) >= self._route.max_concurrency:
            return None
        return asyncio.get_running_loop().call_later(max(0.0, due - self._clock.monotonic()), self._wake.set)

    def _start_calls(self) -> None:
        for call in [call for call in self._calls if call.done()]:
            self._calls.discard(call)
            call.result()
        while len(self._calls) < self._route.max_concurrency:
            batch = self._batcher.take(self._clock.monotonic(), idle=not self._calls)
            if batch is None:
                return
            call = asyncio.create_task(self._run_batch(batch), name=f"infer {self._route.name}")
            call.add_done_callback(lambda _: self._wake.set())
            self._calls.add(call)

    async def _run_batch(self, batch: Batch[tuple[PartTask, Prepared]]) -> None:
        begun = [item for item in batch.items if self._flow.begin_call(item[0].journey.ref)]
        try:
            await self._infer(self._in_time(begun))
        finally:
            for task, _ in begun:
                self._flow.end_call(task.journey.ref)

    def _in_time(self, items: Sequence[tuple[PartTask, Prepared]]) -> list[tuple[PartTask, Prepared]]:
        """Those still wanted and before their deadline; the late ones become dead letters before they cost a call."""
        kept = []
        now_ms = self._clock.epoch_ms()
        for task, prepared in items:
            try:
                check_deadline(task.deadline_ms, now_ms)
            except PoisonError as error:
                self._finish(task, error)
            else:
                if self._flow.wants(task.journey.ref.partition, task.journey.ref.generation):
                    kept.append((task, prepared))
        return kept

    async def _infer(self, items: list[tuple[PartTask, Prepared]]) -> None:
        """Call until every item has its outcome or is no longer wanted."""
        failures = waits = 0
        while items:
            try:
                await self._call(items, failures + 1)
                return
            except UnavailableError as error:
                self._count("unavailable")
                self._health.report("triton", up=False, detail=str(error))
                waits += 1
                await asyncio.sleep(_unavailable_backoff_seconds(waits))
            except RetriableError as error:
                self._count("retry")
                failures += 1
                if not attempts_left(failures, self._route.retries):
                    self._fail(items, _exhausted(error, failures))
                    return
                await asyncio.sleep(backoff_seconds(failures, self._route.retries, random.random()))
            except PoisonError as error:
                self._count("poison")
                self._signatures.clear()  # the model may have been replaced by one with another signature
                if len(items) == 1 or error.code == "MODEL_NOT_FOUND":
                    self._fail(items, error)
                else:
                    for half in halves(tuple(items)):
                        await self._infer(list(half))
                return
            items = self._in_time(items)

    async def _call(self, items: list[tuple[PartTask, Prepared]], attempts: int) -> None:
        """One infer call. Raises what the client raises; anything else goes wrong for these items alone."""
        began = self._clock.monotonic()
        first = items[0][0]
        for task, _ in items:
            task.attempts = attempts
        try:
            signature = await self._signature(first)
            call = call_of([prepared for _, prepared in items], signature)
            reply = await self._client.infer(call, self._timeout_seconds)
            outcomes = split(reply, signature, [task.part.name for task, _ in items], self._route.name)
        except (RetriableError, PoisonError, FatalError):
            raise
        except Exception as error:
            log.exception("route %s: an infer call failed", self._route.name)
            self._fail(items, _unexpected(Stage.INFER, error))
            return
        self._health.report("triton", up=True)
        self._count("ok")
        elapsed = self._clock.monotonic() - began
        metrics.INFER_SECONDS.labels(self._route.name).observe(elapsed)
        metrics.BATCH_RECORDS.labels(self._route.name).observe(len(items))
        waiting = metrics.WAITING_SECONDS.labels(self._route.name)
        for (task, _), outcome in zip(items, outcomes, strict=True):
            waiting.observe(began - task.admitted_at)
            task.waited_seconds, task.inferred_seconds = began - task.admitted_at, elapsed
            self._finish(task, outcome)

    async def _signature(self, task: PartTask) -> ModelSignature:
        """The model's signature, asked for once."""
        key = (task.model, task.version)
        if (signature := self._signatures.get(key)) is None:
            signature = self._signatures[key] = await self._client.signature(*key)
            self._health.report("triton", up=True)
        return signature

    async def _wait_for_signature(self, task: PartTask) -> ModelSignature:
        """Waits for a server that does not answer, as long as it takes."""
        waits = 0
        while True:
            try:
                return await self._signature(task)
            except RetriableError as error:
                self._health.report("triton", up=False, detail=str(error))
                waits += 1
                await asyncio.sleep(_unavailable_backoff_seconds(waits))

    def _fail(self, items: Sequence[tuple[PartTask, Prepared]], error: PoisonError) -> None:
        for task, _ in items:
            self._finish(task, error)

    def _count(self, outcome: str) -> None:
        metrics.INFER_CALLS.labels(self._route.name, outcome).inc()


def _unavailable_backoff_seconds(waits: int) -> float:
    return min(0.05 * 2.0 ** min(waits, 10), UNAVAILABLE_BACKOFF_SECONDS)


def _exhausted(error: RetriableError, attempts: int) -> PoisonError:
    return PoisonError(Stage.INFER, "RETRIES_EXHAUSTED", f"{attempts} attempts failed, the last one: {error}")


def _unexpected(stage: Stage, error: Exception) -> PoisonError:
    return PoisonError(stage, "UNEXPECTED", f"{type(error).__name__}: {error}"[:1000])
