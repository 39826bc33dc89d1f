"""Videos of one route on their way to frames: beside everything else that the route does, and bounded.

They are sampled in the order in which they came, a few at a time, while the route's other parts go their way. Order of
results is not at stake: the ledger sees to it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from headrace.pipeline import metrics
from headrace.pipeline.admission import unavailable_backoff_seconds
from headrace.pipeline.codecs.row import poison
from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.errors import FatalError, PoisonError, UnavailableError
from headrace.pipeline.flow import Calls
from headrace.pipeline.health import Health
from headrace.pipeline.inference import Prepared, max_rows, plan_of, with_frames
from headrace.pipeline.journey import PartTask, wanted
from headrace.pipeline.limits import MAX_FRAME_BYTES
from headrace.pipeline.ports import Clock, Frames, FrameSampler, ModelSignature

DEPENDENCY = "video decoder"
WANTED_SECONDS = 0.25
"""How often a sampling in progress is asked whether its record is still wanted: a few times a second are prompt."""


class Video(NamedTuple):
    """A video that was prepared, and the signature that it was prepared for."""

    task: PartTask
    prepared: Prepared
    signature: ModelSignature


class Samplings:
    """One route's videos.

    Args:
        sampled: takes each video with its frames in place; until `release` is called for it, its frames count.
        failed: takes each that cannot be sampled, with the reason.
    """

    def __init__(
        self,
        route: RouteSettings,
        sampler: FrameSampler,
        flow: Calls,
        health: Health,
        clock: Clock,
        sampled: Callable[[Video], None],
        failed: Callable[[PartTask, Exception], None],
    ) -> None:
        self._route = route
        self._sampler = sampler
        self._flow = flow
        self._health = health
        self._clock = clock
        self._sampled = sampled
        self._failed = failed
        self._waiting: deque[Video] = deque()
        self._at_work: set[asyncio.Task[None]] = set()
        self.frame_bytes = 0
        """Of the videos that were sampled and not yet released."""

    def add(self, video: Video) -> None:
        """Queue a video; `start` begins with it when its turn has come."""
        self._waiting.append(video)

    def start(self, done: Callable[[], None]) -> None:
        """Begin with as many videos as may be sampled at a time; raises what went wrong with an earlier one.

        Args:
            done: called when one has ended: then there may be room for the next.
        """
        for task in [task for task in self._at_work if task.done()]:
            self._at_work.discard(task)
            task.result()
        while self._waiting and len(self._at_work) < self._sampler.processes and self.frame_bytes < MAX_FRAME_BYTES:
            task = asyncio.create_task(self._sample(self._waiting.popleft()), name=f"sample {self._route.name}")
            task.add_done_callback(lambda _: done())
            self._at_work.add(task)

    def release(self, prepared: Prepared) -> None:
        """Frames of a video are no longer needed."""
        self.frame_bytes -= prepared.weight_bytes

    async def stop(self) -> None:
        """End what is being sampled."""
        for task in self._at_work:
            task.cancel()
        await asyncio.gather(*self._at_work, return_exceptions=True)

    async def _sample(self, video: Video) -> None:
        began = self._clock.monotonic()
        try:
            frames = await self._frames(video)
        except FatalError:
            raise
        except Exception as error:  # noqa: BLE001 - becomes the part's outcome
            self._failed(video.task, error)
            return
        if frames is None:
            return  # its partition is gone, and the record with it
        metrics.VIDEO_SECONDS.labels(self._route.name).observe(self._clock.monotonic() - began)
        metrics.VIDEO_FRAMES.labels(self._route.name).inc(len(frames.images))
        prepared = with_frames(video.prepared, frames)
        self.frame_bytes += prepared.weight_bytes
        self._sampled(video._replace(prepared=prepared))

    async def _frames(self, video: Video) -> Frames | None:
        """A video's frames; None if its record is not wanted any more.

        Raises:
            PoisonError: it cannot be sampled, or its deadline has passed.
        """
        waits = 0
        while self._wanted(video):
            try:
                frames = await self._while_wanted(video)
            except UnavailableError as error:
                waits += 1
                self._health.report(DEPENDENCY, up=False, detail=str(error))
                await asyncio.sleep(unavailable_backoff_seconds(waits))
            else:
                if frames is not None:
                    self._health.report(DEPENDENCY, up=True)
                return frames
        return None

    async def _while_wanted(self, video: Video) -> Frames | None:
        content = video.task.part.content
        assert isinstance(content, bytes)
        most = min(self._route.batch.max_records, max_rows(video.signature))
        sampling = asyncio.create_task(self._sampler.sample(content, plan_of(self._route.video, most)))
        try:
            while not (await asyncio.wait([sampling], timeout=WANTED_SECONDS))[0]:
                if not self._wanted(video):
                    return None
        finally:
            if not sampling.done():
                sampling.cancel()
                await asyncio.wait([sampling])
        try:
            return sampling.result()
        except PoisonError as error:
            raise poison(video.task.part, error.code, error.message) from None

    def _wanted(self, video: Video) -> bool:
        return wanted(video.task, self._flow, self._clock.epoch_ms())
