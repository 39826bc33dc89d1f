"""Large inputs of infer calls, in memory that this process and a Triton on the same host share.

Over gRPC each byte is copied several times on its way; here it is written once, and read where it lies. Triton's
extension for system shared memory: a region is registered under a name, and a call says name, offset and size.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mmap
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from headrace.pipeline.ports import Array

log = logging.getLogger(__name__)

FOLDER = Path("/dev/shm")
LENGTH_BYTES = 4
"""Before each element of a ``BYTES`` tensor, little-endian."""
SMALLEST_BYTES = 64 * 1024
ASIDE_SECONDS = 300.0
"""A call that was given up may still be read by the model: so long its region is left alone."""


class RefusedError(Exception):
    """The server cannot open a region: it is not on this host, or is not allowed to."""


class NoRoomError(Exception):
    """There is no shared memory to be had."""


class Server(Protocol):
    """What a model server knows of regions."""

    async def register(self, name: str, key: str, size_bytes: int) -> None:
        """Raises RefusedError."""

    async def unregister(self, name: str) -> None: ...

    async def registered(self) -> Iterable[str]:
        """The names of all that it knows, whoever registered them."""


class Span(NamedTuple):
    """Where an input lies in its region."""

    offset: int
    size_bytes: int


class Region:
    """Memory of a fixed size, whose file is gone as soon as the server has it open: nothing is left by a crash."""

    def __init__(self, name: str, size_bytes: int) -> None:
        """Raises NoRoomError."""
        self.name = name
        self.size_bytes = size_bytes
        self.key = f"/headrace-inputs-{uuid.uuid4().hex}"
        self._path = FOLDER / self.key[1:]
        try:
            file = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o660)
            try:
                os.posix_fallocate(file, 0, size_bytes)  # a write to a page that is not to be had would end the process
                self._memory = mmap.mmap(file, size_bytes)
            finally:
                os.close(file)
        except OSError as error:
            self.unlink()
            raise NoRoomError(str(error)) from error

    def unlink(self) -> None:
        self._path.unlink(missing_ok=True)

    def write(self, inputs: Mapping[str, Array]) -> dict[str, Span]:
        """One after the other, each as Triton's wire format has it."""
        spans, end = {}, 0
        with memoryview(self._memory) as memory:
            for name, array in inputs.items():
                begin = end
                for piece in _pieces(array):
                    memory[end : end + len(piece)] = piece
                    end += len(piece)
                spans[name] = Span(begin, end - begin)
        return spans

    def close(self) -> None:
        self._memory.close()


@dataclass(frozen=True, slots=True)
class Placed:
    """Inputs of one call, by name."""

    region: Region
    spans: Mapping[str, Span]


class SharedInputs:
    """Regions, each for one call at a time. There are never more than calls in flight at once, and those set aside.

    Args:
        server: that the regions are registered with.
        from_bytes: calls of smaller inputs go without.
        owner: part of the regions' names; what another process of this name left registered is removed.
    """

    def __init__(self, server: Server, from_bytes: int, owner: str) -> None:
        self._server = server
        self._from_bytes = from_bytes
        self._prefix = f"headrace/{owner}/"
        self._sweeping = asyncio.Lock()
        self._idle: list[Region] = []
        self._aside: dict[Region, asyncio.TimerHandle] = {}
        self._unregistering: set[asyncio.Task[None]] = set()
        self._swept = False
        self._refused = False
        self._full = False

    async def place(self, inputs: Mapping[str, Array]) -> Placed | None:
        """A call's inputs in a region, to be given back, or set aside, once. None: they are to go another way.

        Raises what the server raises, unless it refuses.
        """
        size_bytes = sum(map(wire_bytes, inputs.values()))
        if self._refused or size_bytes < self._from_bytes:
            return None
        try:
            region = self._take(size_bytes) or await self._make(size_bytes)
        except RefusedError as error:
            log.warning("inputs go over gRPC: the server cannot open shared memory of this host: %s", error)
            self._refused = True
            return None
        except NoRoomError as error:
            if not self._full:
                log.warning("large inputs go over gRPC while there is no shared memory to be had: %s", error)
            self._full = True
            return None
        self._full = False
        try:
            return Placed(region, region.write(inputs))
        except BaseException:
            self._idle.append(region)
            raise

    def give_back(self, placed: Placed) -> None:
        """The call was answered."""
        self._idle.append(placed.region)

    def set_aside(self, placed: Placed) -> None:
        """The call was given up, and the model may read on."""
        end = asyncio.get_running_loop().call_later(ASIDE_SECONDS, self._end_aside, placed.region)
        self._aside[placed.region] = end

    def lose(self, placed: Placed) -> None:
        """The server does not know the region: it has been started again since."""
        placed.region.close()

    async def close(self) -> None:
        """No call is under way any more."""
        for timer in self._aside.values():
            timer.cancel()
        for region in (*self._idle, *self._aside):
            self._drop(region)
        await asyncio.gather(*self._unregistering)

    def _take(self, size_bytes: int) -> Region | None:
        """The smallest that is idle and large enough."""
        found = min(
            (each for each in self._idle if each.size_bytes >= size_bytes),
            key=lambda each: each.size_bytes,
            default=None,
        )
        if found is not None:
            self._idle.remove(found)
        elif self._idle:
            self._drop(self._idle.pop())  # one that is large enough takes its place
        return found

    async def _make(self, size_bytes: int) -> Region:
        async with self._sweeping:
            if not self._swept:
                for name in await self._server.registered():
                    if name.startswith(self._prefix):
                        await self._server.unregister(name)
                self._swept = True
        region = Region(self._prefix + uuid.uuid4().hex, _rounded(size_bytes))
        try:
            await self._server.register(region.name, region.key, region.size_bytes)
        except BaseException:
            region.close()
            raise
        finally:
            region.unlink()
        return region

    def _end_aside(self, region: Region) -> None:
        del self._aside[region]
        self._drop(region)

    def _drop(self, region: Region) -> None:
        """Nobody reads it."""
        region.close()
        task = asyncio.create_task(self._unregister(region.name))
        self._unregistering.add(task)
        task.add_done_callback(self._unregistering.discard)

    async def _unregister(self, name: str) -> None:
        with contextlib.suppress(Exception):  # a server that is down has forgotten it anyhow
            await self._server.unregister(name)


def wire_bytes(array: Array) -> int:
    """As Triton's wire format has it."""
    if not array.dtype.hasobject:
        return array.nbytes
    return sum(LENGTH_BYTES + len(element) for element in array.flat)


def _pieces(array: Array) -> Iterable[bytes | memoryview]:
    if not array.dtype.hasobject:
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        return
    for element in array.flat:
        yield len(element).to_bytes(LENGTH_BYTES, "little")
        yield element


def _rounded(size_bytes: int) -> int:
    """Up, to a power of two: calls of much the same size have regions of the same."""
    return max(SMALLEST_BYTES, 1 << (size_bytes - 1).bit_length())
