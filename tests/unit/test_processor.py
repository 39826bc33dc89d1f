from __future__ import annotations

import asyncio
import gc

import pytest

from headrace.pipeline import turns
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.journey import Journey
from headrace.pipeline.records import (
    OutputRecord,
    Provenance,
)
from tests.unit.fakes import (
    EPOCH_MS,
    on_virtual_time,
    request,
    request_value,
    text_part,
)
from tests.unit.processor_bench import P0, ROUTE, TRACE, Bench, answer, letter_of, result_of

# --- in -------------------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_undecodable_record_is_a_dead_letter_that_holds_it_untouched() -> None:
    bench = Bench()
    headers = (("a", b"1"), ("a", None), ("traceparent", TRACE))
    assert await bench.open((b"key", b"\0\0\0\0\1rubbish", headers)) == {}
    output = bench.output()
    letter = letter_of(output)
    assert (output.topic, output.key, output.partition) == ("dead", b"key", None)
    assert (letter.key, letter.value, letter.headers) == (b"key", b"\0\0\0\0\1rubbish", headers)
    assert letter.provenance == Provenance("requests", 0, 0, EPOCH_MS)
    assert (letter.stage, letter.attempts, letter.worker) == ("decode", 0, "mill-0")
    assert (letter.first_failed_ms, letter.last_failed_ms) == (EPOCH_MS, EPOCH_MS)
    assert (letter.request_id, letter.route, letter.model) == (None, None, None)
    assert letter.trace_id == TRACE.decode().split("-")[1]
    found = dict(output.headers)
    assert found["dead_letter_stage"] == b"decode"
    assert found["dead_letter_code"] == letter.code.encode()
    assert (found["traceparent"] or b"").startswith(TRACE[:35])
    assert found["traceparent"] != TRACE  # one span further


@on_virtual_time
async def test_record_without_value_is_a_dead_letter() -> None:
    bench = Bench()
    await bench.open((None, None, ()))
    letter = bench.letter()
    assert (letter.code, letter.key, letter.value) == ("EMPTY_VALUE", None, None)


@on_virtual_time
async def test_unroutable_record_is_a_dead_letter_with_its_request() -> None:
    bench = Bench()
    await bench.open((b"k", request_value(number=7, model="gone"), ()))
    letter = bench.letter()
    assert (letter.stage, letter.code) == ("route", "UNKNOWN_MODEL")
    assert letter.request_id == request(number=7).id


@on_virtual_time
async def test_late_record_is_a_dead_letter_before_inference() -> None:
    bench = Bench()
    assert await bench.open((b"k", request_value(), (("deadline", b"%d" % (EPOCH_MS - 1)),))) == {}
    letter = bench.letter()
    assert (letter.stage, letter.code) == ("admit", "DEADLINE_EXCEEDED")


@on_virtual_time
async def test_deadline_of_the_route_goes_with_the_task() -> None:
    bench = Bench({**ROUTE, "deadline_seconds": 5})
    task = await bench.open_text()
    assert task.deadline_ms == EPOCH_MS + 5000


@on_virtual_time
async def test_bad_records_do_not_stop_the_good_ones_beside_them() -> None:
    bench = Bench()
    records = [(b"k", value, ()) for value in (request_value(number=0), b"bad", request_value(number=2))]
    tasks = await bench.open(*records)
    assert [task.journey.ref.offset for task in tasks["text"]] == [0, 2]
    assert bench.letter().provenance.offset == 1


@on_virtual_time
async def test_unexpected_error_is_a_dead_letter_too(caplog: pytest.LogCaptureFixture) -> None:
    """A topic that was not counted is a fault of ours, but the record still has its way out."""
    bench = Bench({**ROUTE, "reply_topics_allowed": ["uncounted"]})
    await bench.open((b"k", request_value(), (("reply_topic", b"uncounted"), ("reply_partition", b"0"))))
    letter = bench.letter()
    assert letter.code == "UNEXPECTED"
    assert "KeyError" in letter.message
    assert "could not be opened" in caplog.text


@on_virtual_time
async def test_batch_of_a_revoked_partition_leaves_no_trace() -> None:
    bench = Bench()
    await bench.open_text()
    bench.broker.send(P0, b"k", request_value(number=1))
    bench.broker.send(P0, b"k", b"bad")
    bench.source.poll()
    await bench.source.lose()
    tasks = await bench.processor.open_batch(bench.batches.pop())
    for task in tasks["text"]:
        bench.processor.finish(task, answer(task))
    assert bench.committed() == []


