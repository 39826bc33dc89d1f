"""Records that are put off: what the processor makes of a failure that may pass, and of a record that comes back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headrace.pipeline.errors import ExhaustedError, OutputRefusedError, PoisonError, RetriableError
from headrace.pipeline.journey import PartTask
from headrace.pipeline.records import Modality, OutputRecord, Part, Provenance, SourceRecord, TopicPartition
from headrace.pipeline.retrying import resumed
from headrace.pipeline.user_code import Record
from tests.unit.fakes import EPOCH_MS, on_virtual_time, request, request_value, text_part
from tests.unit.processor_bench import P0, ROUTE, Bench, answer, letter_of, result_of

DELAYED = {**ROUTE, "retries": {"delays": ["5s", "1m"], "jitter": 0}}
EXHAUSTED = ExhaustedError("infer", "RETRIES_EXHAUSTED", "4 attempts failed")
FIRST = Provenance("requests", 0, 0, EPOCH_MS)


async def come_back(bench: Bench, output: OutputRecord) -> dict[str, list[PartTask]]:
    """What was put off, read from its delay topic."""
    return await bench.open((output.key, output.value, output.headers), partition=TopicPartition(output.topic, 0))


async def failed(bench: Bench, *headers: tuple[str, bytes], **fields: Any) -> OutputRecord:
    """What comes of an event whose attempts are spent."""
    task = await bench.open_text(*headers, **fields)
    task.attempts = 4
    bench.processor.finish(task, EXHAUSTED)
    return bench.output()


@on_virtual_time
async def test_event_is_put_off_and_its_result_tells_nothing_of_the_detour() -> None:
    bench = Bench(DELAYED)
    later = await failed(bench, ("x", b"1"), ("correlation_id", b"order-7"), number=7)
    assert (later.topic, later.key, later.value) == ("mill.retry.5s", b"k", request_value(number=7))
    assert later.headers[:-1] == (("x", b"1"), ("correlation_id", b"order-7"))

    (task,) = (await come_back(bench, later))["text"]
    assert task.journey.record.provenance == FIRST
    task.attempts = 2
    bench.processor.finish(task, answer(task))
    output = bench.output()
    result = result_of(output)
    assert (output.topic, result.provenance, result.attempt) == ("results", FIRST, 6)
    assert dict(output.headers)["correlation_id"] == b"order-7"
    assert dict(output.headers)["ce_id"] == b"requests-0-0"


@on_virtual_time
async def test_last_failure_makes_a_dead_letter_of_the_record_as_it_was() -> None:
    bench = Bench(DELAYED)
    later = await failed(bench, ("x", b"1"))
    for topic in ("mill.retry.5s", "mill.retry.1m"):
        assert later.topic == topic
        (task,) = (await come_back(bench, later))["text"]
        task.attempts = 4
        bench.processor.finish(task, EXHAUSTED)
        later = bench.output()
    letter = letter_of(later)
    assert (letter.code, letter.attempts, letter.headers) == ("RETRIES_EXHAUSTED", 12, (("x", b"1"),))
    assert (letter.provenance, letter.route, letter.model) == (FIRST, "text", "echo")


@on_virtual_time
async def test_what_can_never_succeed_is_not_put_off() -> None:
    bench = Bench(DELAYED)
    task = await bench.open_text()
    bench.processor.finish(task, PoisonError("infer", "INVALID_INPUT", "no"))
    assert bench.letter().code == "INVALID_INPUT"


@on_virtual_time
async def test_nothing_is_put_off_beyond_its_deadline() -> None:
    bench = Bench(DELAYED)
    task = await bench.open_text(("deadline", b"%d" % (EPOCH_MS + 4_999)))
    bench.processor.finish(task, EXHAUSTED)
    assert bench.letter().code == "RETRIES_EXHAUSTED"


@on_virtual_time
async def test_record_that_its_delay_topic_refuses_is_a_dead_letter() -> None:
    bench = Bench(DELAYED)
    task = await bench.open_text()
    bench.processor.finish(task, EXHAUSTED)
    unit = bench.flow.collect(10)
    assert unit is not None
    refused = bench.flow.refuse(unit, OutputRefusedError(0, "too large"))
    (output,) = refused.commit.outputs
    assert letter_of(output).code == "RETRIES_EXHAUSTED"


@on_virtual_time
async def test_event_is_put_off_once_whichever_of_its_parts_fail() -> None:
    bench = Bench(DELAYED)
    tasks = (await bench.open((b"k", request_value(parts=(text_part("a"), text_part("b", "second"))), ())))["text"]
    for task in tasks:
        bench.processor.finish(task, EXHAUSTED)
    later = bench.output()
    assert len((await come_back(bench, later))["text"]) == 2


@on_virtual_time
async def test_order_of_a_key_goes_on_without_what_is_put_off() -> None:
    bench = Bench(DELAYED)
    first = await bench.open_text(number=1)
    second = await bench.open_text(number=2)
    bench.processor.finish(second, answer(second))
    assert bench.committed() == []
    bench.processor.finish(first, EXHAUSTED)
    assert [each.topic for each in bench.committed()] == ["mill.retry.5s", "results"]


@on_virtual_time
async def test_stranger_in_a_delay_topic_is_a_dead_letter_at_its_own_position() -> None:
    bench = Bench(DELAYED)
    assert await bench.open((b"k", request_value(), ()), partition=TopicPartition("mill.retry.5s", 0)) == {}
    letter = bench.letter()
    assert (letter.code, letter.provenance) == ("BAD_HEADER", Provenance("mill.retry.5s", 0, 0, EPOCH_MS))


@on_virtual_time
async def test_header_of_a_delay_topic_means_nothing_in_a_request_topic() -> None:
    bench = Bench(DELAYED)
    later = await failed(bench)
    (task,) = (await bench.open((b"k", later.value, later.headers)))["text"]
    assert task.journey.record.provenance == Provenance(*P0, 1, EPOCH_MS)
    assert task.journey.retry is None
    assert task.journey.record.headers == later.headers


@on_virtual_time
async def test_user_code_may_ask_for_another_try_before_and_after_inference() -> None:
    bench = Bench(DELAYED)
    faults = [RetriableError("the lexicon does not answer")]

    def hook(record: Record) -> None:
        if faults:
            raise faults.pop()

    bench.user_code.before.append(hook)
    assert await bench.open((b"k", request_value(number=3), ())) == {}
    later = bench.output()
    _, retry = resumed(_as_read(later))
    assert (later.topic, retry.stage, retry.code, retry.attempts) == (
        "mill.retry.5s",
        "user_code",
        "USER_CODE_RETRY",
        0,
    )
    (task,) = (await come_back(bench, later))["text"]
    assert task.journey.request.id == request(number=3).id

    faults.append(RetriableError("nor now"))
    bench.user_code.after["text"].append(hook)
    bench.processor.finish(task, answer(task))
    await asyncio.sleep(0.01)
    assert bench.output().topic == "mill.retry.1m"


@on_virtual_time
async def test_hook_that_asks_for_another_try_of_an_event_without_delays_makes_a_dead_letter() -> None:
    bench = Bench()

    def hook(record: Record) -> None:
        raise RetriableError("not now")

    bench.user_code.before.append(hook)
    await bench.open((b"k", request_value(), ()))
    letter = bench.letter()
    assert (letter.stage, letter.code, letter.route) == ("user_code", "USER_CODE_RETRY", "text")


def _as_read(output: OutputRecord) -> SourceRecord:
    return SourceRecord(Provenance(output.topic, 0, 0, EPOCH_MS), output.key, output.value, output.headers)


IMAGES = {**ROUTE, "name": "images", "model": "double", "match": {"modality": ["IMAGE"]}}


@pytest.mark.parametrize("last", ["text", "images"])
@on_virtual_time
async def test_hook_after_inference_asks_for_the_delays_of_the_first_parts_route(last: str) -> None:
    slower = {"delays": ["10m"], "jitter": 0}
    bench = Bench(DELAYED, {**IMAGES, "retries": slower, "deadline_seconds": 1})

    def hook(record: Record) -> None:
        raise RetriableError("the lexicon does not answer")

    bench.user_code.after["text"].append(hook)
    parts = (text_part("a"), Part("photo", Modality.IMAGE, "image/jpeg", b"a"))
    tasks = await bench.open((b"k", request_value(*parts), ()))
    for topic in ("mill.retry.5s", "mill.retry.1m", "dead"):
        both = [tasks["text"][0], tasks["images"][0]]
        both[0].attempts, both[1].attempts = 1, 3
        for task in sorted(both, key=lambda task: task.route == last):
            bench.processor.finish(task, answer(task))
        await asyncio.sleep(0.1)
        later = bench.output()
        assert later.topic == topic
        if topic != "dead":
            tasks = await come_back(bench, later)
    letter = letter_of(later)
    assert (letter.code, letter.route, letter.model, letter.attempts) == ("USER_CODE_RETRY", "text", "echo", 9)
