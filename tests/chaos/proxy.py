"""A TCP proxy that cuts, refuses, delays, holds and throttles connections when told to.

Made here because no Python package carries one that is kept: Toxiproxy's are clients of a Go program.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import itertools
import math
import random
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from headrace.connectors.embedded.ports import LOOPBACK

BUFFER_BYTES = 4 * 1024 * 1024
"""Kept of one direction of one connection before the proxy stops reading from its sender (and a read of it more)."""

_BACKLOG = 256
_WRITE_BUFFER_BYTES = 256 * 1024
_THROTTLE_SLICE_SECONDS = 0.05
_MIN_SLICE_BYTES = 64
_CALL_SECONDS = 10.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER on with no time to linger: close sends RST and drops what is in the kernel's buffers."""
T = TypeVar("T")


class _End(enum.Enum):
    """How a sender's stream ended; it travels behind the bytes that were sent before."""

    CLOSED = "FIN"
    RESET = "RST"


@dataclass(frozen=True, slots=True)
class _Faults:
    """What is done to every byte; the default is nothing."""

    refused: bool = False
    delay_seconds: float = 0.0
    jitter_seconds: float = 0.0
    requests_held: bool = False
    replies_held: bool = False
    bytes_per_second: float = math.inf


class FaultProxy:
    """Accepts connections on ``port`` and carries them to ``target_port``, both on the loopback interface.

    It runs in a thread of its own until ``close``. Every method may be called from any thread and is in force when it
    returns; after ``close`` it raises RuntimeError. Faults of different kinds add up; ``heal`` ends them all.
    *Requests* are the bytes from the side that connected, *replies* those to it. A connection that waits, for whatever
    reason, holds up no other.

    Args:
        port: to listen on; 0 takes a free one.
        target_port: connected to once for each connection accepted. If nobody listens there the connection is reset.
        rng: draws the jitter, and which connections are cut.

    Raises:
        OSError: if ``port`` is taken.
    """

    def __init__(self, port: int, target_port: int, rng: random.Random | None = None) -> None:
        self._target_port = target_port
        self._rng = rng or random.Random()
        self._faults = _Faults()
        self._links: set[_Link] = set()
        self._numbers = itertools.count()
        self._listener = socket.create_server((LOOPBACK, port))
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"proxy {self.port}->{target_port}", daemon=True)
        self._thread.start()
        self._call(self._listen())

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._links)

    def cut(self, share: float = 1.0, rng: random.Random | None = None) -> int:
        """Reset this share of the open connections, rounded, on both sides; returns how many. Others can be made."""

        async def cut() -> int:
            links = sorted(self._links, key=lambda link: link.number)
            return await self._reset((rng or self._rng).sample(links, round(share * len(links))))

        return self._call(cut())

    def refuse(self, refused: bool = True) -> None:
        """Reset new connections as soon as they are made, or accept them again; open ones stay."""
        self._change(refused=refused)

    def delay(self, seconds: float, jitter: float = 0.0) -> None:
        """Deliver what comes ``seconds`` later, in both directions, give or take ``jitter`` seconds; order is kept."""
        self._change(delay_seconds=seconds, jitter_seconds=jitter)

    def hold(self, requests: bool = True, replies: bool = True) -> None:
        """Deliver nothing in these directions, and keep what comes: the connections stay open and look idle.

        Ends of connections are held too. What was given to the kernel before this call is on its way.
        """
        self._change(requests_held=requests, replies_held=replies)

    def throttle(self, bytes_per_second: float) -> None:
        """Deliver at most so much, to each connection and direction by itself. Raises ValueError unless positive."""
        if not bytes_per_second > 0:
            raise ValueError(f"{bytes_per_second} bytes per second: must be positive, or use hold")
        self._change(bytes_per_second=bytes_per_second)

    def heal(self, drop: bool = False) -> int:
        """End all faults; what was held is delivered at once.

        Args:
            drop: reset the connections that have held bytes (or ends) instead, on both sides.

        Returns:
            How many connections were reset.
        """

        async def heal() -> int:
            dropped = await self._reset([link for link in self._links if drop and link.holding])
            self._set(_Faults())
            return dropped

        return self._call(heal())

    def close(self) -> None:
        """Reset all connections, stop listening and end the thread. A second call does nothing."""
        if self._thread.is_alive():
            self._call(self._shut_down())
            self._thread.join(_CALL_SECONDS)

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- in the calling thread

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            work.close()
            raise RuntimeError(f"the proxy on port {self.port} is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_SECONDS)

    def _change(self, **changes: Any) -> None:
        async def change() -> None:
            self._set(replace(self._faults, **changes))

        self._call(change())

    # --- in the proxy's thread

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await self._loop.create_server(
            lambda: _Link(self, self._loop).client, sock=self._listener, backlog=_BACKLOG
        )

    def _set(self, faults: _Faults) -> None:
        self._faults = faults
        for link in list(self._links):
            link.requests.deliver()
            link.replies.deliver()

    async def _reset(self, links: list[_Link]) -> int:
        for link in links:
            link.reset()
        for link in links:
            await link.gone.wait()
        return len(links)

    async def _shut_down(self) -> None:
        self._loop.remove_reader(self._listener)
        self._set(_Faults(refused=True))
        await self._reset(list(self._links))
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)  # what has been accepted needs the server until it has a transport
        self._server.close()
        self._loop.call_soon(self._loop.stop)