@on_virtual_time
async def test_opening_many_records_gives_way_and_keeps_their_order() -> None:
    bench = Bench()
    turns_of_others = 0

    async def others() -> None:
        nonlocal turns_of_others
        while True:
            turns_of_others += 1
            await asyncio.sleep(0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "TURN_SECONDS", 0.0)
        other = asyncio.create_task(others())
        tasks = await bench.open(*((b"k", request_value(number=number), ()) for number in range(10)))
        other.cancel()
    assert turns_of_others >= 10
    assert [task.journey.ref.offset for task in tasks["text"]] == list(range(10))


@on_virtual_time
async def test_partition_that_goes_while_its_records_are_opened_leaves_no_trace() -> None:
    bench = Bench()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "TURN_SECONDS", 0.0)
        values = (request_value(), b"bad", request_value(number=2), b"bad")
        opening = asyncio.create_task(bench.open(*((b"k", value, ()) for value in values)))
        await asyncio.sleep(0)
        await bench.source.lose()
        await bench.source.assign(P0)
        tasks = await opening
    for task in tasks["text"]:
        bench.processor.finish(task, answer(task))
    assert bench.committed() == []


# --- out ------------------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_result_says_what_was_asked_and_who_answered() -> None:
    bench = Bench()
    task = await bench.open_text(("correlation_id", b"order-7"), ("traceparent", TRACE), number=7)
    task.waited_seconds, task.inferred_seconds, task.attempts = 0.25, 0.5, 2
    bench.processor.finish(task, answer(task))
    output = bench.output()
    result = result_of(output)
    assert (output.topic, output.key, output.partition) == ("results", b"k", None)
    assert (result.request_id, result.status, result.worker) == (request(number=7).id, "OK", "mill-0")
    assert result.provenance == Provenance("requests", 0, 0, EPOCH_MS)
    assert (result.timings.waiting_ms, result.timings.inference_ms, result.attempt) == (250.0, 500.0, 2)
    assert [part.text for part in result.outputs] == ["turned"]
    found = dict(output.headers)
    assert found["correlation_id"] == b"order-7"
    assert (found["traceparent"] or b"").startswith(TRACE[:35])


@on_virtual_time
async def test_parts_are_answered_in_their_own_order_whatever_the_order_of_answers() -> None:
    bench = Bench(ROUTE, {"name": "shout", "model": "loud", "match": {"content_type": ["text/shout"]}})
    parts = [text_part("a", "first"), text_part("b", "second"), text_part("c", "third")]
    tasks = (await bench.open((b"k", request_value(*parts), ())))["text"]
    for index in (2, 0, 1):
        assert bench.committed() == []
        bench.processor.finish(tasks[index], answer(tasks[index]))
    assert [part.part for part in result_of(bench.output()).outputs] == ["first", "second", "third"]


@on_virtual_time
async def test_one_failing_part_makes_exactly_one_dead_letter_and_no_result() -> None:
    bench = Bench()
    parts = [text_part("a", "first"), text_part("b", "second"), text_part("c", "third")]
    tasks = (await bench.open((b"k", request_value(*parts, number=3), ())))["text"]
    tasks[1].attempts = 4
    bench.processor.finish(tasks[0], answer(tasks[0]))
    bench.processor.finish(tasks[1], PoisonError("infer", "RETRIES_EXHAUSTED", "gave up"))
    bench.processor.finish(tasks[2], PoisonError("infer", "LATE", "too"))
    letter = bench.letter()
    assert (letter.stage, letter.code, letter.message) == ("infer", "RETRIES_EXHAUSTED", "gave up")
    assert (letter.request_id, letter.route, letter.model, letter.attempts) == (request(number=3).id, "text", "echo", 4)
    bench.processor.finish(tasks[2], answer(tasks[2]))
    assert bench.committed() == []


@on_virtual_time
async def test_result_that_does_not_fit_its_topic_is_a_dead_letter() -> None:
    bench = Bench(max_message_bytes=100_000)
    task = await bench.open_text()
    bench.processor.finish(task, answer(task, "x" * 40_000))
    letter = bench.letter()
    assert (letter.stage, letter.code, letter.route) == ("encode", "RESULT_TOO_LARGE", "text")
    assert "raise topics.max_message_bytes" in letter.message


