"""What a route's shadow answers goes with the results, and costs them nothing but its patience."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from headrace.pipeline.config import Settings
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.headers import SHADOW_TYPE
from headrace.pipeline.records import Modality, Part
from headrace.pipeline.replay.chosen import sampled
from headrace.pipeline.replay.manifest import Pin
from headrace.pipeline.replay.rules import ReplayRules
from tests.unit.fakes import TEXT, LoopClock, on_virtual_time, request, text_part
from tests.unit.shadow_bench import Bench


def test_shadow_topic_is_nothing_else_s_where_a_route_has_a_shadow() -> None:
    topics = {"results": "mine", "shadow": "mine"}
    with pytest.raises(ValueError, match=r"mine is topics\.shadow, and nothing else's"):
        Bench(topics=topics)
    plain = {"name": "text", "model": "echo"}
    assert Settings.model_validate({"name": "mill", "topics": topics, "routes": [plain]}).topics.shadow == "mine"


# --- which events ---------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_shadow_of_every_event_is_written_with_its_result() -> None:
    bench = Bench()
    await bench.begin(5)
    await asyncio.sleep(0.5)
    assert bench.written("results") == bench.written("shadow") == [0, 1, 2, 3, 4]
    bench.check_together()
    live, shadow = bench.results()[3], bench.results("shadow")[3]
    assert [(out.part, out.route, out.model, out.model_version) for out in live.outputs] == [
        ("text", "text", "echo", "1")
    ]
    assert [(out.part, out.route, out.model, out.model_version) for out in shadow.outputs] == [
        ("text", "text", "echo", "2")
    ]
    assert (shadow.request_id, shadow.provenance, shadow.worker) == (live.request_id, live.provenance, live.worker)
    assert bench.counted == {"answered": 5}
    await bench.stop()


@on_virtual_time
async def test_shadow_record_has_the_event_s_key_and_says_what_it_is() -> None:
    bench = Bench()
    await bench.begin()
    bench.send(0, key=b"k", headers=(("correlation_id", b"order-7"),))
    await bench.take()
    await asyncio.sleep(0.5)
    result, shadow = bench.broker.outputs
    assert (result.topic, shadow.topic, shadow.key, shadow.partition) == ("results", "shadow", b"k", None)
    types = [dict(each.headers)["ce_type"] for each in (result, shadow)]
    assert types == [b"io.headrace.result", SHADOW_TYPE]
    assert {dict(each.headers)["ce_id"] for each in (result, shadow)} == {b"requests-0-0"}
    assert dict(shadow.headers)["correlation_id"] == b"order-7"
    await bench.stop()


@pytest.mark.parametrize("share", [0.1, 0.5])
@on_virtual_time
async def test_shadow_answers_the_events_that_a_replay_s_sample_takes(share: float) -> None:
    bench = Bench({"share": share})
    await bench.begin(60)
    await asyncio.sleep(0.5)
    wanted = [number for number in range(60) if sampled(request(number=number).id, share)]
    assert 0 < len(wanted) < 60
    assert sorted(bench.written("results")) == list(range(60))
    assert bench.written("shadow") == wanted
    assert len(bench.model.texts("2")) == len(wanted), "what is not in the sample costs nothing"
    await bench.stop()


@pytest.mark.parametrize(
    ("fields", "shadows"),
    [
        ({"model": "echo"}, 1),
        ({"model": "echo", "model_version": "1"}, 0),
        ({"model": "echo", "model_version": "2"}, 0),
    ],
)
@on_virtual_time
async def test_event_that_names_another_version_than_the_route_s_has_no_shadow(
    fields: dict[str, Any], shadows: int
) -> None:
    bench = Bench()
    await bench.begin(1, **fields)
    await asyncio.sleep(0.5)
    assert (len(bench.written("results")), len(bench.written("shadow"))) == (1, shadows)
    await bench.stop()


@on_virtual_time
async def test_shadow_holds_the_parts_of_the_routes_that_have_one() -> None:
    plain = {"name": "note", "model": "echo"}
    bench = Bench({"model": "rival", "version": ""}, (plain,), {"match": {"content_type": ["text/plain"]}})
    await bench.begin()
    bench.send(0, text_part("a", "first"), Part("note", Modality.TEXT, "text/html", "b"))
    await bench.take()
    await asyncio.sleep(0.5)
    assert [(out.part, out.model) for out in bench.results()[0].outputs] == [("first", "echo"), ("note", "echo")]
    assert [(out.part, out.model) for out in bench.results("shadow")[0].outputs] == [("first", "rival")]
    await bench.stop()


@on_virtual_time
async def test_replay_has_no_shadow() -> None:
    rules = ReplayRules(frozenset(), {"text": Pin("text", "echo", "1", forced=False)})
    bench = Bench(route={"version": "1"}, rules=rules)
    await bench.begin(3)
    await asyncio.sleep(0.5)
    assert (bench.written("results"), bench.written("shadow")) == ([0, 1, 2], [])
    assert bench.model.texts("2") == []
    await bench.stop()


# --- time -----------------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_times_of_a_result_are_those_of_live_alone(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.model.seconds["2"] = 0.5
    await bench.begin(1)
    await asyncio.sleep(1)
    live, shadow = bench.results()[0], bench.results("shadow")[0]
    assert live.timings.inference_ms == pytest.approx(10)
    assert shadow.completed_ms - live.completed_ms == 500
    assert shadow.timings.inference_ms == pytest.approx(510)
    await asyncio.sleep(2)  # past the patience that nobody has any more
    assert not [each for each in caplog.records if each.levelname == "ERROR"]
    await bench.stop()


@on_virtual_time
async def test_result_goes_without_a_shadow_that_is_late() -> None:
    bench = Bench()
    bench.model.seconds["2"] = 5.0
    await bench.begin(1)
    await asyncio.sleep(0.9)
    assert bench.written("results") == []
    await asyncio.sleep(0.2)
    assert (bench.written("results"), bench.counted) == ([0], {"late": 1})
    await asyncio.sleep(10)
    assert bench.written("shadow") == []
    await bench.stop()


@on_virtual_time
async def test_shadow_that_nobody_waits_for_is_not_inferred() -> None:
    bench = Bench({"max_concurrency": 1})
    bench.model.models["echo"] = replace(TEXT, max_batch_size=1)
    bench.model.seconds["2"] = 0.6
    await bench.begin(5)
    await asyncio.sleep(10)
    assert (sorted(bench.written("results")), bench.written("shadow")) == ([0, 1, 2, 3, 4], [0])
    assert (len(bench.model.texts("2")), bench.counted) == (2, {"answered": 1, "late": 4})
    await bench.stop()


@on_virtual_time
async def test_shadow_that_is_there_first_waits_for_the_result() -> None:
    bench = Bench({"patience_seconds": 0})
    bench.model.seconds[""] = 3.0
    await bench.begin(1)
    await asyncio.sleep(4)
    assert bench.written("results") == bench.written("shadow") == [0]
    bench.check_together()
    await bench.stop()


@on_virtual_time
async def test_what_waits_for_its_shadow_holds_up_its_own_key_alone() -> None:
    shares = [number for number in range(40) if sampled(request(number=number).id, 0.2)]
    first = shares[0]
    others = [number for number in range(40) if number not in shares][:2]
    bench = Bench({"share": 0.2})
    bench.model.seconds["2"] = 60.0
    await bench.begin()
    for number, key in ((first, b"a"), (others[0], b"a"), (others[1], b"b")):
        bench.send(number, key=key)
    await bench.take()
    await asyncio.sleep(0.5)
    assert bench.written("results") == [2]
    await asyncio.sleep(1)
    assert bench.written("results") == [2, 0, 1]
    await bench.stop()


@on_virtual_time
async def test_shadow_past_the_event_s_deadline_is_not_inferred() -> None:
    bench = Bench({"max_concurrency": 1}, route={"batch": {"max_records": 1}})
    bench.model.seconds["2"] = 0.5
    await bench.begin(1)
    await asyncio.sleep(1)
    for number in range(1, 3):
        bench.send(number, headers=(("deadline", b"%d" % (LoopClock().epoch_ms() + 300)),))
    await bench.take()
    await asyncio.sleep(2)
    assert (sorted(bench.written("results")), bench.written("shadow")) == ([0, 1, 2], [0, 1])  # without keys: no order
    assert (len(bench.model.texts("2")), bench.counted) == (2, {"answered": 2, "failed": 1})
    await bench.stop()


# --- what ends the waiting ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shadow_seconds", [0.0, 5.0])
@on_virtual_time
async def test_dead_letter_goes_at_once_and_alone(shadow_seconds: float) -> None:
    bench = Bench()
    bench.model.script = lambda call: None if call.version else PoisonError("infer", "INVALID_INPUT", "no")
    bench.model.seconds = {"": 0.1, "2": shadow_seconds}
    await bench.begin(1)
    await asyncio.sleep(0.2)
    assert (bench.written("dead"), bench.written("shadow")) == ([0], [])
    assert bench.counted == {"dropped": 1}
    await asyncio.sleep(10)
    assert bench.written("shadow") == []
    await bench.stop()


@on_virtual_time
async def test_drain_waits_for_live_calls_and_for_no_shadow() -> None:
    bench = Bench({"patience_seconds": 60})
    bench.model.seconds = {"": 2.0, "2": 50.0}
    await bench.begin(2)
    await asyncio.sleep(3)
    bench.model.seconds[""] = 1.0
    bench.send(2)
    await bench.take()
    await asyncio.sleep(0.1)
    assert bench.written("results") == []
    began = LoopClock().monotonic()
    await bench.stop()
    assert bench.written("results") == [0, 1, 2]
    assert LoopClock().monotonic() - began == pytest.approx(0.91, abs=0.05)
    assert bench.counted == {"dropped": 3}
    bench.check_together()


@on_virtual_time
async def test_event_of_a_lost_partition_is_shadowed_by_whom_it_is_processed_again() -> None:
    bench = Bench({"patience_seconds": 60})
    bench.model.seconds["2"] = 5.0
    await bench.begin(3)
    await asyncio.sleep(1)
    await bench.source.lose()
    assert bench.counted == {"dropped": 3}
    await asyncio.sleep(10)
    assert bench.broker.outputs == []
    await bench.source.assign(bench.connections.to_assign[0])
    await bench.take()
    await asyncio.sleep(10)
    assert bench.written("results") == bench.written("shadow") == [0, 1, 2]
    bench.check_together()
    await bench.stop()
    assert bench.source.budget.records == 0
