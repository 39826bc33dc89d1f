"""Regions of shared memory: real ones, registered with a server that only notes it."""

from __future__ import annotations

import asyncio
import struct
import uuid
from collections.abc import Iterable

import numpy as np
import pytest

from headrace.connectors import shared_inputs
from headrace.connectors.shared_inputs import MAX_UNWANTED, RETRY_SECONDS, Placed, SharedInputs
from headrace.pipeline.ports import Array
from tests.unit.fakes import on_virtual_time, settle

ME = uuid.uuid4().hex
"""Unlike that of the tests which run in other processes meanwhile: what an owner left is removed."""


class Server:
    """Knows regions as Triton does."""

    def __init__(self, *names: str) -> None:
        self.sizes = dict.fromkeys(names, 0)
        self.error: Exception | None = None
        self.in_use: set[str] = set()
        self.latency_seconds = 0.0

    async def register(self, name: str, key: str, size_bytes: int) -> None:
        assert (shared_inputs.FOLDER / key[1:]).stat().st_size == size_bytes
        if self.error is not None:
            raise self.error
        assert name not in self.sizes
        self.sizes[name] = size_bytes

    async def unregister(self, name: str) -> None:
        if self.error is not None:
            raise self.error
        if name in self.in_use:
            raise RuntimeError("it is currently in use")
        self.sizes.pop(name, None)

    async def registered(self) -> Iterable[str]:
        if self.error is not None:
            raise self.error
        names = list(self.sizes)
        await asyncio.sleep(self.latency_seconds)
        return names


