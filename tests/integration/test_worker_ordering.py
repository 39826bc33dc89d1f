"""In which order results come when later requests are done sooner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.connectors.embedded.state import Endpoints
from tests.integration.avro_ends import delayed, output_numbers
from tests.integration.harness import Scene

SLOW_MS = 800


def delay_route(ordering: str) -> list[dict[str, object]]:
    match = {"modality": ["TENSOR"], "explicit": True}
    return [{"name": "delay", "model": "delay", "ordering": ordering, "match": match, "max_concurrency": 8}]


@pytest.mark.parametrize(
    ("ordering", "before_the_slow_one", "after_it"),
    [("partition", set(), [1, 2, 3, 4, 5]), ("key", {1, 3, 5}, [2, 4]), ("none", {1, 2, 3, 4, 5}, [])],
)
def test_results_come_in_the_order_that_the_route_keeps(
    stack: Endpoints,
    names: Callable[[str], str],
    tmp_path: Path,
    ordering: str,
    before_the_slow_one: set[int],
    after_it: list[int],
) -> None:
    """Of six requests in one partition, with two keys in turn, the first is slow."""
    with Scene(stack, names("w"), tmp_path, routes=delay_route(ordering), topics={"partitions": 1}) as scene:
        scene.worker()
        warm = scene.send_events([delayed(0)])
        scene.settle(warm)
        events = [delayed(SLOW_MS if index == 0 else index, index) for index in range(6)]
        sent = scene.send_events(events, key=lambda index: b"ab"[index % 2 : index % 2 + 1])
        scene.settle(sent)
        came = [round(output_numbers(answer)[0]) for answer in scene.answers[1:]]
        slow = came.index(0)
        assert (set(came[:slow]), came[slow + 1 :]) == (before_the_slow_one, after_it)
        if ordering == "key":
            assert came[:slow] == [1, 3, 5]


def test_results_committed_above_a_slow_record_are_not_repeated_after_sigkill(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    """What is done above the committed offset travels in its metadata."""
    with Scene(stack, names("w"), tmp_path, routes=delay_route("none"), topics={"partitions": 1}) as scene:
        worker = scene.worker()
        sent = scene.send_events([delayed(60_000 if index == 10 else index % 3, index) for index in range(200)])
        scene.read_until(199)
        assert scene.lag() == 190
        worker.kill()
        sent += scene.send_events([delayed(0, index) for index in range(200, 250)])
        worker.start()
        scene.read_until(249)
        assert sorted(round(output_numbers(each)[0]) for each in scene.everything()) == [
            *range(10),
            *range(11, 250),
        ]
        assert scene.lag() == 240
