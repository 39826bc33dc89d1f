"""Backpressure of the producer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from headrace.sdk.room import Room

WAIT_SECONDS = 10.0
SOON_SECONDS = 0.05


@pytest.fixture
def room() -> Room:
    return Room(2, 100)


def in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def assert_empty(room: Room) -> None:
    """What is larger than the room comes in when nothing is there."""
    assert room.enter(10_000, 0)
    room.leave(10_000)


def test_room_is_bounded_by_records(room: Room) -> None:
    assert room.enter(1, WAIT_SECONDS)
    assert room.enter(1, WAIT_SECONDS)
    assert not room.enter(1, SOON_SECONDS)
    room.leave(1)
    assert room.enter(1, WAIT_SECONDS)


def test_room_is_bounded_by_bytes(room: Room) -> None:
    assert room.enter(60, WAIT_SECONDS)
    assert not room.enter(41, SOON_SECONDS)
    assert room.enter(40, WAIT_SECONDS)


def test_larger_record_than_the_room_comes_in_alone(room: Room) -> None:
    assert room.enter(1, WAIT_SECONDS)
    assert not room.enter(1000, SOON_SECONDS)
    room.leave(1)
    assert room.enter(1000, WAIT_SECONDS)
    assert not room.enter(1, SOON_SECONDS)


def test_who_gives_up_leaves_no_trace(room: Room) -> None:
    assert room.enter(100, WAIT_SECONDS)
    for _ in range(5):
        assert not room.enter(100, 0)
    room.leave(100)
    assert_empty(room)


def test_small_record_does_not_overtake_a_large_one_that_waits(room: Room) -> None:
    assert room.enter(60, WAIT_SECONDS)
    came_in = threading.Event()
    asked = threading.Event()

    def ask() -> None:
        asked.set()
        if room.enter(90, WAIT_SECONDS):
            came_in.set()

    waiting = in_thread(ask)
    assert asked.wait(WAIT_SECONDS)
    while room.enter(10, 0):  # until the large one waits too
        room.leave(10)
    assert not room.enter(10, SOON_SECONDS)
    room.leave(60)
    assert came_in.wait(WAIT_SECONDS)
    waiting.join(WAIT_SECONDS)


@pytest.mark.parametrize("how", ["late", "cancelled"])
async def test_who_gives_up_lets_in_who_fits_behind(room: Room, how: str) -> None:
    assert room.enter(60, WAIT_SECONDS)
    large = asyncio.create_task(room.enter_async(90, SOON_SECONDS if how == "late" else WAIT_SECONDS))
    await asyncio.sleep(0)
    small = asyncio.create_task(room.enter_async(10, WAIT_SECONDS / 10))
    await asyncio.sleep(0)
    if how == "late":
        assert not await large
    else:
        large.cancel()
    assert await small


def test_many_threads_never_exceed_it() -> None:
    room = Room(3, 1000)
    lock = threading.Lock()
    inside = most = 0

    def visit() -> None:
        nonlocal inside, most
        for _ in range(200):
            assert room.enter(1, WAIT_SECONDS)
            with lock:
                inside += 1
                most = max(most, inside)
            with lock:
                inside -= 1
            room.leave(1)

    threads = [in_thread(visit) for _ in range(8)]
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert most <= 3
    assert_empty(room)


async def test_task_waits_without_blocking_others(room: Room) -> None:
    assert await room.enter_async(100, WAIT_SECONDS)
    waiting = asyncio.create_task(room.enter_async(100, WAIT_SECONDS))
    await asyncio.sleep(0)
    assert not waiting.done()
    room.leave(100)
    assert await waiting


async def test_task_that_is_cancelled_or_late_leaves_no_trace(room: Room) -> None:
    assert await room.enter_async(100, WAIT_SECONDS)
    waiting = asyncio.create_task(room.enter_async(100, WAIT_SECONDS))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not await room.enter_async(1, SOON_SECONDS)
    room.leave(100)
    assert_empty(room)


async def test_task_cancelled_as_its_turn_comes_gives_it_back(room: Room) -> None:
    assert await room.enter_async(100, WAIT_SECONDS)
    waiting = asyncio.create_task(room.enter_async(100, WAIT_SECONDS))
    await asyncio.sleep(0)
    room.leave(100)  # its turn: it has not run yet
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert_empty(room)
