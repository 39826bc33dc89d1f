"""User code that misbehaves: swallows its cancellation, is cancelled by others, blocks, outlives its record."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from dataclasses import replace
from typing import Any

import pytest

from headrace.pipeline.flow import RecordRef
from headrace.pipeline.journey import Decoded
from headrace.pipeline.records import InferenceRequest, InferenceResult
from headrace.pipeline.user_code import CONCURRENT_HOOKS, Record, RejectError
from tests.unit.fakes import on_virtual_time, request_value, settle
from tests.unit.processor_bench import P0, ROUTE, Bench, answer, letter_of, result_of


async def never_ends(record: Record) -> None:
    """A loop that tries again whatever happens, as one written in haste does."""
    while record.provenance.offset == 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


async def waits_for_what_is_cancelled(record: Record) -> None:
    if record.provenance.offset == 0:
        elsewhere = asyncio.get_running_loop().create_future()
        elsewhere.cancel()
        await elsewhere


async def goes_on_when_cancelled(record: Record) -> None:
    if record.provenance.offset == 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)


FAULTS = {
    "never ends": (never_ends, "USER_CODE_TIMEOUT"),
    "is cancelled by others": (waits_for_what_is_cancelled, "USER_CODE_FAILED"),
    "goes on when its time is up": (goes_on_when_cancelled, "USER_CODE_TIMEOUT"),
}


@pytest.mark.parametrize(("hook", "code"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("where", ["before", "after"])
def test_hook_that_misbehaves_costs_its_record_alone(where: str, hook: Any, code: str) -> None:
    @on_virtual_time
    async def run() -> None:
        bench = Bench()
        chain = bench.user_code.before if where == "before" else bench.user_code.after["text"]
        chain.append(hook)
        async with asyncio.timeout(100):
            tasks = await bench.open((b"k", request_value(number=0), ()), (b"j", request_value(number=1), ()))
        for task in tasks["text"]:
            bench.processor.finish(task, answer(task))
        await asyncio.sleep(40)
        letter, result = sorted(bench.committed(), key=lambda output: output.topic)
        assert (letter_of(letter).provenance.offset, letter_of(letter).code) == (0, code)
        assert result.topic == "results"

    run()


@on_virtual_time
async def test_closing_does_not_wait_for_code_that_swallows_its_cancellation() -> None:
    bench = Bench()
    bench.user_code.after["text"].append(never_ends)
    task = await bench.open_text()
    bench.processor.finish(task, answer(task))
    await settle()
    async with asyncio.timeout(10):
        await bench.processor.close()
    assert bench.committed() == []


def _no_parts(record: Record) -> InferenceRequest:
    return replace(record.request, parts=())


def _parts_of_another_kind(record: Record) -> InferenceRequest:
    return replace(record.request, parts=("text",))  # type: ignore[arg-type]


def _other_id_in_place(record: Record) -> None:
    record.request.id = "7b0c9f5e-6c1c-4b2a-9d39-3f1f5f0d3f11"  # type: ignore[misc]


CHANGES = {
    "other id in place": (_other_id_in_place, "gave the event another id"),
    "no parts": (_no_parts, "gave an event that is not valid: the event has no parts"),
    "wrong kind": (_parts_of_another_kind, "gave an event that is not valid: AttributeError"),
}


@pytest.mark.parametrize(("hook", "message"), CHANGES.values(), ids=CHANGES)
def test_changed_event_that_is_not_valid_names_its_hook(hook: Any, message: str) -> None:
    @on_virtual_time
    async def run() -> None:
        bench = Bench()
        bench.user_code.before.append(hook)
        await bench.open((b"k", request_value(), ()))
        letter = bench.letter()
        assert (letter.stage, letter.code) == ("user_code", "USER_CODE_FAILED")
        assert message in letter.message

    run()


@on_virtual_time
async def test_changed_result_that_cannot_be_written_is_its_records_dead_letter() -> None:
    bench = Bench()

    def wrong(record: Record) -> InferenceResult:
        assert record.result is not None
        return replace(record.result, outputs=("x",))  # type: ignore[arg-type]

    bench.user_code.after["text"].append(wrong)
    task = await bench.open_text()
    bench.processor.finish(task, answer(task))
    await settle()
    letter = bench.letter()
    assert (letter.stage, letter.code) == ("encode", "UNENCODABLE")


@on_virtual_time
async def test_provenance_changed_in_place_fails_the_hook_and_is_not_the_dead_letters() -> None:
    bench = Bench()

    def wrong(record: Record) -> None:
        assert record.result is not None
        record.provenance.offset = record.result.provenance.offset = 77  # type: ignore[misc]

    bench.user_code.after["text"].append(wrong)
    task = await bench.open_text()
    bench.processor.finish(task, answer(task))
    await settle()
    letter = bench.letter()
    assert (letter.code, letter.provenance.offset) == ("USER_CODE_FAILED", 0)
    assert "another provenance" in letter.message


@on_virtual_time
async def test_provenance_changed_by_an_agent_is_not_the_results() -> None:
    bench = Bench()

    async def wrong(record: Record) -> None:
        assert record.result is not None
        record.result.provenance.offset = 77  # type: ignore[misc]

    bench.user_code.agents["text"].append(wrong)
    task = await bench.open_text()
    bench.processor.finish(task, answer(task))
    await settle()
    assert result_of(bench.output()).provenance.offset == 0


@on_virtual_time
async def test_rejected_records_leave_memory_without_a_collection_of_garbage() -> None:
    """Which comes seldom: what is rejected may be large, and is in no budget any more."""
    bench = Bench()

    def reject(record: Record) -> None:
        raise RejectError("NOT_WANTED", "no")

    def alive() -> int:
        return sum(isinstance(each, Decoded) for each in gc.get_objects())

    bench.user_code.before.append(reject)
    gc.collect()
    before = alive()
    gc.disable()
    try:
        for _ in range(3):
            await bench.open((b"k", request_value(), ()))
            bench.letter()
        assert alive() == before
    finally:
        gc.enable()


# --- records that are gone ------------------------------------------------------------------------------------------


@on_virtual_time
async def test_before_hooks_do_not_begin_for_a_partition_that_is_gone() -> None:
    """Else a batch of records that are another worker's by now would hold up those that are ours."""
    bench = Bench()
    begun: list[int] = []

    async def slow(record: Record) -> None:
        begun.append(record.provenance.offset)
        await asyncio.sleep(20)

    bench.user_code.before.append(slow)
    opening = asyncio.create_task(bench.open(*((b"k", request_value(number=number), ()) for number in range(100))))
    await asyncio.sleep(1)
    await bench.source.lose()
    began = asyncio.get_running_loop().time()
    assert await opening == {}
    assert asyncio.get_running_loop().time() - began < 20
    assert len(begun) == CONCURRENT_HOOKS
    assert bench.committed() == []


