"""Records at a steady rate, and how long each takes to be answered, as a ``read_committed`` consumer sees it."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Collection, Sequence
from typing import cast

from confluent_kafka import Producer

from headrace.pipeline.pacing import Pace
from tests.integration.harness import Scene

KEYS = 10_000
LATE_SECONDS = 30.0
"""After the last record is sent all must be answered in this time."""


class SteadyLoad:
    """Sends to a scene and reads its answers in one process, so that one clock times both.

    Args:
        scene: whose workers answer. Nothing else is sent to it meanwhile.
        rate: records a second.
        resolution_seconds: an answer is seen at most this long after it has come.
    """

    def __init__(self, scene: Scene, rate: float, resolution_seconds: float) -> None:
        self._scene = scene
        self._rate = rate
        self._resolution_seconds = resolution_seconds
        self._rng = random.Random(1)
        self._producer = Producer(
            {"bootstrap.servers": scene.endpoints.bootstrap_servers, "enable.idempotence": True, "linger.ms": 0}
        )

    def latencies(self, values: Sequence[bytes], left_out: Collection[int] = ()) -> list[float]:
        """Send them all.

        Returns:
            Seconds from when it was due to be sent to the answer, of each record but those whose index is left out.
        """
        return [seconds for _, seconds in self.timed(values, left_out)]

    def timed(self, values: Sequence[bytes], left_out: Collection[int] = ()) -> list[tuple[float, float]]:
        """As ``latencies``, and before each of them the monotonic time at which its record was due to be sent."""
        before = len(self._scene.answers)
        sent_at: dict[int, float] = {}
        found: list[tuple[float, float]] = []
        sender = threading.Thread(target=self._send, args=(values, sent_at))
        sender.start()
        try:
            deadline = time.monotonic() + len(values) / self._rate + LATE_SECONDS
            while len(self._scene.answers) < before + len(values):
                fresh = self._scene.read(self._resolution_seconds)
                now = time.monotonic()
                for answer in fresh:
                    assert not answer.dead, answer.content
                    number = int(cast("bytes", answer.header("correlation_id")))
                    if number not in left_out:
                        found.append((sent_at[number], now - sent_at[number]))
                assert now < deadline, "not all are answered"
        finally:
            sender.join()
        return found

    def _send(self, values: Sequence[bytes], sent_at: dict[int, float]) -> None:
        pace = Pace(self._rate, time.monotonic(), math.inf)
        for number, value in enumerate(values):
            now = time.monotonic()
            left = pace.wait_seconds(now)
            sent_at[number] = now + left  # also if this is late: whoever waits began to then
            time.sleep(max(0.0, left))
            pace.take(time.monotonic())
            key = b"k%d" % self._rng.randrange(KEYS)
            self._producer.produce(self._scene.requests, value, key, headers=[("correlation_id", b"%d" % number)])
            self._producer.poll(0)
        self._producer.flush(30)


def percentile(latencies: Sequence[float], share: float) -> float:
    return sorted(latencies)[int(share * (len(latencies) - 1))]
