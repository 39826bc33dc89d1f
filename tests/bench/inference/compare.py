"""Records a second through Triton, beside the rows a second of its own load generator, in turn."""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.connectors.embedded.own_triton import own_triton
from tests.bench.inference.arms import WORKLOADS, Workload, arms
from tests.bench.inference.cores import apart, pin
from tests.bench.inference.perf_analyzer import ENVIRONMENT, rows_per_second
from tests.bench.passthrough.arms import Arm
from tests.bench.passthrough.environments import python_of
from tests.bench.passthrough.run import Sample, run
from tests.bench.passthrough.scene import BenchScene, bench_scene
from tests.bench.ratios import Estimate, ratio

PEER_REPETITIONS = 2
"""At most: they are far from the ceiling, and slow."""
SMOKE_RECORDS = 64


@dataclass(frozen=True, slots=True)
class Against:
    """One model.

    Attributes:
        workload: which.
        ceiling: rows a second of Triton's own load generator, one each repetition.
        samples: of each arm, ours first.
    """

    workload: Workload
    ceiling: tuple[float, ...]
    samples: tuple[tuple[Arm, tuple[Sample, ...]], ...]

    @property
    def ours(self) -> list[float]:
        return [each.records_per_second for each in self.samples[0][1]]


def compare(repetitions: int, smoke: bool) -> tuple[Against, ...]:
    """Raises AssertionError if headrace lost or doubled something."""
    for environment in ("quix", "faststream", ENVIRONMENT):
        python_of(environment)  # installed before anything is measured
    with own_triton() as triton, apart() as core:
        pin(triton.process.pid, core)
        with bench_scene(triton.grpc) as scene:
            return tuple(_against(scene, each, repetitions, smoke) for each in WORKLOADS)


def _against(scene: BenchScene, workload: Workload, repetitions: int, smoke: bool) -> Against:
    ours, *peers = arms(workload)
    ceiling: list[float] = []
    samples: dict[str, list[Sample]] = {arm.name: [] for arm in (ours, *peers)}

    def measure(arm: Arm, number: int) -> None:
        sample = run(scene, arm, f"{arm.name}-{number}", SMOKE_RECORDS if smoke else arm.records)
        _tell(f"{arm.name} {number}: {sample}")
        assert sample.exact or arm is not ours, f"{arm.name} {number}: {sample}"
        samples[arm.name].append(sample)

    def measure_ceiling() -> None:
        batch, concurrency = workload.batch, workload.concurrency
        rate = rows_per_second(scene.triton_url, workload.model, workload.input_name, workload.rows, batch, concurrency)
        _tell(f"{workload.name}: Triton alone {rate:,.1f}/s")
        ceiling.append(rate)

    chance = random.Random(3)
    for number in range(repetitions):
        pair = [lambda number=number: measure(ours, number), measure_ceiling]  # type: ignore[misc]
        for each in chance.sample(pair, 2):
            each()
        for peer in peers if number < PEER_REPETITIONS else ():
            measure(peer, number)
    return Against(workload, tuple(ceiling), tuple((arm, tuple(samples[arm.name])) for arm in (ours, *peers)))


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def ratios(found: Sequence[Against]) -> dict[str, Estimate]:
    """Headrace's records a second over Triton's rows a second, by model, in pairs of one repetition."""
    return {
        f"vs_triton_ceiling_{each.workload.name}": ratio(list(zip(each.ours, each.ceiling, strict=True)))
        for each in found
    }


def table(found: Sequence[Against]) -> list[str]:
    """In Markdown: all programs, then the ratios."""
    lines = [
        "| model | program | settings | records/s, median (range) | lost / doubled |",
        "|---|---|---|---|---|",
    ]
    for each in found:
        told = f"{each.workload.batch} a batch, {each.workload.concurrency} calls in flight"
        rows = [("Triton's perf_analyzer", told, each.ceiling, "")]
        for arm, samples in each.samples:
            wrong = sum(sample.lost for sample in samples), sum(sample.doubled for sample in samples)
            rates = tuple(sample.records_per_second for sample in samples)
            rows.append((arm.title, arm.told, rates, f"{wrong[0]:,} / {wrong[1]:,}" if any(wrong) else "none"))
        for title, settings, rates, wrongs in rows:
            middle = f"{statistics.median(rates):,.1f} ({min(rates):,.1f} to {max(rates):,.1f})"
            lines.append(f"| {each.workload.title} | {title} | {settings} | {middle} | {wrongs} |")
    lines += ["", "| ratio of records/s | median of the pairs | 95 % by bootstrap |", "|---|---|---|"]
    for name, value in ratios(found).items():
        lines.append(f"| `{name}` | {value.median:.2f} | {value.low:.2f} to {value.high:.2f} |")
    return lines
