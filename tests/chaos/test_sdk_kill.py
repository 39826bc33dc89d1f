"""Callers of the SDK while workers are killed: each call has one answer, its own, or says that time is up."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import numpy as np

from headrace import InferenceClient, InferenceResult, InferenceTimeoutError, ResultConsumer, Unreadable, to_array
from headrace.connectors.embedded.state import Endpoints
from tests.integration.harness import Scene, wait_until
from tests.integration.sdk_scene import sdk_settings

IN_FLIGHT = 250
KILLS = 4
SHORT_SECONDS = 1.5
"""Less than a worker needs to come back: some of these calls must time out."""
LONG_SECONDS = 60.0
IMPATIENT = 5
"""One call of so many has a short time-out."""
ROUTE = {
    "name": "delay",
    "model": "delay",
    "match": {"modality": ["TENSOR"]},
    "batch": {"max_records": 64},
    "ordering": "none",
}


class Callers:
    """Keeps so many calls in flight; each asks for a number of its own to come back."""

    def __init__(self, client: InferenceClient) -> None:
        self._client = client
        self._stopping = threading.Event()
        self._slots = threading.Semaphore(IN_FLIGHT)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run)
        self.outcomes: dict[int, list[str]] = {}

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No further call; waits for those in flight."""
        self._stopping.set()
        self._thread.join(10)
        wait_until(lambda: self._client.in_flight == 0, LONG_SECONDS + 5, "the calls in flight")

    def counts(self) -> Counter[str]:
        with self._lock:
            return Counter(outcome for outcomes in self.outcomes.values() for outcome in outcomes)

    def wait_for(self, more: int, outcome: str) -> None:
        known = self.counts()[outcome]
        wait_until(lambda: self.counts()[outcome] >= known + more, 60, f"{more} more calls that are {outcome}")

    def _run(self) -> None:
        number = 0
        while not self._stopping.is_set():
            self._slots.acquire()
            with self._lock:
                self.outcomes[number] = []
            future = self._client.submit(
                np.array([number], "f4"),
                model="delay",
                parameters={"delay_ms": 200.0 + 50 * (number % 4)},  # few values: those of one share infer calls
                key=f"k{number % 50}",
                timeout_seconds=LONG_SECONDS if number % IMPATIENT else SHORT_SECONDS,
            )
            future.add_done_callback(partial(self._done, number))
            number += 1

    def _done(self, number: int, future: Future[InferenceResult]) -> None:
        error = future.exception()
        if isinstance(error, InferenceTimeoutError):
            outcome = "timed out"
        elif error is not None:
            outcome = repr(error)
        else:
            (named,) = future.result().outputs[0].tensors
            outcome = "answered" if to_array(named.tensor).tolist() == [number] else "answered with another's result"
        with self._lock:
            self.outcomes[number].append(outcome)
        self._slots.release()


def test_calls_in_flight_while_workers_are_killed_end_once_each(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    with Scene(stack, names("w"), tmp_path, routes=[ROUTE]) as scene:
        workers = [scene.worker(0), scene.worker(1)]
        scene.wait_shared(0, 1)
        settings = sdk_settings(tmp_path, stack)
        with InferenceClient(settings) as client, ResultConsumer(settings, dead_letters=True) as consumer:
            callers = Callers(client)
            callers.start()
            began = time.monotonic()
            for kill in range(KILLS):
                victims = workers if kill % 2 else workers[:1]
                callers.wait_for(200, "answered")
                wait_until(lambda: client.in_flight >= 200, 60, "200 calls in flight")
                for worker in victims:
                    worker.kill()
                callers.wait_for(1, "timed out")
                for worker in victims:
                    worker.start()
                    worker.wait_ready()
            callers.stop()
            seconds = time.monotonic() - began
            late = client.late_replies
            read = list(consumer.until_idle(10))
    counts = callers.counts()
    print(
        f"{len(callers.outcomes)} calls in {seconds:.0f} s: {dict(counts)}; {late} late replies; {len(read)} outcomes"
    )
    assert {number: found for number, found in callers.outcomes.items() if len(found) != 1} == {}
    assert counts.keys() == {"answered", "timed out"}
    assert counts["answered"] > KILLS * 200
    timed_out = {number for number, (outcome,) in callers.outcomes.items() if outcome == "timed out"}
    assert {number for number in timed_out if number % IMPATIENT} == set(), "calls with time enough were not answered"
    assert late <= len(timed_out)
    positions = {received.content.provenance for received in read if not isinstance(received.content, Unreadable)}
    assert len(positions) == len(read) == len(callers.outcomes), "a request has not one committed outcome"
