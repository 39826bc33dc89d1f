"""Hooks around inference, through the processor: what they change, emit and refuse, and how they fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from headrace.pipeline.records import InferenceRequest, InferenceResult, Part
from headrace.pipeline.user_code import Record, RejectError
from tests.unit.fakes import on_virtual_time, request, request_value, settle, text_part
from tests.unit.processor_bench import ROUTE, Bench, answer, letter_of, result_of

EMITTED = {"alerts": "json", "raw": "bytes", "stage2": "request", "copies": "result"}


def bench_of() -> Bench:
    return Bench(emitted=EMITTED)


def with_text(record: Record, text: str) -> InferenceRequest:
    return replace(record.request, parts=(text_part(text),))


# --- before ---------------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_before_hook_changes_what_is_inferred() -> None:
    bench = bench_of()
    bench.user_code.before.append(lambda record: with_text(record, "changed"))
    task = await bench.open_text()
    assert task.part.content == "changed"


@on_virtual_time
async def test_before_hooks_run_in_turn_and_may_route_the_event() -> None:
    bench = bench_of()
    bench.user_code.before.append(lambda record: with_text(record, "one"))
    bench.user_code.before.append(lambda record: with_text(record, f"{record.request.parts[0].content!r} two"))
    bench.user_code.before.append(lambda record: None)
    task = await bench.open_text()
    assert task.part.content == "'one' two"


@on_virtual_time
async def test_waiting_before_hooks_run_at_once_and_leave_the_order() -> None:
    bench = bench_of()

    async def look_up(record: Record) -> None:
        await asyncio.sleep(1.0 / (record.provenance.offset + 1))

    bench.user_code.before.append(look_up)
    began = asyncio.get_running_loop().time()
    tasks = await bench.open(*((b"k", request_value(number=number), ()) for number in range(50)))
    assert [task.journey.ref.offset for task in tasks["text"]] == list(range(50))
    assert asyncio.get_running_loop().time() - began == pytest.approx(1.0)


def _raises(error: Exception) -> Callable[[Record], Any]:
    def hook(record: Record) -> None:
        raise error

    return hook


async def _too_long(record: Record) -> None:
    await asyncio.sleep(31)


def _other_id(record: Record) -> InferenceRequest:
    return replace(record.request, id=request(number=9).id)


def _nonsense(record: Record) -> Any:
    return "yes"


def _unknown_topic(record: Record) -> None:
    record.emit("nowhere", {})


FAULTS: dict[str, tuple[Callable[[Record], Any], str, str]] = {
    "rejected": (_raises(RejectError("TOO_DARK", "the photo is black")), "TOO_DARK", "the photo is black"),
    "raises": (_raises(KeyError("x")), "USER_CODE_FAILED", "KeyError: 'x'"),
    "time-out of its own": (_raises(TimeoutError("db")), "USER_CODE_FAILED", "TimeoutError: db"),
    "too long": (_too_long, "USER_CODE_TIMEOUT", "user_code.timeout_seconds (30)"),
    "nonsense": (_nonsense, "USER_CODE_FAILED", "returned str, not Inference"),
    "topic": (_unknown_topic, "USER_CODE_FAILED", "topic nowhere is not one to emit to: add it to topics.emitted"),
}


@pytest.mark.parametrize(("hook", "code", "message"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("where", ["before", "after"])
def test_fault_of_a_hook_is_its_records_dead_letter(
    where: str, hook: Callable[[Record], Any], code: str, message: str
) -> None:
    @on_virtual_time
    async def run() -> None:
        bench = bench_of()

        def only_the_first(record: Record) -> Any:
            return hook(record) if record.provenance.offset == 0 else None

        chain = bench.user_code.before if where == "before" else bench.user_code.after["text"]
        chain.append(only_the_first)
        tasks = await bench.open((b"k", request_value(number=0), ()), (b"j", request_value(number=1), ()))
        for task in tasks["text"]:
            bench.processor.finish(task, answer(task))
        await asyncio.sleep(40)
        letter, result = sorted(bench.committed(), key=lambda output: output.topic)
        assert result_of(result).request_id == request(number=1).id
        found = letter_of(letter)
        assert (found.stage, found.code, found.request_id) == ("user_code", code, request(number=0).id)
        assert message in found.message

    run()


@on_virtual_time
async def test_before_hook_may_not_change_the_id() -> None:
    bench = bench_of()
    bench.user_code.before.append(_other_id)
    await bench.open((b"k", request_value(), ()))
    assert "gave the event another id" in bench.letter().message


# --- after ----------------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_after_hook_changes_the_result_and_emits_beside_it() -> None:
    bench = bench_of()

    async def louder(record: Record) -> InferenceResult:
        assert record.result is not None
        record.emit("alerts", {"key": (record.key or b"").decode()})
        await asyncio.sleep(0.1)
        record.emit("raw", "bytes", key="other", headers=(("h", b"1"),), partition=2)
        record.emit("stage2", with_text(record, "next"))
        record.emit("copies", record.result)
        outputs = tuple(replace(output, text=(output.text or "").upper()) for output in record.result.outputs)
        return replace(record.result, outputs=outputs)

    bench.user_code.after["text"].append(louder)
    task = await bench.open_text()
    bench.processor.finish(task, answer(task, "loud"))
    assert bench.committed() == []
    await asyncio.sleep(1)
    result, alert, raw, stage2, copy = bench.committed()
    assert result_of(result).outputs[0].text == "LOUD"
    assert result_of(copy).outputs[0].text == "loud"
    assert (alert.topic, alert.key, json.loads(alert.value or b"")) == ("alerts", b"k", {"key": "k"})
    assert (raw.key, raw.value, raw.headers, raw.partition) == (b"other", b"bytes", (("h", b"1"),), 2)
    assert stage2.topic == "stage2"


@on_virtual_time
async def test_after_hook_may_not_move_the_result() -> None:
    bench = bench_of()

    def move(record: Record) -> InferenceResult:
        assert record.result is not None
        return replace(record.result, provenance=replace(record.provenance, offset=7))

    bench.user_code.after["text"].append(move)
    task = await bench.open_text()
    bench.processor.finish(task, answer(task))
    await settle()
    assert "another provenance" in bench.letter().message


@on_virtual_time
async def test_what_a_failed_record_emitted_is_not_written() -> None:
    bench = bench_of()
    bench.user_code.before.append(lambda record: record.emit("alerts", {}))
    bench.user_code.after["text"].append(_raises(RejectError("NO", "no")))
    task = await bench.open_text()
    bench.processor.finish(task, answer(task))
    await settle()
    assert bench.output().topic == "dead"


@on_virtual_time
async def test_emitting_too_late_is_refused() -> None:
    bench = bench_of()
    kept: list[Record] = []
    bench.user_code.before.append(kept.append)
    task = await bench.open_text()
    bench.processor.finish(task, answer(task))
    with pytest.raises(RuntimeError, match="this record is completed"):
        kept[0].emit("alerts", {})


@on_virtual_time
async def test_hook_of_another_route_does_not_run() -> None:
    bench = Bench(ROUTE, {"name": "image", "model": "echo", "match": {"modality": ["IMAGE"]}}, emitted=EMITTED)
    bench.user_code.after["image"].append(_raises(RuntimeError("not mine")))
    task = await bench.open_text()
    bench.processor.finish(task, answer(task))
    assert bench.output().topic == "results"


BAD_EMITS: dict[str, tuple[str, Any, dict[str, Any], str]] = {
    "json of bytes": ("alerts", b"{}", {}, "alerts takes what JSON can hold"),
    "json that is none": ("alerts", {"x": object()}, {}, "cannot be written as JSON"),
    "json with NaN": ("alerts", [float("nan")], {}, "cannot be written as JSON"),
    "bytes of a mapping": ("raw", {}, {}, "raw takes bytes or text"),
    "request of a result": ("stage2", "text", {}, "stage2 takes an InferenceRequest"),
    "invalid request": (
        "stage2",
        replace(request(), type=""),
        {},
        "the request for stage2 is not valid: type is empty",
    ),
    "partition": ("raw", b"", {"partition": 4}, "raw has partitions 0 to 3, not 4"),
    "key": ("raw", b"", {"key": 5}, "a key is bytes or text, not int"),
    "too large": ("raw", bytes(8 * 1024 * 1024), {}, "raise topics.max_message_bytes"),
    "headers": ("raw", b"", {"headers": (("h", bytes(40_000)),)}, "bytes of headers are more than"),
}


@pytest.mark.parametrize(("topic", "value", "options", "message"), BAD_EMITS.values(), ids=BAD_EMITS)
def test_wrong_emit_is_refused_where_it_is_made(topic: str, value: Any, options: dict[str, Any], message: str) -> None:
    @on_virtual_time
    async def run() -> None:
        bench = bench_of()
        kept: list[Record] = []
        bench.user_code.before.append(kept.append)
        await bench.open_text()
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is what counts
            kept[0].emit(topic, value, **options)
        assert message in str(caught.value)

    run()


def test_code_of_a_rejection_must_be_a_name() -> None:
    with pytest.raises(ValueError, match="such as TOO_DARK"):
        RejectError("too dark", "the photo is black")


# --- rebalance ------------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_revoke_waits_for_user_code_and_commits_what_it_completes() -> None:
    bench = bench_of()

    async def slow(record: Record) -> None:
        await asyncio.sleep(2.0)

    async def flush() -> None:
        flushed.extend(bench.committed())

    flushed: list[Any] = []
    bench.flow.flush = flush
    bench.user_code.after["text"].append(slow)
    task = await bench.open_text()
    bench.processor.finish(task, answer(task))
    await bench.source.revoke()
    assert [output.topic for output in flushed] == ["results"]


@on_virtual_time
async def test_user_code_for_a_lost_partition_leaves_no_trace() -> None:
    bench = bench_of()

    async def slow(record: Record) -> None:
        await asyncio.sleep(2.0)

    bench.user_code.after["text"].append(slow)
    task = await bench.open_text()
    bench.processor.finish(task, answer(task))
    await bench.source.lose()
    await asyncio.sleep(3)
    assert bench.committed() == []


@on_virtual_time
async def test_closing_ends_user_code_at_work() -> None:
    bench = bench_of()
    ended = asyncio.Event()

    async def endless(record: Record) -> None:
        try:
            await asyncio.sleep(25)
        except asyncio.CancelledError:
            ended.set()
            raise

    bench.user_code.after["text"].append(endless)
    task = await bench.open_text()
    bench.processor.finish(task, answer(task))
    await settle()
    await bench.processor.close()
    assert ended.is_set()
    assert bench.committed() == []


def test_record_shows_what_came() -> None:
    @on_virtual_time
    async def run() -> None:
        bench = bench_of()
        kept: list[Record] = []
        bench.user_code.before.append(kept.append)
        await bench.open_text(("tenant", b"a"), ("tenant", b"b"))
        record = kept[0]
        assert (record.key, record.provenance.offset, record.result) == (b"k", 0, None)
        assert record.header("tenant") == b"b"
        assert record.header("none") is None
        assert [name for name, _ in record.headers] == ["tenant", "tenant"]
        assert isinstance(record.request.parts[0], Part)

    run()
