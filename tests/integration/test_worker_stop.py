"""How workers end: by SIGTERM, under load and while they wait; and what their slots keep apart."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from headrace.connectors.embedded.ports import LOOPBACK, PortReservation
from headrace.connectors.embedded.state import Endpoints
from tests.integration.avro_ends import delayed, event, numbers
from tests.integration.harness import DRAIN_SECONDS, Scene, WorkerProcess, wait_until

EVENTS = 600


def test_sigterm_under_load_drains_and_leaves_the_group(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    """No partition waits for the session time-out, and the successor repeats nothing."""
    with Scene(stack, names("w"), tmp_path, kafka={"session_timeout_seconds": 60}) as scene:
        first = scene.worker(0)
        events = [delayed(500, index) if index % 2 else event(numbers(index)) for index in range(EVENTS)]
        sent = scene.send_events(events)
        scene.read_until(EVENTS // 10)
        began = time.monotonic()
        assert first.terminate() == 0
        assert time.monotonic() - began < DRAIN_SECONDS + 5
        assert scene.members() == {}
        drained = len(scene.everything())
        assert drained < EVENTS, "the load was over before the worker was stopped"
        scene.worker(1)
        scene.settle(sent)


def test_idle_worker_ends_at_once(stack: Endpoints, names: Callable[[str], str], tmp_path: Path) -> None:
    with Scene(stack, names("w"), tmp_path) as scene:
        worker = scene.worker()
        assert worker.terminate(4.0) == 0
        assert "Traceback" not in worker.log


def test_worker_that_waits_for_servers_ends_at_once(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    with PortReservation() as ports, Scene(stack, names("w"), tmp_path) as scene:
        nobody = f"{LOOPBACK}:{ports.take()}"
        variables = {
            "kafka": ("HEADRACE_KAFKA__BOOTSTRAP_SERVERS", nobody),
            "registry": ("HEADRACE_REGISTRY__URL", f"http://{nobody}"),
        }
        for name, (variable, address) in variables.items():
            worker = scene.worker(wait=False, environment={variable: address})
            wait_until(partial(_logged, worker, f"waiting for {name}: "), 30, "a line in the log")
            assert worker.readyz() == (503, f"waiting for {name}\n")
            assert worker.terminate(8.0) == 0
            assert "Traceback" not in worker.log


def _logged(worker: WorkerProcess, text: str) -> bool:
    return text in worker.log


def test_second_holder_of_a_slot_ends_and_the_first_goes_on(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    with Scene(stack, names("w"), tmp_path) as scene:
        first = scene.worker(0)
        assigned = first.log.count("assigned")
        sent = scene.send_events([delayed(30, index) for index in range(100)])
        second = scene.worker(0, wait=False)
        assert second.wait_ended(20) == 3
        told = [line for line in second.log.splitlines() if line.startswith("headrace: ")]
        assert len(told) == 1
        assert re.search(r"slot 0 is held by process \d+ on this machine: stop that worker, or give", told[0])
        assert "Traceback" not in second.log
        scene.settle(sent)
        assert first.running
        assert first.log.count("assigned") == assigned, "no rebalance"