class _Link:
    """A connection: the client's side, the target's, and a pipe each way."""

    def __init__(self, proxy: FaultProxy, loop: asyncio.AbstractEventLoop) -> None:
        self.number = next(proxy._numbers)
        self._proxy = proxy
        self._loop = loop
        self.client, self._target = _Side(self), _Side(self)
        self.requests = _Pipe(self, self.client, self._target, lambda: proxy._faults.requests_held)
        self.replies = _Pipe(self, self._target, self.client, lambda: proxy._faults.replies_held)
        self.client.sends, self.client.receives = self.requests, self.replies
        self._target.sends, self._target.receives = self.replies, self.requests
        self._connecting: asyncio.Task[None] | None = None
        self.gone = asyncio.Event()

    @property
    def holding(self) -> bool:
        return self.requests.holding or self.replies.holding

    def opened(self, side: _Side) -> None:
        if side is not self.client:
            return
        if self._proxy._faults.refused:
            self.reset()
            return
        self._proxy._links.add(self)
        side.pause_reading()  # until there is somebody to send it to
        self._connecting = self._loop.create_task(self._connect())
        self._connecting.add_done_callback(self._tried)  # no finally: a task that is cancelled at once does not begin

    async def _connect(self) -> None:
        try:
            await self._loop.create_connection(lambda: self._target, LOOPBACK, self._proxy._target_port)
        except OSError:
            self.client.reset()
        if self.client.lost:
            self._target.reset()
        self.client.resume_reading()

    def _tried(self, _: asyncio.Task[None]) -> None:
        self._connecting = None
        self.forget_if_closed()

    def finish(self) -> None:
        """Close both sides once both have ended and all they sent was delivered."""
        if self.requests.finished and self.replies.finished:
            for side in (self.client, self._target):
                if side.transport is not None:
                    side.transport.close()

    def reset(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        self.client.reset()
        self._target.reset()

    def forget_if_closed(self) -> None:
        if self.client.lost and self._connecting is None and (self._target.lost or self._target.transport is None):
            self.requests.discard()
            self.replies.discard()
            self._proxy._links.discard(self)
            self.gone.set()


class _Side(asyncio.Protocol):
    """One end of a connection: what it sends goes into a pipe, whose pace it follows."""

    sends: _Pipe
    receives: _Pipe

    def __init__(self, link: _Link) -> None:
        self._link = link
        self.transport: asyncio.Transport | None = None
        self.lost = False
        self.full = False
        """Whether more is written to it than it has read lately."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(_WRITE_BUFFER_BYTES)
        self._link.opened(self)

    def data_received(self, data: bytes) -> None:
        self.sends.take(data)

    def eof_received(self) -> bool:
        self.sends.take(_End.CLOSED)
        return True  # the other direction may go on

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self.sends.take(_End.CLOSED if error is None else _End.RESET)
        self.receives.discard()
        self._link.forget_if_closed()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self.receives.deliver()

    def pause_reading(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def end(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            with contextlib.suppress(OSError):  # reset by the other end, which the loop has not been told yet
                self.transport.write_eof()

    def reset(self) -> None:
        if self.transport is not None and not self.lost:
            with contextlib.suppress(OSError):  # the other end was quicker
                inner: socket.socket = self.transport.get_extra_info("socket")
                inner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.transport.abort()


class _Pipe:
    """One direction of a connection: chunks in order, each delivered when the faults allow it."""

    def __init__(self, link: _Link, source: _Side, sink: _Side, held: Callable[[], bool]) -> None:
        self._link = link
        self._source = source
        self._sink = sink
        self._held = held
        self._chunks: deque[tuple[bytes | _End, float, float]] = deque()
        """Each with the time it came and its share of the jitter, from -1 to 1."""
        self._bytes = 0
        self._next_at = 0.0
        """When the throttle lets the next slice through."""
        self._timer: asyncio.TimerHandle | None = None
        self.finished = False

    @property
    def holding(self) -> bool:
        return self._held() and bool(self._chunks)

    def take(self, chunk: bytes | _End) -> None:
        if self.finished or (self._chunks and self._chunks[-1][0] is _End.RESET):
            return
        self._chunks.append((chunk, self._link._loop.time(), self._link._proxy._rng.uniform(-1, 1)))
        if isinstance(chunk, bytes):
            self._bytes += len(chunk)
            if self._bytes >= BUFFER_BYTES:
                self._source.pause_reading()
        self.deliver()

    def deliver(self) -> None:
        """Hand on what is due, and come back for the rest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._chunks and not self._sink.full and not self._held():
            wait_seconds = self._due_at() - self._link._loop.time()
            if wait_seconds > 0:
                self._timer = self._link._loop.call_later(wait_seconds, self.deliver)
                return
            self._hand_on()

    def _due_at(self) -> float:
        faults = self._link._proxy._faults
        due_at = self._chunks[0][1] + faults.delay_seconds + self._chunks[0][2] * faults.jitter_seconds
        return due_at if faults.bytes_per_second == math.inf else max(due_at, self._next_at)

    def _hand_on(self) -> None:
        chunk, came_at, jitter = self._chunks.popleft()
        if chunk is _End.RESET:
            self._link.reset()
        elif isinstance(chunk, _End):
            self.finished = True
            self._sink.end()
            self._link.finish()
        else:
            rate = self._link._proxy._faults.bytes_per_second
            if rate < math.inf:
                size = max(_MIN_SLICE_BYTES, int(rate * _THROTTLE_SLICE_SECONDS))
                chunk, rest = chunk[:size], chunk[size:]
                if rest:
                    self._chunks.appendleft((rest, came_at, jitter))
                self._next_at = self._link._loop.time() + len(chunk) / rate
            before, self._bytes = self._bytes, self._bytes - len(chunk)
            self._sink.write(chunk)
            if self._bytes < BUFFER_BYTES <= before:
                self._source.resume_reading()

    def discard(self) -> None:
        """The sink is gone: drop what is left, and what comes."""
        self._chunks.clear()
        self._bytes = 0
        self.finished = True
        self._source.resume_reading()  # to hear of its end
        self._link.finish()
