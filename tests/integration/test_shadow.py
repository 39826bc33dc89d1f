"""A route with a shadow, on the real servers: results are what they were, shadows those of the sample, each once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace.connectors.embedded.state import Endpoints
from headrace.pipeline.replay.chosen import sampled
from tests.integration.avro_ends import Answer, Datum, Position, delayed, event, numbers, output, output_numbers
from tests.integration.harness import Scene, Sent, wait_until

EVENTS = 800
KILL_AFTER = 200
SLOW_EVENTS = 32
SLOW_MS = 3000
"""At the end, for shadows alone: so that the load is never over before the worker is killed."""
STOP_MS = 8000
"""So long shadows would take that a worker is told to stop meanwhile."""
SHARE = 0.5
BATCH = 64
CALLS = 8
"""Of the shadow at a time: so that it has room for the whole load, and none is skipped."""
PATIENCE_SECONDS = 30


class Shadowed(Scene):
    """A scene whose one route has a shadow."""

    def __init__(self, endpoints: Endpoints, prefix: str, folder: Path, **shadow: Any) -> None:
        self.shadow = f"{prefix}.shadow"
        batch = {"max_records": BATCH}
        route = {"name": "tensors", "model": "identity", "ordering": "none", "batch": batch, "shadow": shadow}
        super().__init__(endpoints, prefix, folder, routes=[route], topics={"shadow": self.shadow})

    def shadows(self) -> list[Answer]:
        """All that is in the shadow topic."""
        live, self.output_topics = self.output_topics, [self.shadow]
        try:
            return self.everything()
        finally:
            self.output_topics = live


def slow(index: int, delay_ms: int = SLOW_MS) -> Datum:
    """An event that only the shadow's model takes its time for."""
    return delayed(delay_ms, index) | {"model": None}


def in_sample(events: list[Datum], sent: list[Sent]) -> set[Position]:
    return {record.position for datum, record in zip(events, sent, strict=True) if sampled(str(datum["id"]), SHARE)}


def test_worker_killed_midway_writes_each_result_and_each_shadow_of_the_sample_once(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    shadow = {"model": "delay", "share": SHARE, "patience_seconds": PATIENCE_SECONDS, "max_concurrency": CALLS}
    scene = Shadowed(stack, names("w"), tmp_path, **shadow)
    with scene:
        worker = scene.worker()
        events = [*(event(numbers(index)) for index in range(EVENTS)), *(slow(index) for index in range(SLOW_EVENTS))]
        sent = scene.send_events(events)
        scene.read_until(KILL_AFTER)
        worker.kill()
        assert scene.lag() > 0, "the load was over before the worker was killed"
        worker.start()
        found = scene.settle(sent)
        wanted = in_sample(events, sent)
        shadows = scene.shadows()
        assert EVENTS / 3 < len(wanted) < EVENTS
        assert Counter(each.answers for each in shadows) == Counter(wanted)
        for index, record in enumerate(sent[:EVENTS]):
            answer = found[record.position]
            assert output_numbers(answer) == (index,)
            (only,) = answer.content["outputs"]
            assert (only["route"], only["model"]) == ("tensors", "identity")
        for each in shadows:
            result = found[each.answers]
            (only,) = each.content["outputs"]
            assert (only["route"], only["model"], only["model_version"]) == ("tensors", "delay", "1")
            assert only["tensors"][0]["tensor"] == output(result)["tensors"][0]["tensor"]
            assert (each.key, each.header("ce_type")) == (result.key, b"io.headrace.shadow")
            assert each.content["request_id"] == result.content["request_id"]


def test_shadow_model_that_does_not_exist_holds_up_no_result(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    scene = Shadowed(stack, names("w"), tmp_path, model="nowhere", patience_seconds=PATIENCE_SECONDS)
    with scene:
        worker = scene.worker()
        began = time.monotonic()
        sent = scene.send_events([event(numbers(index)) for index in range(EVENTS)])
        found = scene.settle(sent)
        assert time.monotonic() - began < PATIENCE_SECONDS
        assert not any(each.dead for each in found.values())
        assert scene.shadows() == []
        assert worker.readyz() == (200, "ok\n")
        counts = {
            outcome: worker.metric(f'headrace_shadow_total{{outcome="{outcome}",route="tensors"}}')
            for outcome in ("failed", "skipped", "late")
        }
        assert counts["failed"] >= 1
        assert (counts["failed"] + counts["skipped"], counts["late"]) == (EVENTS, 0)


def test_worker_that_is_told_to_stop_waits_for_no_shadow(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    scene = Shadowed(stack, names("w"), tmp_path, model="delay", patience_seconds=PATIENCE_SECONDS)
    with scene:
        worker = scene.worker()
        quick = scene.send_events([event(numbers(index)) for index in range(8)])
        scene.settle(quick)
        sent = scene.send_events([slow(index, STOP_MS) for index in range(8)])
        every = [*quick, *sent]
        wait_until(lambda: worker.metric('headrace_results_total{route="tensors"}') == len(every), 10, "the results")
        assert scene.read(0.5) == [], "they wait for their shadows"
        assert worker.terminate() == 0
        scene.settle(every)
        assert {each.answers for each in scene.shadows()} == {each.position for each in quick}
