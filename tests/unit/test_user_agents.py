"""User modules in a real Faust app with the outside faked: agents over results, what is refused, timers, pages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from headrace.pipeline.agents import InferenceApp
from headrace.pipeline.errors import FatalError
from headrace.pipeline.user_agents import Handed, RecordStream, host
from headrace.pipeline.user_code import RejectError
from tests.unit.app_bench import page, until
from tests.unit.fakes import settle
from tests.unit.processor_bench import letter_of
from tests.unit.user_bench import bench_with, nothing_stays, process

__all__ = ["nothing_stays"]

# --- agents over results --------------------------------------------------------------------------------------------


async def test_agent_emits_in_the_transaction_of_its_record() -> None:
    def setup(app: InferenceApp) -> None:
        @app.agent(app.results("text"))
        async def alert(records: RecordStream) -> None:
            async for record in records:
                assert record.result is not None
                record.emit("alerts", {"id": record.request.id})

    bench = bench_with(setup)
    await process(bench, 5, 10)
    for unit in bench.connections.transactions.units:
        assert sorted(output.topic for output in unit.outputs) == ["alerts"] * unit.records + ["results"] * unit.records


async def test_record_waits_for_every_agent_of_its_route() -> None:
    let_go = asyncio.Event()
    seen = asyncio.Event()

    def setup(app: InferenceApp) -> None:
        @app.agent(app.results())
        async def quick(records: RecordStream) -> None:
            async for _ in records:
                seen.set()

        @app.agent(app.results())
        async def slow(records: RecordStream) -> None:
            async for _ in records:
                await let_go.wait()

    bench = bench_with(setup)
    bench.send(1)
    async with bench.running():
        await bench.poll()
        await seen.wait()
        assert bench.broker.outputs == []
        let_go.set()
        await bench.answered(1)


async def test_what_an_agent_raises_is_its_records_dead_letter_and_it_goes_on() -> None:
    calls = 0

    def setup(app: InferenceApp) -> None:
        @app.agent(app.results())
        async def picky(records: RecordStream) -> None:
            nonlocal calls
            calls += 1
            async for record in records:
                if record.provenance.offset == 1:
                    raise RejectError("TOO_ODD", "one is odd")
                if record.provenance.offset == 2:
                    raise KeyError("two")

    bench = bench_with(setup)
    await process(bench, 4, 4)
    letters = [letter_of(output) for output in bench.broker.outputs if output.topic == "dead"]
    assert [(letter.provenance.offset, letter.stage, letter.code) for letter in letters] == [
        (1, "user_code", "TOO_ODD"),
        (2, "user_code", "USER_CODE_FAILED"),
    ]
    assert calls == 3


async def test_agent_that_takes_too_long_is_cut_off_at_its_record() -> None:
    def setup(app: InferenceApp) -> None:
        @app.agent(app.results())
        async def stuck(records: RecordStream) -> None:
            async for record in records:
                if record.provenance.offset == 0:
                    await asyncio.Event().wait()

    bench = bench_with(setup, timeout_seconds=0.2)
    await process(bench, 3, 3)
    (letter,) = [letter_of(output) for output in bench.broker.outputs if output.topic == "dead"]
    assert (letter.provenance.offset, letter.code) == (0, "USER_CODE_TIMEOUT")
    assert "stuck took longer than user_code.timeout_seconds (0.2)" in letter.message


async def test_concurrency_is_records_at_a_time_and_each_goes_to_one_hand() -> None:
    together = asyncio.Barrier(3)
    seen: list[int] = []

    def setup(app: InferenceApp) -> None:
        @app.agent(app.results(), concurrency=3)
        async def wait_for_others(records: RecordStream) -> None:
            async for record in records:
                seen.append(record.provenance.offset)
                await together.wait()

    bench = bench_with(setup)
    await process(bench, 6, 6)
    assert sorted(seen) == list(range(6))


async def test_agent_may_wait_for_its_next_record_with_a_time_limit() -> None:
    """The cancellation of its waiting must not end the stream."""
    waited = asyncio.Event()

    def setup(app: InferenceApp) -> None:
        @app.agent(app.results())
        async def impatient(records: RecordStream) -> None:
            while True:
                try:
                    record = await asyncio.wait_for(anext(records), 0.01)
                except TimeoutError:
                    waited.set()
                else:
                    record.emit("alerts", {})

    bench = bench_with(setup)
    async with bench.running():
        await waited.wait()
        bench.send(3)
        await bench.poll()
        await bench.answered(6)


async def test_agent_whose_awaited_is_cancelled_by_others_fails_at_its_record() -> None:
    def setup(app: InferenceApp) -> None:
        @app.agent(app.results())
        async def unlucky(records: RecordStream) -> None:
            async for record in records:
                if record.provenance.offset == 0:
                    elsewhere = asyncio.get_running_loop().create_future()
                    elsewhere.cancel()
                    await elsewhere

    bench = bench_with(setup)
    await process(bench, 3, 3)
    (letter,) = [letter_of(output) for output in bench.broker.outputs if output.topic == "dead"]
    assert (letter.provenance.offset, letter.code) == (0, "USER_CODE_FAILED")


async def test_agent_that_never_ends_when_cancelled_is_replaced() -> None:
    def setup(app: InferenceApp) -> None:
        @app.agent(app.results())
        async def stubborn(records: RecordStream) -> None:
            async for record in records:
                while record.provenance.offset == 0 and not ended.is_set():
                    with contextlib.suppress(asyncio.CancelledError):
                        await ended.wait()

    ended = asyncio.Event()
    bench = bench_with(setup, timeout_seconds=0.2)
    await process(bench, 3, 3)  # also the worker's stop does not wait for it
    (letter,) = [letter_of(output) for output in bench.broker.outputs if output.topic == "dead"]
    assert (letter.provenance.offset, letter.code) == (0, "USER_CODE_TIMEOUT")
    ended.set()
    await settle()


async def test_stopping_waits_for_the_agent_at_work_and_commits() -> None:
    let_go = asyncio.Event()
    taken = asyncio.Event()

    def setup(app: InferenceApp) -> None:
        @app.agent(app.results())
        async def slow(records: RecordStream) -> None:
            async for record in records:
                taken.set()
                await let_go.wait()
                record.emit("alerts", {})

    bench = bench_with(setup)
    bench.send(1)
    async with bench.running():
        await bench.poll()
        await taken.wait()
        stopping = asyncio.create_task(bench.app.stop())
        await settle()
        assert not stopping.done()
        let_go.set()
        await stopping
    assert [output.topic for output in bench.broker.outputs] == ["results", "alerts"]


async def test_bare_send_from_an_agent_raises_and_is_its_records_dead_letter() -> None:
    errors: list[str] = []

    def setup(app: InferenceApp) -> None:
        topic = app.topic("alerts", value_type=bytes)

        @app.agent(app.results())
        async def careless(records: RecordStream) -> None:
            async for record in records:
                if record.provenance.offset == 0:
                    await topic.send(value=b"x")
                for send in (lambda: topic.send_soon(value=b"x"), lambda: app.send("alerts", value=b"x")):
                    try:
                        answer: Any = send()
                        await answer
                    except RuntimeError as error:
                        errors.append(str(error))

    bench = bench_with(setup)
    await process(bench, 2, 2)
    (letter,) = [letter_of(output) for output in bench.broker.outputs if output.topic == "dead"]
    assert "alerts is not sent to: that would be outside the record's transaction" in letter.message
    assert len(errors) == 2
    assert all("record.emit(topic, value)" in error for error in errors)


# --- the rest of Faust ----------------------------------------------------------------------------------------------


async def test_timer_page_and_own_channel_work_as_in_any_faust_app() -> None:
    ticks: list[int] = []

    def setup(app: InferenceApp) -> None:
        channel = app.channel()

        @app.agent(channel)
        async def count(numbers: Any) -> None:
            async for number in numbers:
                ticks.append(number)

        @app.timer(0.02)  # type: ignore[untyped-decorator]  # Faust\'s
        async def tick() -> None:
            await channel.put(cast("Any", 1))

        @app.page("/ticks")
        async def ticks_page(web: Any, request: Any) -> Any:
            return web.text(str(bool(ticks)))

    bench = bench_with(setup)
    async with bench.running() as session:

        async def ticked() -> bool:
            return await page(session, "/ticks") == (200, "True")

        await until(ticked)


async def test_failing_timer_ends_the_worker() -> None:
    def setup(app: InferenceApp) -> None:
        @app.timer(0.01)  # type: ignore[untyped-decorator]  # Faust\'s
        async def fail() -> None:
            raise KeyError("timer")

    bench = bench_with(setup)
    async with bench.running():
        await until(bench.failed)
    assert isinstance(bench.app.failure, KeyError)


async def test_agent_that_takes_nothing_ends_the_worker() -> None:
    def setup(app: InferenceApp) -> None:
        @app.agent(app.results())
        async def lazy(records: RecordStream) -> None:
            return

    bench = bench_with(setup)
    async with bench.running():
        await until(bench.failed)
    assert isinstance(bench.app.failure, FatalError)
    assert "lazy returned without taking a record" in str(bench.app.failure)


async def test_agent_that_swallows_its_time_out_still_costs_its_record() -> None:
    queue: asyncio.Queue[Handed] = asyncio.Queue()

    async def stream() -> AsyncIterator[Handed]:
        while True:
            yield await queue.get()

    async def stubborn(records: RecordStream) -> None:
        async for record in records:
            if cast("int", record) == 0:  # the host looks into no record
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()

    loop = asyncio.get_running_loop()
    some = [Handed(number, loop.create_future()) for number in range(2)]  # type: ignore[arg-type]
    for each in some:
        queue.put_nowait(each)
    hosting = asyncio.create_task(host(stubborn, stream(), 1, 0.05))
    with pytest.raises(Exception, match="stubborn took longer"):
        await some[0].done
    hosting.cancel()
    await asyncio.gather(hosting, return_exceptions=True)
