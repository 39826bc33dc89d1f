"""The worker's decoding processes. Implements ``ports.FrameSampler``."""

from __future__ import annotations

import asyncio
import signal

from headrace.connectors.video.decoder import Decoder, DecoderDiedError, DecoderTimeoutError
from headrace.connectors.video.messages import Refusal, too_slow
from headrace.pipeline.errors import PoisonError, UnavailableError
from headrace.pipeline.ports import Frames, SamplingPlan
from headrace.pipeline.records import Stage

VIDEOS_A_PROCESS = 200
"""Then it makes way for a fresh one: what a library leaks, or a video has changed in it, goes with it."""
TRIES = 2
"""A process may be killed for want of memory that others have taken: then the video is not at fault."""


class ProcessSampler:
    """A few child processes, started as they are needed, ended by `close` or with this process.

    Args:
        processes: most at a time.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._free = asyncio.Semaphore(processes)
        self._idle: list[Decoder] = []
        self._at_work: set[Decoder] = set()
        self._closed = False

    @property
    def processes(self) -> int:
        return self._processes

    @property
    def pids(self) -> frozenset[int]:
        """Of the processes that there are now."""
        return frozenset(decoder.pid for decoder in (*self._idle, *self._at_work))

    async def sample(self, video: bytes, plan: SamplingPlan) -> Frames:
        """See ``ports.FrameSampler``."""
        async with self._free:
            for attempt in range(1, TRIES + 1):
                try:
                    answer = await self._sample(video, plan)
                except DecoderTimeoutError:
                    raise _poison("VIDEO_TOO_SLOW", too_slow(plan.timeout_seconds)) from None
                except DecoderDiedError as error:
                    if error.signal == signal.SIGXCPU:
                        raise _poison("VIDEO_TOO_SLOW", too_slow(plan.timeout_seconds)) from None
                    if attempt == TRIES:
                        message = f"the decoder did not survive it, {TRIES} times: {error}"
                        raise _poison("BAD_VIDEO", message) from None
                    continue
                if isinstance(answer, Refusal):
                    raise _poison(answer.code, answer.message)
                return answer
        raise AssertionError("the last try returns or raises")

    async def _sample(self, video: bytes, plan: SamplingPlan) -> Frames | Refusal:
        decoder = await self._take()
        self._at_work.add(decoder)
        whole = False
        try:
            answer = await decoder.sample(video, plan)
            whole = decoder.videos < VIDEOS_A_PROCESS
            return answer
        finally:
            self._at_work.discard(decoder)
            if whole and not self._closed:
                self._idle.append(decoder)
            else:
                await decoder.end()

    async def _take(self) -> Decoder:
        """The process that was at work last, so that no more are started than are needed."""
        while self._idle:
            decoder = self._idle.pop()
            if decoder.alive:
                return decoder
            await decoder.end()
        if self._closed:
            raise UnavailableError("the worker is ending")
        return await Decoder.start()

    async def close(self) -> None:
        """See ``ports.FrameSampler``."""
        self._closed = True
        for decoder in self._at_work:
            decoder.kill()
        while self._idle:
            await self._idle.pop().end()


def _poison(code: str, message: str) -> PoisonError:
    return PoisonError(Stage.PREPARE, code, message)
