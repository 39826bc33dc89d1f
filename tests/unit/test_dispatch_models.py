"""Models that are not ready while their server is, and models that were replaced while records were on their way."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from headrace.pipeline.errors import PoisonError, UnavailableError
from headrace.pipeline.ports import InferCall, TensorSpec
from tests.unit.dispatch_bench import Bench, raises_for
from tests.unit.fakes import EPOCH_MS, TEXT, on_virtual_time

OTHER_INPUT = replace(TEXT, inputs=(TensorSpec("PROMPT", "BYTES", (1,)),))
OTHER_OUTPUT = replace(TEXT, outputs=(TensorSpec("TEXT", "BYTES", (-1,)), TensorSpec("ANSWER", "BYTES", (1,))))
PATIENCE_SECONDS = 20.0
"""Of the default retry budget."""
UNAVAILABLE = UnavailableError("the model says UNAVAILABLE")


# --- not ready ------------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_version_that_is_not_served_fails_its_record_and_holds_up_no_other() -> None:
    bench = Bench()
    bench.client.not_ready = {("echo", "7")}
    await bench.begin()
    async with asyncio.timeout(1):
        await bench.dispatcher.submit([bench.task(0, version="7"), bench.task(1), bench.task(2, version="7")])
    await asyncio.sleep(1)
    assert bench.codes == {0: "MODEL_NOT_FOUND", 1: "ok", 2: "MODEL_NOT_FOUND"}
    assert "version 7" in str(bench.outcomes[0])


@on_virtual_time
async def test_version_that_was_retired_after_its_record_was_queued_is_not_waited_for() -> None:
    bench = Bench()
    await bench.begin()
    await bench.dispatcher.submit([bench.task(0, version="7")])
    await asyncio.sleep(1)
    bench.client.not_ready = {("echo", "7")}
    await bench.dispatcher.submit([bench.task(1, version="7"), bench.task(2, version="7")])
    await asyncio.sleep(1)
    assert bench.codes == {0: "ok", 1: "MODEL_NOT_FOUND", 2: "MODEL_NOT_FOUND"}


@on_virtual_time
async def test_version_of_a_model_that_is_being_loaded_is_waited_for() -> None:
    bench = Bench()
    bench.client.not_ready = {("echo", "7"), ("echo", "")}
    await bench.begin()
    submitting = asyncio.create_task(bench.dispatcher.submit([bench.task(0, version="7")]))
    await asyncio.sleep(10)
    bench.client.not_ready = set()
    await asyncio.sleep(3)
    assert submitting.done()
    assert bench.codes == {0: "ok"}


@on_virtual_time
async def test_version_that_the_route_names_is_waited_for() -> None:
    bench = Bench(version="7")
    bench.client.not_ready = {("echo", "7")}
    await bench.begin()
    submitting = asyncio.create_task(bench.dispatcher.submit([bench.task(0, version="7")]))
    await asyncio.sleep(10)
    bench.client.not_ready = set()
    await asyncio.sleep(3)
    assert submitting.done()
    assert bench.codes == {0: "ok"}


@pytest.mark.parametrize("known", [False, True], ids=["before its signature is known", "after"])
@on_virtual_time
async def test_model_that_is_loaded_again_in_time_costs_nothing(known: bool, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(retries={"max_attempts": 3})  # 15 s
    await bench.begin()
    if known:
        await bench.submit(0)
        await asyncio.sleep(1)
    bench.client.not_ready = {("echo", "")}
    submitting = asyncio.create_task(bench.submit(1, 2))
    await asyncio.sleep(12)
    assert bench.health.waiting_for == ()  # it is not the server that is waited for
    assert "waiting for model echo: echo version latest is not at ready state" in caplog.text
    bench.client.not_ready = set()
    await asyncio.sleep(3)
    assert submitting.done()
    assert (bench.codes[1], bench.codes[2]) == ("ok", "ok")
    assert bench.tasks[-1].attempts == 1


@pytest.mark.parametrize("known", [False, True], ids=["before its signature is known", "after"])
@on_virtual_time
async def test_model_that_stays_away_while_its_server_is_ready_makes_dead_letters(known: bool) -> None:
    bench = Bench()
    await bench.begin()
    if known:
        await bench.submit(0)
        await asyncio.sleep(1)
    bench.client.not_ready = {("echo", "")}
    submitting = asyncio.create_task(bench.submit(1, 2, 3))
    await asyncio.sleep(PATIENCE_SECONDS - 0.1)
    assert len(bench.outcomes) == known
    await asyncio.sleep(3)
    assert submitting.done()
    assert [bench.codes[offset] for offset in (1, 2, 3)] == ["MODEL_UNAVAILABLE"] * 3
    assert "did not answer for 2" in str(bench.outcomes[1])
    assert "is not at ready state" in str(bench.outcomes[1])


@on_virtual_time
async def test_time_without_a_server_is_not_held_against_its_model() -> None:
    bench = Bench()
    bench.client.not_ready = {("echo", "")}
    await bench.begin()
    bench.client.up = False
    submitting = asyncio.create_task(bench.submit(0))
    await asyncio.sleep(600)
    assert bench.health.waiting_for == ("triton",)
    bench.client.up = True
    await asyncio.sleep(PATIENCE_SECONDS - 5)
    bench.client.not_ready = set()
    await asyncio.sleep(3)
    assert submitting.done()
    assert bench.codes == {0: "ok"}


@on_virtual_time
async def test_record_that_its_model_calls_unavailable_is_found_in_its_batch() -> None:
    bench = Bench()
    bench.client.script = raises_for(UNAVAILABLE, "t1")
    await bench.begin()
    await bench.submit(0, 1, 2, 3)
    await asyncio.sleep(PATIENCE_SECONDS + 5)
    assert bench.codes == {0: "ok", 1: "MODEL_UNAVAILABLE", 2: "ok", 3: "ok"}
    assert bench.health.waiting_for == ()


@on_virtual_time
async def test_record_that_kills_its_model_is_given_up_although_the_server_is_restarted_each_time() -> None:
    bench = Bench()
    bench.client.script = lambda call: UNAVAILABLE
    await bench.begin()
    await bench.submit(0)
    for _ in range(5):
        await asyncio.sleep(8)
        bench.client.up = False
        await asyncio.sleep(8)
        bench.client.up = True
    assert bench.codes == {0: "MODEL_UNAVAILABLE"}


@on_virtual_time
async def test_deadline_ends_the_wait_for_a_signature() -> None:
    bench = Bench()
    bench.client.up = False
    await bench.begin()
    submitting = asyncio.create_task(bench.dispatcher.submit([bench.task(0, deadline_ms=EPOCH_MS + 10_000)]))
    await asyncio.sleep(15)
    assert submitting.done()
    assert bench.codes == {0: "DEADLINE_EXCEEDED"}


@on_virtual_time
async def test_lost_partition_ends_the_wait_for_a_signature() -> None:
    bench = Bench()
    bench.client.up = False
    await bench.begin()
    submitting = asyncio.create_task(bench.submit(*range(20)))
    await asyncio.sleep(60)
    assert not submitting.done()
    await bench.source.lose()
    await asyncio.sleep(3)
    assert submitting.done()
    assert bench.outcomes == {}


# --- replaced -------------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_answer_of_a_model_that_was_replaced_is_read_by_its_new_signature() -> None:
    bench = Bench()
    await bench.begin()
    await bench.submit(0)
    await asyncio.sleep(1)
    bench.client.models["echo"] = replace(TEXT, outputs=(TensorSpec("ANSWER", "BYTES", (1,)),))
    for offset in (1, 2):
        await bench.submit(offset)
        await asyncio.sleep(1)
    assert bench.codes == {0: "ok", 1: "ok", 2: "ok"}
    assert bench.client.batches == [1, 1, 1]
    assert bench.client.asked == {"echo": 2}


@on_virtual_time
async def test_model_whose_answers_are_bad_by_its_own_signature_is_asked_once_more_and_not_called_again() -> None:
    bench = Bench()
    bench.client.models["echo"] = OTHER_OUTPUT
    await bench.begin()
    await bench.submit(0, 1)
    await asyncio.sleep(5)
    assert bench.codes == {0: "BAD_MODEL_OUTPUT", 1: "BAD_MODEL_OUTPUT"}
    assert bench.client.batches == [2]
    assert bench.client.asked == {"echo": 2}


@pytest.mark.parametrize("records", [1, 3])
@on_virtual_time
async def test_records_prepared_for_a_model_that_was_replaced_are_prepared_again(records: int) -> None:
    bench = Bench()
    await bench.begin()
    await bench.submit(0)
    await asyncio.sleep(1)
    bench.client.models["echo"] = OTHER_INPUT
    await bench.submit(*range(1, records + 1))
    await asyncio.sleep(5)
    assert bench.codes == dict.fromkeys(range(records + 1), "ok")
    assert bench.client.batches == [1, records, records]
    assert bench.client.asked == {"echo": 2}


@on_virtual_time
async def test_records_prepared_before_and_after_a_model_was_replaced_share_no_call() -> None:
    bench = Bench(max_concurrency=1)
    bench.client.latency_seconds = 5
    await bench.begin()
    await bench.submit(0)
    await asyncio.sleep(1)
    await bench.submit(1)  # waits for the call of 0, which comes back to wait behind it
    bench.client.models["echo"] = OTHER_INPUT
    await asyncio.sleep(30)
    assert bench.codes == {0: "ok", 1: "ok"}
    assert [sorted(call.inputs) for call in bench.client.calls] == [["IN"], ["IN"], ["PROMPT"]]


@on_virtual_time
async def test_record_that_does_not_fit_the_model_any_more_is_refused() -> None:
    bench = Bench()
    await bench.begin()
    await bench.submit(0)
    await asyncio.sleep(1)
    bench.client.models["echo"] = replace(TEXT, inputs=(TensorSpec("PIXELS", "UINT8", (3,)),))
    await bench.submit(1)
    await asyncio.sleep(5)
    outcome = bench.outcomes[1]
    assert isinstance(outcome, PoisonError)
    assert outcome.stage == "prepare"


@on_virtual_time
async def test_model_that_changes_with_every_look_keeps_no_record_for_ever() -> None:
    bench = Bench()
    looks = 0

    def change(call: InferCall) -> None:
        nonlocal looks
        looks += 1
        bench.client.models["echo"] = (OTHER_INPUT, TEXT)[looks % 2 == 0]

    bench.client.script = change
    await bench.begin()
    await bench.submit(0)
    await asyncio.sleep(60)
    assert bench.codes == {0: "INVALID_INPUT"}
    assert bench.client.batches == [1, 1]


@on_virtual_time
async def test_server_that_goes_while_its_signature_is_asked_for_again_is_waited_for() -> None:
    bench = Bench()
    await bench.begin()
    await bench.submit(0)
    await asyncio.sleep(1)

    def restart(call: InferCall) -> None:
        bench.client.up = False

    bench.client.script = restart
    bench.client.models["echo"] = OTHER_INPUT
    await bench.submit(1)
    await asyncio.sleep(60)
    bench.client.script = lambda call: None
    bench.client.up = True
    await asyncio.sleep(3)
    assert bench.codes == {0: "ok", 1: "ok"}
