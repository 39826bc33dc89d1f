"""Frames of videos, without any video."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from headrace.pipeline.ports import Frames, SamplingPlan


class FakeSampler:
    """Takes a frame a second of a video that is ``frames`` seconds long, so many videos at a time.

    The frames of the video ``ab`` are ``ab-0``, ``ab-1`` … ``script`` takes a video and gives the error to answer
    with, or None.
    """

    def __init__(self, processes: int = 2) -> None:
        self.processes = processes
        self.frames = 3
        self.latency_seconds = 0.5
        self.script: Callable[[bytes], Exception | None] = lambda video: None
        self.videos: list[bytes] = []
        self.plans: list[SamplingPlan] = []
        self.cancelled: list[bytes] = []
        self.in_flight = self.most_in_flight = 0
        self.closed = False

    async def sample(self, video: bytes, plan: SamplingPlan) -> Frames:
        self.videos.append(video)
        self.plans.append(plan)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency_seconds)
        except asyncio.CancelledError:
            self.cancelled.append(video)
            raise
        finally:
            self.in_flight -= 1
        if error := self.script(video):
            raise error
        times = range(min(self.frames, plan.max_frames))
        return Frames(tuple(video + b"-%d" % time for time in times), tuple(map(float, times)), float(self.frames))

    async def close(self) -> None:
        self.closed = True
