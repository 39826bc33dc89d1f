"""Workers that vanish, or seem to: another takes over, and every request has one answer."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.connectors.embedded.state import Endpoints
from tests.integration.harness import SESSION_SECONDS, Scene, WorkerProcess, wait_until
from tests.integration.mixed import mixed

EVENTS = 1500
KAFKA = {"transaction_timeout_seconds": 5}
"""A transaction that its worker left open holds up the readers until the broker aborts it."""


def two_workers(scene: Scene) -> tuple[WorkerProcess, WorkerProcess]:
    first, second = scene.worker(0, wait=False), scene.worker(1, wait=False)
    first.wait_ready()
    second.wait_ready()
    scene.wait_shared(0, 1)
    return first, second


def test_killed_worker_that_stays_away_is_replaced_by_the_other(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    with Scene(stack, names("w"), tmp_path, kafka=KAFKA) as scene:
        first, _ = two_workers(scene)
        sent = scene.send_events(mixed(EVENTS))
        scene.read_until(EVENTS // 5)
        first.kill()
        assert scene.lag() > 0, "the load was over before the worker was killed"
        scene.settle(sent)
        assert scene.members() == {f"{scene.group}-1": 4}


def test_both_workers_killed_again_and_again_answer_each_request_once(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    with Scene(stack, names("w"), tmp_path) as scene:
        workers = two_workers(scene)
        sent = scene.send_events(mixed(2 * EVENTS))
        for kill in range(6):
            victim = workers[kill % 2]
            scene.read_until(min(2 * EVENTS - 1, len(scene.answers) + 200))
            victim.kill()
            victim.start()
            victim.wait_ready()
        scene.settle(sent)


@pytest.mark.parametrize("asleep_seconds", [SESSION_SECONDS / 2, 4 * SESSION_SECONDS])
def test_worker_that_wakes_up_doubles_nothing(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path, asleep_seconds: float
) -> None:
    """A zombie: stopped under load past its session's end, while another answers what it held, or not quite so long."""
    with Scene(stack, names("w"), tmp_path, kafka=KAFKA) as scene:
        zombie, other = two_workers(scene)
        sent = scene.send_events(mixed(EVENTS))
        scene.read_until(EVENTS // 5)
        zombie.signal(signal.SIGSTOP)
        try:
            assert scene.lag() > 0, "the load was over before the worker was stopped"
            if asleep_seconds > SESSION_SECONDS:
                scene.wait_shared(1)
                scene.settle(sent)
            else:
                scene.read_for(asleep_seconds)
        finally:
            zombie.signal(signal.SIGCONT)
        sent += scene.send_events(mixed(EVENTS // 5))
        scene.settle(sent)
        wait_until(lambda: not zombie.running or zombie.readyz()[0] == 200, 30, "the zombie to end or to rejoin")
        assert zombie.running, zombie.log
        scene.wait_shared(0, 1)
        sent += scene.send_events(mixed(EVENTS // 5))
        scene.settle(sent)
        assert other.running
