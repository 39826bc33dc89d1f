"""One, two or three transactional producers in turn: how long a unit's commit takes, and how many go through.

Run: ``python -m tests.bench.producers``; ``--quick`` takes less than a minute. Prints the table of
docs/decisions/007-transactions.md. KafkaTransactions on an embedded broker of its own; the numbers of producers take
turns, on one broker.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from headrace.connectors.embedded.downloads import Downloads
from headrace.connectors.embedded.kafka import KafkaServer
from headrace.connectors.embedded.paths import cache_dir
from headrace.connectors.embedded.ports import PortReservation
from headrace.connectors.embedded.progress import Progress
from headrace.connectors.kafka.admin import ensure_topics
from headrace.pipeline.records import TopicSpec
from tests.integration.transaction_rig import Rig

PRODUCERS = (1, 2, 3)
OUTPUTS = (1, 16, 256)
OUTPUT_BYTES = 1000
RATES = (0, 100)
"""Units per second; 0: the next as soon as one is committed."""
REPETITIONS, SECONDS = 5, 1.5
QUICK_REPETITIONS, QUICK_SECONDS = 1, 1.0
FIRST_UNITS, WARM_UNITS = 300, 20
"""Not measured: of each engine when the broker is new, and before each case."""
Case = tuple[int, int, int]
"""Rate, outputs of a unit, producers."""


@dataclass(slots=True)
class Measured:
    """Of one case, over its repetitions."""

    commit_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    medians_ms: list[float] = field(default_factory=list)
    """Of each repetition."""

    def row(self) -> str:
        tenths = statistics.quantiles(self.commit_ms, n=100)
        spread = f"{min(self.medians_ms):.2f} to {max(self.medians_ms):.2f}"
        return (
            f"{statistics.median(self.commit_ms):.2f} ({spread}) | {tenths[89]:.2f} | {tenths[98]:.2f} | "
            f"{len(self.commit_ms) / self.seconds:.0f}"
        )


class Engine:
    """A rig whose units are numbered on, so that each changes the offsets of the last."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._numbers = itertools.count(1)

    async def commit(self, values: list[bytes]) -> None:
        if not await self._rig.commit(next(self._numbers), *values):
            raise RuntimeError("a unit was dropped, though its partitions are nobody else's")

    async def measure(self, case: Case, seconds: float, into: Measured) -> None:
        rate, outputs, _ = case
        values = [os.urandom(OUTPUT_BYTES) for _ in range(outputs)]
        for _ in range(WARM_UNITS):
            await self.commit(values)
        times_ms: list[float] = []
        began = time.perf_counter()
        for number in itertools.count():
            if rate:
                await asyncio.sleep(max(began + number / rate - time.perf_counter(), 0))
            before = time.perf_counter()
            if before - began > seconds:
                break
            await self.commit(values)
            times_ms.append((time.perf_counter() - before) * 1000)
        into.seconds += time.perf_counter() - began
        into.commit_ms += times_ms
        into.medians_ms.append(statistics.median(times_ms))


async def run(bootstrap_servers: str, repetitions: int, seconds: float) -> dict[Case, Measured]:
    measured: defaultdict[Case, Measured] = defaultdict(Measured)
    async with AsyncExitStack() as stack:
        engines = {}
        for producers in PRODUCERS:
            name = f"producers-{producers}-{uuid.uuid4().hex[:8]}"
            ensure_topics(bootstrap_servers, [TopicSpec(f"{name}.requests", 2), TopicSpec(f"{name}.results", 1)])
            rig = await stack.enter_async_context(Rig(bootstrap_servers, bootstrap_servers, name, producers=producers))
            await rig.start()
            engines[producers] = Engine(rig)
            for _ in range(FIRST_UNITS):
                await engines[producers].commit([b"warm"])
        for number in range(repetitions):
            for rate, outputs in itertools.product(RATES, OUTPUTS):
                for producers in PRODUCERS[:: -1 if number % 2 else 1]:
                    case = rate, outputs, producers
                    await engines[producers].measure(case, seconds, measured[case])
            print(f"{number + 1} of {repetitions}, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description="One, two or three transactional producers in turn.")
    parser.add_argument("--quick", action="store_true", help="one short repetition")
    quick = parser.parse_args().quick
    repetitions, seconds = (QUICK_REPETITIONS, QUICK_SECONDS) if quick else (REPETITIONS, SECONDS)
    classpath = Downloads(cache_dir(), Progress()).kafka_classpath()
    with tempfile.TemporaryDirectory() as folder, PortReservation() as ports:
        broker = KafkaServer(Path(folder), classpath, ports.take(), ports.take())
        try:
            broker.start()
            measured = asyncio.run(run(broker.bootstrap_servers, repetitions, seconds))
        finally:
            broker.kill()
    print("| load | outputs | producers | median of commit, ms (of a repetition) | p90 | p99 | units/s |")
    print("|---|---|---|---|---|---|---|")
    for (rate, outputs, producers), each in sorted(measured.items()):
        print(f"| {f'{rate} units/s' if rate else 'closed loop'} | {outputs} | {producers} | {each.row()} |")


if __name__ == "__main__":
    main()
