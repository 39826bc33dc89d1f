"""A rebalance that comes while a worker has no room for more records, so that its partitions are paused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from headrace.connectors.embedded.state import Endpoints
from tests.integration.avro_ends import delayed
from tests.integration.harness import Scene

ROOM = 8
EVENTS = 8 * ROOM
DELAY_MS = 2500
"""Far longer than a worker waits for room before it pauses: nearly always its partitions are paused."""
ONE_CALL_AT_A_TIME = [
    {"name": "delay", "model": "delay", "match": {"modality": ["TENSOR"], "explicit": True}, "max_concurrency": 1}
]


def test_worker_without_room_goes_on_after_another_joins_and_leaves(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    limits = {"max_in_flight_records": ROOM}
    with Scene(stack, names("w"), tmp_path, routes=ONE_CALL_AT_A_TIME, worker=limits) as scene:
        first = scene.worker(0)
        sent = scene.send_events([delayed(DELAY_MS, index) for index in range(EVENTS)])
        scene.read_until(1)
        second = scene.worker(1)
        scene.wait_shared(0, 1)
        scene.read_until(len(scene.answers) + ROOM)
        assert second.terminate() == 0
        scene.wait_shared(0)
        assert scene.lag() > ROOM, "the load was over before the second worker left"
        scene.settle(sent)
        assert first.running
