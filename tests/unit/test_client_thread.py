from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from headrace.connectors.kafka import client_thread
from headrace.connectors.kafka.client_thread import ClientThread
from headrace.pipeline.errors import FatalError


@pytest.fixture
def thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClientThread]:
    monkeypatch.setattr(client_thread, "LOOK_SECONDS", 0.02)
    thread = ClientThread("under test", stuck_seconds=0.05)
    yield thread
    thread.stop()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a call waits for that should not return; opened at the end."""
    gate = threading.Event()
    yield gate
    gate.set()


async def test_calls_run_one_after_another_on_one_thread(thread: ClientThread) -> None:
    order: list[int] = []

    def call(index: int) -> int:
        order.append(index)
        return threading.get_ident()

    threads = await asyncio.gather(*(thread.run(partial(call, index)) for index in range(20)))
    assert order == list(range(20))
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


async def test_error_of_a_call_is_raised_where_it_was_asked_for(thread: ClientThread) -> None:
    with pytest.raises(ZeroDivisionError):
        await thread.run(lambda: 1 / 0)
    assert await thread.run(lambda: 1) == 1


async def test_watched_call_that_never_returns_is_fatal_for_all_that_wait(
    thread: ClientThread, gate: threading.Event
) -> None:
    def stuck() -> None:
        with thread.watched("send_offsets"):
            gate.wait()

    outcomes = await asyncio.gather(thread.run(stuck), thread.run(lambda: 1), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [FatalError, FatalError]
    assert "send_offsets has not returned" in str(outcomes[0])


async def test_call_that_is_not_watched_may_take_its_time(thread: ClientThread, gate: threading.Event) -> None:
    asyncio.get_running_loop().call_later(0.2, gate.set)
    assert await thread.run(gate.wait)


async def test_call_that_was_given_up_before_its_turn_is_not_made(thread: ClientThread, gate: threading.Event) -> None:
    first = asyncio.create_task(thread.run(gate.wait))
    made: list[int] = []
    second = asyncio.create_task(thread.run(lambda: made.append(1)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    gate.set()
    await first
    await thread.run(lambda: None)
    assert made == []
