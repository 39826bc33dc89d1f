"""A model that fails for a while, on the real Triton: its breaker, the fallback, and a lane that waits."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.admin import ensure_topics
from headrace.pipeline.records import TopicSpec
from tests.integration.avro_ends import Datum, event, numbers, output, output_numbers
from tests.integration.harness import Scene, Sent, wait_until

BREAKER = {"failures": 2, "open_seconds": 0.5, "max_open_seconds": 1}
ILL_SECONDS = 15.0
ONE_ATTEMPT = {"max_attempts": 1, "delays": ["1s", "2s", "5s", "10s", "20s"]}


def ill(number: float, until: float) -> Datum:
    """An event that ``delay`` answers with an error until then, in seconds since 1970. It names no model."""
    return event(numbers(number), parameters={"fail": "INTERNAL", "fail_until_ms": int(until * 1000)})


def test_fallback_answers_until_the_model_is_well_again(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    route = {
        "name": "a",
        "model": "delay",
        "breaker": BREAKER,
        "fallback": {"model": "identity"},
        "retries": ONE_ATTEMPT,
        "batch": {"max_records": 1},
    }
    with Scene(stack, names("scene"), tmp_path, routes=[route]) as scene:
        worker = scene.worker()
        until = time.time() + ILL_SECONDS
        sent = scene.send_events(ill(each, until) for each in range(200))
        scene.read_until(150, ILL_SECONDS)  # although the model is ill
        wait_until(lambda: time.time() > until, ILL_SECONDS + 5, "the model to be well")
        wait_until(lambda: _works(scene, sent, until), 30, "an answer of the model itself")
        answers = scene.settle(sent)
        assert not [each for each in answers.values() if each.dead]
        assert sorted(output_numbers(each)[0] for each in answers.values())[:200] == sorted(map(float, range(200)))
        answered = Counter(output(each)["model"] for each in answers.values())
        assert answered["identity"] >= 150
        assert answered["delay"] >= 1
        assert worker.metric('headrace_breaker_state{model="delay",route="a"}') == 0
        for state in ("open", "half_open", "closed"):
            assert worker.metric(f'headrace_breaker_changes_total{{model="delay",route="a",state="{state}"}}') >= 1


def _works(scene: Scene, sent: list[Sent], until: float) -> bool:
    """Whether one more event is answered by the route's own model. It is sent for that."""
    before = len(scene.answers)
    sent += scene.send_events([ill(1000, until)])
    scene.read_until(before + 1)
    return any(output(each)["model"] == "delay" for each in scene.answers if not each.dead)


def test_lane_waits_in_order_and_everything_else_flows(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    prefix = names("scene")
    lane = f"{prefix}.lane"
    attempts = {"max_attempts": 1000, "initial_backoff_seconds": 0.05, "max_backoff_seconds": 0.05}
    routes = [
        {
            "name": "lane",
            "model": "delay",
            "topics": [lane],
            "breaker": BREAKER,
            "retries": attempts,
            "ordering": "partition",
        },
        {"name": "others", "model": "identity"},
    ]
    ensure_topics(stack.bootstrap_servers, [TopicSpec(lane, 4)])
    with Scene(
        stack,
        prefix,
        tmp_path,
        routes=routes,
        topics={"requests": [f"{prefix}.in", lane]},
        worker={"max_in_flight_records": 50},
    ) as scene:
        worker = scene.worker()
        until = time.time() + ILL_SECONDS
        values = [scene.value(ill(each, until)) for each in range(300)]
        waiting = scene.send(values, topic=lane, partition=2)
        wait_until(lambda: worker.metric('headrace_breaker_state{model="delay",route="lane"}') == 2, 20, "it to open")
        flowing = scene.send_events(event(numbers(each)) for each in range(300))
        scene.read_until(250, ILL_SECONDS)
        assert {each.answers.topic for each in scene.answers} == {scene.requests}
        answers = scene.settle([*waiting, *flowing])
        assert not [each for each in answers.values() if each.dead]
        of_lane = [each for each in answers.values() if each.answers.topic == lane]
        for partition in range(4):
            results = sorted((each for each in of_lane if each.partition == partition), key=lambda each: each.offset)
            offsets = [each.answers.offset for each in results]
            assert offsets == sorted(offsets)


@pytest.mark.parametrize("fault", ["hangs", "answers with errors"])
def test_model_that_is_ill_costs_the_others_nothing(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path, fault: str
) -> None:
    """On one topic: what the model cannot answer now is put off, and what other models answer goes on."""
    route = {
        "name": "a",
        "model": "delay",
        "match": {"explicit": True},
        "breaker": BREAKER,
        "timeout_seconds": 0.5,
        "retries": {"max_attempts": 1, "delays": ["1s", "2s"]} if fault == "hangs" else ONE_ATTEMPT,
        "batch": {"max_records": 1},
    }
    others = {"name": "others", "model": "identity"}
    with Scene(stack, names("scene"), tmp_path, routes=[route, others]) as scene:
        scene.worker()
        until = time.time() + ILL_SECONDS
        fails = {"fail": "INTERNAL", "fail_until_ms": int(until * 1000)}
        parameters = {"delay_ms": 5000} if fault == "hangs" else fails
        bad = [event(numbers(each), model="delay", parameters=parameters) for each in range(40)]
        good = [event(numbers(each)) for each in range(400)]
        mixed = [each for number in range(40) for each in (bad[number], *good[number * 10 : number * 10 + 10])]
        sent = scene.send_events(mixed, partition=0)
        scene.read_until(400, ILL_SECONDS)
        assert time.time() < until
        answers = scene.settle(sent)
        dead = Counter(each.content["code"] for each in answers.values() if each.dead)
        if fault == "hangs":
            assert sum(dead.values()) == 40
            assert set(dead) <= {"RETRIES_EXHAUSTED", "BREAKER_OPEN"}
        else:
            assert not dead