def floats(size_bytes: int) -> dict[str, Array]:
    return {"INPUT0": np.ones((1, size_bytes // 4), np.float32)}


async def place(shared: SharedInputs) -> Placed:
    placed = await shared.place(floats(100_000))
    assert placed is not None
    return placed


def files() -> list[str]:
    """Of regions that these tests make."""
    stems = (SharedInputs(Server(), 0, owner)._files for owner in (ME, f"{ME}-2"))
    return [each.name for stem in stems for each in shared_inputs.FOLDER.glob(f"{stem}*")]


@on_virtual_time
async def test_inputs_lie_one_after_the_other_as_on_the_wire() -> None:
    shared = SharedInputs(Server(), 0, ME)
    numbers = np.arange(6, dtype=np.int16).reshape(2, 3)
    words = np.array([[b"a"], [b""], [b"lots"]], np.object_)
    placed = await shared.place({"N": numbers.T, "W": words, "EMPTY": numbers[:0]})
    assert placed is not None
    assert placed.spans == {"N": (0, 12), "W": (12, 17), "EMPTY": (29, 0)}
    wanted = struct.pack("<6h", 0, 3, 1, 4, 2, 5) + struct.pack("<I1sIIs3s", 1, b"a", 0, 4, b"l", b"ots")
    assert bytes(placed.region._memory[:29]) == wanted
    shared.give_back(placed)
    await shared.close()


@on_virtual_time
async def test_small_inputs_go_another_way() -> None:
    shared = SharedInputs(server := Server(), 1000, ME)
    assert await shared.place(floats(996)) is None
    placed = await shared.place(floats(1000))
    assert placed is not None
    assert list(server.sizes.values()) == [shared_inputs.SMALLEST_BYTES]
    shared.give_back(placed)
    await shared.close()
    assert not server.sizes


@on_virtual_time
async def test_there_are_no_more_regions_than_calls_at_a_time() -> None:
    shared = SharedInputs(server := Server(), 0, ME)
    for size_bytes in (100_000, 1_000_000, 50_000, 3_000_000, 3_000_000):
        placed = [await shared.place(floats(size_bytes)) for _ in range(2)]
        for each in placed:
            assert each is not None
            shared.give_back(each)
        await settle()
        assert len(server.sizes) == 2
    assert set(server.sizes.values()) == {1 << 22}
    await shared.close()


@on_virtual_time
async def test_smallest_region_that_is_large_enough_is_taken() -> None:
    shared = SharedInputs(Server(), 0, ME)
    large, small = await shared.place(floats(1_000_000)), await shared.place(floats(100_000))
    assert large is not None
    assert small is not None
    shared.give_back(small)
    shared.give_back(large)
    again = await shared.place(floats(90_000))
    assert again is not None
    assert again.region is small.region
    shared.give_back(again)
    await shared.close()


@on_virtual_time
async def test_what_an_earlier_process_left_is_removed_once_and_nothing_else() -> None:
    shared = SharedInputs(server := Server(f"headrace/{ME}/1", f"headrace/{ME}-2/1", "theirs"), 0, ME)
    server.latency_seconds = 1.0
    placed = await asyncio.gather(shared.place(floats(100_000)), shared.place(floats(100_000)))
    assert f"headrace/{ME}/1" not in server.sizes
    assert len(server.sizes) == 4
    for each in placed:
        assert each is not None
        assert each.region.name in server.sizes
        shared.give_back(each)
    await shared.close()
    assert [*server.sizes] == [f"headrace/{ME}-2/1", "theirs"]


@on_virtual_time
async def test_region_of_a_call_that_was_given_up_is_never_used_again() -> None:
    shared = SharedInputs(server := Server(), 0, ME)
    placed = await place(shared)
    server.in_use.add(placed.region.name)
    shared.drop(placed)
    await settle()
    again = await place(shared)
    assert again.region is not placed.region
    assert len(server.sizes) == 2, "the server does not let go of what it reads"
    shared.give_back(again)
    server.in_use.clear()
    await shared.close()
    assert [*server.sizes] == [placed.region.name]


@on_virtual_time
async def test_what_the_server_would_not_let_go_of_is_asked_for_again() -> None:
    shared = SharedInputs(server := Server(), 0, ME)
    given_up = [await place(shared) for _ in range(MAX_UNWANTED + 1)]
    server.in_use |= server.sizes.keys()
    for each in given_up:
        shared.drop(each)
    await settle()
    assert await shared.place(floats(100_000)) is None, "more and more"
    server.in_use.clear()
    await asyncio.sleep(RETRY_SECONDS + 1)
    shared.give_back(await place(shared))
    assert len(server.sizes) == 1
    await shared.close()


@on_virtual_time
async def test_region_in_use_of_an_earlier_process_holds_up_nothing() -> None:
    shared = SharedInputs(server := Server(f"headrace/{ME}/1"), 0, ME)
    server.in_use.add(f"headrace/{ME}/1")
    shared.give_back(await place(shared))
    assert len(server.sizes) == 2
    await shared.close()


@pytest.mark.parametrize("error", [ConnectionError("down"), TimeoutError(), RuntimeError("no such file")])
@on_virtual_time
async def test_without_the_server_inputs_go_another_way_for_a_while(error: Exception) -> None:
    shared = SharedInputs(server := Server(), 0, ME)
    server.error = error
    assert await shared.place(floats(100_000)) is None
    server.error = None
    assert await shared.place(floats(100_000)) is None
    assert not files()
    await asyncio.sleep(RETRY_SECONDS + 1)
    placed = await place(shared)
    server.error = error
    shared.give_back(placed)
    await shared.close()


@on_virtual_time
async def test_that_they_go_another_way_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    shared = SharedInputs(server := Server(), 0, ME)
    server.error = RuntimeError("no such file")
    for _ in range(3):
        assert await shared.place(floats(100_000)) is None
        await asyncio.sleep(RETRY_SECONDS + 1)
    assert len(caplog.records) == 1
    server.error = None
    shared.give_back(await place(shared))
    await shared.close()


@on_virtual_time
async def test_without_room_inputs_go_another_way() -> None:
    shared = SharedInputs(server := Server(), 0, ME)
    assert await shared.place({"INPUT0": np.broadcast_to(np.float32(1), (1 << 48,))}) is None
    assert not files()
    assert not server.sizes
    await shared.close()


@on_virtual_time
async def test_region_whose_registration_was_cut_off_is_unregistered() -> None:
    shared = SharedInputs(server := Server(), 0, ME)
    register = server.register

    async def slow(name: str, key: str, size_bytes: int) -> None:
        await register(name, key, size_bytes)
        await asyncio.sleep(60)

    server.register = slow  # type: ignore[method-assign]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await shared.place(floats(100_000))
    await settle()
    assert not server.sizes
    assert not files()
    await shared.close()


@on_virtual_time
async def test_files_that_a_killed_process_left_are_removed() -> None:
    shared, other = SharedInputs(Server(), 0, ME), SharedInputs(Server(), 0, f"{ME}-2")
    left = [shared_inputs.FOLDER / f"{each._files}left" for each in (shared, other)]
    for each in left:
        each.touch()
    try:
        shared.give_back(await place(shared))
        assert files() == [left[1].name]
    finally:
        left[1].unlink()
    await shared.close()


@on_virtual_time
async def test_what_cannot_be_written_leaves_its_region_free() -> None:
    shared = SharedInputs(server := Server(), 0, ME)
    for _ in range(3):
        with pytest.raises(TypeError):
            await shared.place({"W": np.array([["text"]], np.object_)})
    assert len(server.sizes) == 1
    await shared.close()
