"""When should an under-filled batch leave? Three policies against a simulated model server.

Run: ``python -m tests.bench.batching_policy``. Prints the table of docs/decisions/005-routing-and-batching.md.
The batcher is the real one; time is simulated, so the figures do not depend on the machine.
"""

from __future__ import annotations

import heapq
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from headrace.pipeline.batching import Batcher

SLOTS = 4
DELAY_SECONDS = 0.005
SIMULATED_RECORDS = 20_000

POLICIES: dict[str, Callable[[int], bool]] = {
    "never early": lambda in_flight: False,
    "early if nothing is in flight": lambda in_flight: in_flight == 0,
    "early if a slot is free": lambda in_flight: in_flight < SLOTS,
}


@dataclass(frozen=True, slots=True)
class Model:
    """``call_seconds`` is paid once a call on the way to it, the rest by its one instance, one call after another."""

    name: str
    max_records: int
    call_seconds: float
    batch_seconds: float
    record_seconds: float
    rates: tuple[int, ...]


# From measurements on 2 cores: a pass-through model, and text embedding (9.5 ms alone, 5.5 ms in batches).
MODELS = (
    Model("identity", 64, 0.00035, 0.0002, 0.000008, (200, 2_000, 10_000, 40_000)),
    Model("text_embedding", 32, 0.00035, 0.0042, 0.0053, (20, 80, 150, 180)),
)


@dataclass(slots=True)
class Simulation:
    """Poisson arrivals into a batcher, at most `SLOTS` calls in flight."""

    model: Model
    rate: int
    early: Callable[[int], bool]
    now: float = 0.0
    sender_free_at: float = 0.0
    server_free_at: float = 0.0
    returns: list[tuple[float, int, tuple[float, ...]]] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def run(self) -> None:
        chance = random.Random(5)
        batcher: Batcher[float] = Batcher(self.model.max_records, 1 << 30, DELAY_SECONDS)
        arrival, arrived = chance.expovariate(self.rate), 0
        while len(self.latencies) < SIMULATED_RECORDS:
            due = batcher.next_due() if len(self.returns) < SLOTS else None
            moments = [self.returns[0][0]] if self.returns else []
            moments += [arrival] if arrived < SIMULATED_RECORDS else []
            moments += [due] if due is not None else []
            self.now = max(self.now, min(moments))
            while arrived < SIMULATED_RECORDS and arrival <= self.now:
                batcher.add(arrival, 1, "one", max(arrival, self.now))
                arrived += 1
                arrival += chance.expovariate(self.rate)
            while self.returns and self.returns[0][0] <= self.now:
                done_at, _, records = heapq.heappop(self.returns)
                self.latencies += [done_at - record for record in records]
            while len(self.returns) < SLOTS and (batch := batcher.take(self.now, self.early(len(self.returns)))):
                self._call(batch.items)

    def _call(self, records: tuple[float, ...]) -> None:
        model = self.model
        self.sender_free_at = max(self.now, self.sender_free_at) + model.call_seconds
        begin = max(self.sender_free_at, self.server_free_at)
        self.server_free_at = begin + model.batch_seconds + model.record_seconds * len(records)
        self.batches.append(len(records))
        heapq.heappush(self.returns, (self.server_free_at, len(self.batches), records))


def main() -> None:
    """Print one line for each model, rate and policy."""
    print("| model | records/s | policy | mean batch | p50 ms | p99 ms |")
    print("|---|---|---|---|---|---|")
    for model in MODELS:
        for rate in model.rates:
            for name, early in POLICIES.items():
                simulation = Simulation(model, rate, early)
                simulation.run()
                cuts = statistics.quantiles(simulation.latencies, n=100)
                figures = f"{statistics.mean(simulation.batches):.1f} | {cuts[49] * 1e3:.1f} | {cuts[98] * 1e3:.1f}"
                print(f"| {model.name} | {rate} | {name} | {figures} |")


if __name__ == "__main__":
    main()