@on_virtual_time
async def test_event_whose_hooks_did_not_run_has_no_outcome() -> None:
    """While its partition is drained, the dead letter that it would be without them must not be committed."""
    bench = Bench({**ROUTE, "match": {"type": ["ready"]}})

    async def make_ready(record: Record) -> InferenceRequest:
        await asyncio.sleep(5)
        return replace(record.request, type="ready")

    bench.user_code.before.append(make_ready)
    numbers = range(CONCURRENT_HOOKS + 6)
    opening = asyncio.create_task(bench.open(*((b"k", request_value(number=number), ()) for number in numbers)))
    await asyncio.sleep(1)
    in_call = RecordRef(P0, bench.source.generation, 0)
    assert bench.flow.begin_call(in_call)  # the drain waits for this one
    revoking = asyncio.create_task(bench.source.revoke())
    assert len((await opening)["text"]) == CONCURRENT_HOOKS
    assert bench.committed() == []
    bench.flow.end_call(in_call)
    await revoking


@on_virtual_time
async def test_after_hooks_do_not_begin_for_a_record_that_is_gone() -> None:
    bench = Bench()
    begun: list[Record] = []
    bench.user_code.after["text"].append(begun.append)
    task = await bench.open_text()
    await bench.source.lose()
    bench.processor.finish(task, answer(task))
    await settle()
    assert begun == []
