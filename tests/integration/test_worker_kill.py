"""A worker killed under load: every request has one answer, by its position."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from headrace.connectors.embedded.state import Endpoints
from tests.integration.avro_ends import delayed
from tests.integration.harness import Scene
from tests.integration.mixed import mixed

EVENTS = 1500
KILL_AFTER = 300
SLOW_EVENTS = 32
SLOW_MS = 4000
"""At the end, so that the load is never over before the worker is killed, however quick the machine."""


def test_worker_killed_under_load_and_restarted_answers_each_request_once(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    with Scene(stack, names("w"), tmp_path) as scene:
        victim, other = scene.worker(0, wait=False), scene.worker(1, wait=False)
        victim.wait_ready()
        other.wait_ready()
        scene.wait_shared(0, 1)
        sent = scene.send_events([*mixed(EVENTS), *(delayed(SLOW_MS, index) for index in range(SLOW_EVENTS))])
        scene.read_until(KILL_AFTER)
        victim.kill()
        assert scene.lag() > 0, "the load was over before the worker was killed"
        victim.start()
        answers = scene.settle(sent)
        assert not any(each.dead for each in answers.values())
        workers = {each.content["worker"] for each in answers.values()}
        assert workers == {f"{scene.group}-0", f"{scene.group}-1"}