@pytest.mark.parametrize(
    ("asked", "to"),
    [
        ({}, ("results", None)),
        ({"reply_topic": b"replies"}, ("replies", None)),
        ({"reply_topic": b"replies", "reply_partition": b"1"}, ("replies", 1)),
        ({"reply_topic": b"elsewhere"}, ("results", None)),
        ({"reply_topic": b"elsewhere", "reply_partition": b"1"}, ("results", None)),
        ({"reply_topic": b"results", "reply_partition": b"3"}, ("results", 3)),
        ({"reply_partition": b"1"}, ("results", None)),
    ],
)
@on_virtual_time
async def test_result_goes_where_it_is_asked_for_if_that_is_allowed(
    asked: dict[str, bytes], to: tuple[str, int | None]
) -> None:
    """A partition is asked for of a topic: it counts for no other."""
    bench = Bench()
    task = await bench.open_text(*asked.items())
    bench.processor.finish(task, answer(task))
    output = bench.output()
    assert (output.topic, output.partition) == to


@on_virtual_time
async def test_partition_that_the_reply_topic_lacks_is_refused() -> None:
    bench = Bench()
    await bench.open((b"k", request_value(), (("reply_topic", b"replies"), ("reply_partition", b"2"))))
    letter = bench.letter()
    assert (letter.stage, letter.code) == ("route", "BAD_HEADER")
    assert "replies has partitions 0 to 1" in letter.message


# --- order ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ordering", "released"),
    [("partition", [0, 1, 2, 3]), ("key", [2, 3, 0, 1]), ("none", [2, 3, 1, 0])],
)
@on_virtual_time
async def test_results_are_released_in_the_routes_order(ordering: str, released: list[int]) -> None:
    """Keys are a, a, b and none; answered are 2, 3, 1 and 0."""
    bench = Bench({**ROUTE, "ordering": ordering})
    keys = (b"a", b"a", b"b", None)
    tasks = await bench.open(*((key, request_value(number=number), ()) for number, key in enumerate(keys)))
    outputs: list[OutputRecord] = []
    for index in (2, 3, 1, 0):
        bench.processor.finish(tasks["text"][index], answer(tasks["text"][index]))
        outputs += bench.committed()
    assert [result_of(output).provenance.offset for output in outputs] == released


@on_virtual_time
async def test_event_of_two_routes_keeps_its_place_in_both() -> None:
    shout = {"name": "shout", "model": "loud", "match": {"content_type": ["text/shout"]}}
    bench = Bench(shout, ROUTE)
    loud, quiet = text_part("A", "loud"), text_part("a", "quiet")
    loud = type(loud)(loud.name, loud.modality, "text/shout", loud.content)
    values = [request_value(loud, number=0), request_value(quiet, number=1), request_value(loud, quiet, number=2)]
    tasks = await bench.open(*((b"k", value, ()) for value in values))
    of = {(task.journey.ref.offset, task.route): task for some in tasks.values() for task in some}
    released = []
    for place in ((2, "shout"), (2, "text"), (0, "shout"), (1, "text")):
        bench.processor.finish(of[place], answer(of[place]))
        released.append([result_of(output).provenance.offset for output in bench.committed()])
    assert released == [[], [], [0], [1, 2]]


@on_virtual_time
async def test_dead_letter_of_a_route_waits_for_its_place_as_a_result_does() -> None:
    bench = Bench({**ROUTE, "ordering": "partition"})
    tasks = (await bench.open(*((b"k", request_value(number=number), ()) for number in range(2))))["text"]
    bench.processor.finish(tasks[1], PoisonError("infer", "BAD_INPUT", "no"))
    assert bench.committed() == []
    bench.processor.finish(tasks[0], answer(tasks[0]))
    assert [output.topic for output in bench.committed()] == ["results", "dead"]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("fails", [False, True])
@on_virtual_time
async def test_event_that_has_ended_is_freed_without_a_collection_of_garbage(first: int, fails: bool) -> None:
    """Which comes late where much is in flight: until then memory would grow."""

    def alive() -> int:
        return sum(isinstance(each, Journey) for each in gc.get_objects())

    bench = Bench()
    before = alive()
    gc.disable()
    try:
        tasks = (await bench.open((b"k", request_value(text_part("A", "a"), text_part("B", "b")), ())))["text"]
        bench.processor.finish(tasks[first], answer(tasks[first]))
        last = tasks[1 - first]
        bench.processor.finish(last, PoisonError("infer", "BAD_INPUT", "no") if fails else answer(last))
        assert len(bench.committed()) == 1
        del tasks, last
        assert alive() == before
    finally:
        gc.enable()
