"""Large inputs of infer calls, in memory that this process and a Triton on the same host share.

Over gRPC each byte is copied several times on its way; here it is written once, and read where it lies. Triton's
extension for system shared memory: a region is registered under a name, and a call says name, offset and size.
"""

from __future__ import annotations

import asyncio
import hashlib
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
MODE = 0o660
"""The server may be another user of the same group."""
RETRY_SECONDS = 60.0
"""After a region could not be made, or was not taken."""
MAX_UNWANTED = 16
"""So many regions the server may have that are not used any more; then no more are made until it lets go of some."""


class RegionServer(Protocol):
    """What a model server knows of regions."""

    async def register(self, name: str, key: str, size_bytes: int) -> None:
        """Raises what there is to raise, this and the others."""

    async def unregister(self, name: str) -> None:
        """Raises also if a call still uses it."""

    async def registered(self) -> Iterable[str]:
        """The names of all that it knows, whoever registered them."""


class Span(NamedTuple):
    """Where an input lies in its region."""

    offset: int
    size_bytes: int


class Region:
    """Memory of a fixed size, in a file that is unlinked as soon as the server has it open."""

    def __init__(self, name: str, path: Path, size_bytes: int) -> None:
        """Raises OSError if there is no room."""
        self.name = name
        self.path = path
        self.size_bytes = size_bytes
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, MODE)
        try:
            os.fchmod(file, MODE)  # whatever the umask
            os.posix_fallocate(file, 0, size_bytes)  # a write to a page that is not to be had would end the process
            self._memory = mmap.mmap(file, size_bytes)
        except BaseException:
            path.unlink()
            raise
        finally:
            os.close(file)

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
    """Regions, each for one call at a time; there are never more than calls in flight at once.

    Args:
        server: that the regions are registered with.
        from_bytes: calls of smaller inputs go without.
        owner: unlike all others; what another process of this name left is removed.
    """

    def __init__(self, server: RegionServer, from_bytes: int, owner: str) -> None:
        self._server = server
        self._from_bytes = from_bytes
        self._prefix = f"headrace/{owner}/"
        self._files = f"headrace-inputs-{hashlib.blake2s(owner.encode(), digest_size=8).hexdigest()}-"
        self._idle: list[Region] = []
        self._unwanted: set[str] = set()
        """Names that the server may still have."""
        self._unregistering: set[asyncio.Task[None]] = set()
        self._making = asyncio.Lock()
        self._swept = False
        self._told = False
        self._not_before = 0.0

    async def place(self, inputs: Mapping[str, Array]) -> Placed | None:
        """A call's inputs in a region, to be given back or dropped, once. None: they are to go over gRPC."""
        if self._waits or (size_bytes := sum(map(wire_bytes, inputs.values()))) < self._from_bytes:
            return None
        region = self._take(size_bytes) or await self._made(size_bytes)
        if region is None:
            return None
        try:
            return Placed(region, region.write(inputs))
        except BaseException:
            self._idle.append(region)
            raise

    def give_back(self, placed: Placed) -> None:
        """The call was answered."""
        self._idle.append(placed.region)

    def drop(self, placed: Placed) -> None:
        """The call was given up, and the model may read on; or the server does not know the region."""
        self._drop(placed.region)

    async def close(self) -> None:
        """No call is under way any more."""
        while self._idle:
            self._drop(self._idle.pop())
        await asyncio.gather(*self._unregistering)

    @property
    def _waits(self) -> bool:
        return asyncio.get_running_loop().time() < self._not_before

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
            self._drop(self._idle.pop(0))  # one that is large enough takes its place
        return found

    async def _made(self, size_bytes: int) -> Region | None:
        """A new one. None if that cannot be had: whatever the reason, gRPC is there, and has its own errors."""
        async with self._making:
            if self._waits:
                return None
            try:
                await self._sweep()
                region = await self._make(size_bytes)
            except Exception as error:  # noqa: BLE001 - as above
                self._not_before = asyncio.get_running_loop().time() + RETRY_SECONDS
                if not self._told:
                    log.warning("inputs go over gRPC, as memory cannot be shared with the server for now: %s", error)
                self._told = True
                return None
        self._told = False
        return region

    async def _sweep(self) -> None:
        """Remove what an earlier process has left, the first time; and what the server would not let go of."""
        if not self._swept:
            remove_files(self._files)
            self._unwanted |= {name for name in await self._server.registered() if name.startswith(self._prefix)}
            self._swept = True
        for name in [*self._unwanted]:
            await self._unregister(name)
        if len(self._unwanted) > MAX_UNWANTED:
            raise RuntimeError(f"it still uses {len(self._unwanted)} regions of calls that were given up")

    async def _make(self, size_bytes: int) -> Region:
        number = uuid.uuid4().hex
        region = Region(self._prefix + number, FOLDER / f"{self._files}{number}", _rounded(size_bytes))
        try:
            await self._server.register(region.name, f"/{region.path.name}", region.size_bytes)
        except BaseException:
            self._drop(region)
            raise
        finally:
            region.path.unlink()
        return region

    def _drop(self, region: Region) -> None:
        region.close()
        self._unwanted.add(region.name)
        task = asyncio.create_task(self._unregister(region.name))
        self._unregistering.add(task)
        task.add_done_callback(self._unregistering.discard)

    async def _unregister(self, name: str) -> None:
        try:
            await self._server.unregister(name)
        except Exception as error:  # noqa: BLE001 - in use, or down: tried again when the next is made
            log.debug("region %s: %s", name, error)
        else:
            self._unwanted.discard(name)


def remove_files(prefix: str) -> None:
    """Of a process that was killed before the server had opened them."""
    for each in FOLDER.glob(f"{prefix}*"):
        each.unlink(missing_ok=True)


def wire_bytes(array: Array) -> int:
    """As Triton's wire format has it."""
    if _is_bytes(array):
        return sum(LENGTH_BYTES + len(element) for element in array.flat)
    return array.nbytes


def _pieces(array: Array) -> Iterable[bytes | memoryview]:
    if not _is_bytes(array):
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        return
    for element in array.flat:
        yield len(element).to_bytes(LENGTH_BYTES, "little")
        yield element


def _is_bytes(array: Array) -> bool:
    return array.dtype.kind in "OS"


def _rounded(size_bytes: int) -> int:
    """Up, to a power of two: calls of much the same size have regions of the same."""
    return max(SMALLEST_BYTES, 1 << (size_bytes - 1).bit_length())
