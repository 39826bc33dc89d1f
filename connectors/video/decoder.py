"""One decoding process, as the worker sees it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
from typing import Self

from headrace.connectors.video import messages
from headrace.connectors.video.messages import BadMessageError, Head, Refusal
from headrace.pipeline.errors import UnavailableError
from headrace.pipeline.ports import Frames, SamplingPlan

START_SECONDS = 20.0
"""To import the libraries, on a busy machine."""
SPARE_SECONDS = 2.0
"""On top of a plan's time: the process looks at the clock itself, at every frame, and says so."""
READ_BYTES = 1024 * 1024
WRITE_BYTES = 4 * 1024 * 1024
"""At a time: a millisecond or two of the event loop."""
GONE_SECONDS = 5.0
"""From the end of its socket to the end of a process: its memory is given back meanwhile."""
_KEPT = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "LANG", "LC_ALL", "TMPDIR")
_QUIET = {"OPENCV_LOG_LEVEL": "SILENT", "OPENCV_FFMPEG_LOGLEVEL": "-8"}
_FRUGAL = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}  # address space is bounded


class DecoderDiedError(Exception):
    """The process ended, or said what no decoding process says, and was ended.

    Attributes:
        signal: that ended it, None if it was none of its own.
    """

    def __init__(self, message: str, ended_by: int | None = None) -> None:
        super().__init__(message)
        self.signal = ended_by


class DecoderTimeoutError(Exception):
    """The process took too long and was ended."""


class Decoder:
    """A child process that samples videos one by one. Made by `start`; ended by `end`, which must be awaited."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
        self._process = process
        self._connection = connection
        self.videos = 0
        """How many it has been given."""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._connection.fileno() >= 0 and self._process.poll() is None

    @classmethod
    async def start(cls) -> Self:
        """A process that waits for its first video.

        Raises:
            UnavailableError: it could not be started.
        """
        decoder = cls(*_spawned())
        try:
            async with asyncio.timeout(START_SECONDS):
                answer = await decoder._answer(1)
        except (DecoderDiedError, TimeoutError) as error:
            await decoder.end()
            reason = "it took too long" if isinstance(error, TimeoutError) else str(error)
            raise UnavailableError(f"the process to decode videos did not start: {reason}") from None
        except BaseException:
            await decoder.end()
            raise
        if not isinstance(answer, Refusal) or answer.code != messages.READY:
            await decoder.end()
            raise UnavailableError(f"the process to decode videos did not start: {answer}")
        return decoder

    async def sample(self, video: bytes, plan: SamplingPlan) -> Frames | Refusal:
        """The frames of an MP4, or why there are none. If it is cancelled, or raises, the process must be ended.

        Raises:
            DecoderDiedError: the process did not survive it.
            DecoderTimeoutError: it did not answer in time.
            UnavailableError: the video cannot be handed over.
        """
        self.videos += 1
        file = await _sealed(video)
        try:
            socket.send_fds(self._connection, [messages.request(plan)], [file])
        except OSError as error:
            raise await self._died(f"{error}") from None
        finally:
            os.close(file)
        try:
            async with asyncio.timeout(plan.timeout_seconds + SPARE_SECONDS):
                answer = await self._answer(plan.max_frames)
                if isinstance(answer, Refusal):
                    return answer
                images = [await self._exactly(size) for size in answer.sizes]
        except TimeoutError:
            raise DecoderTimeoutError from None
        return Frames(tuple(images), answer.seconds, answer.end_seconds)

    def kill(self) -> None:
        """Whoever waits for its answer gets a `DecoderDiedError`."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def end(self) -> None:
        """Kill it, if it lives, and wait until it is gone."""
        self.kill()
        self._connection.close()
        await asyncio.to_thread(self._process.wait)

    async def _answer(self, max_frames: int) -> Head | Refusal:
        try:
            length = messages.length_of(await self._exactly(messages.LENGTH_BYTES))
            return messages.answer_of(await self._exactly(length), max_frames)
        except BadMessageError as error:
            raise DecoderDiedError(f"it said what it should not: {error}") from None

    async def _exactly(self, size: int) -> bytes:
        loop = asyncio.get_running_loop()
        data = bytearray()
        while len(data) < size:
            try:
                piece = await loop.sock_recv(self._connection, min(size - len(data), READ_BYTES))
            except OSError as error:
                raise await self._died(f"{error}") from None
            if not piece:
                raise await self._died("it ended")
            data += piece
        return bytes(data)

    async def _died(self, what: str) -> DecoderDiedError:
        """The socket is closed: say what ended the process, which is gone a moment later."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, GONE_SECONDS)
        code = self._process.returncode
        if code is None or code >= 0:
            return DecoderDiedError(what if code is None else f"it ended with exit code {code}")
        return DecoderDiedError(f"it was ended by {signal.Signals(-code).name}", -code)


def _spawned() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The process, and our end of its socket. On the event loop's thread: with the one that starts it, it ends.

    Raises:
        UnavailableError: the system refuses.
    """
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:
        raise UnavailableError(f"no process to decode videos can be started: {error}") from error
    ours.setblocking(False)
    command = [sys.executable, "-P", "-m", "headrace.connectors.video.child", str(theirs.fileno()), str(os.getpid())]
    with theirs:
        try:
            process = subprocess.Popen(
                command,
                env={name: os.environ[name] for name in _KEPT if name in os.environ} | _QUIET | _FRUGAL,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # SIGINT is the worker's to answer
            )
        except OSError as error:
            ours.close()
            raise UnavailableError(f"no process to decode videos can be started: {error}") from error
    return process, ours


async def _sealed(video: bytes) -> int:
    """The video as a file in memory, without a name, that nobody can change.

    Raises:
        UnavailableError: the system refuses: it is not the video's fault.
    """
    try:
        file = os.memfd_create("video", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        raise UnavailableError(f"no file in memory can be opened for a video: {error}") from error
    try:
        left = memoryview(video)
        while left:
            left = left[os.write(file, left[:WRITE_BYTES]) :]
            await asyncio.sleep(0)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    except BaseException:
        os.close(file)
        raise
    return file
