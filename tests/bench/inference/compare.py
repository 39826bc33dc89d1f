"""Records a second through Triton, beside the rows a second of those who do nothing but ask it, in turn."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.connectors.embedded.own_triton import own_triton
from tests.bench.inference import asking, perf_analyzer
from tests.bench.inference.arms import WORKLOADS, Workload, arms
from tests.bench.inference.cores import apart
from tests.bench.passthrough.arms import Arm
from tests.bench.passthrough.environments import python_of
from tests.bench.passthrough.run import Sample, run
from tests.bench.passthrough.scene import BenchScene
from tests.bench.ratios import Estimate, ratio

PEER_REPETITIONS = 1
"""At most: they are far from the ceiling, and slow."""
SMOKE_RECORDS = 64


@dataclass(frozen=True, slots=True)
class Client:
    """Does nothing but ask Triton. ``rows_per_second`` is told where that is, and what to ask."""

    title: str
    rows_per_second: Callable[[str, Workload], float]


ASKING = Client("client that only asks", asking.rows_per_second)
PERF_ANALYZER = Client("Triton's perf_analyzer", perf_analyzer.rows_per_second)


@dataclass(frozen=True, slots=True)
class Against:
    """One model.

    Attributes:
        workload: which.
        clients: rows a second of those who only ask: the first was faster in the first repetition, and is asked in
            each.
        samples: of each arm, ours first.
    """

    workload: Workload
    clients: tuple[tuple[Client, tuple[float, ...]], ...]
    samples: tuple[tuple[Arm, tuple[Sample, ...]], ...]

    @property
    def ceiling(self) -> tuple[float, ...]:
        """Rows a second that Triton is good for, one each repetition."""
        return self.clients[0][1]

    @property
    def ours(self) -> list[float]:
        return [each.records_per_second for each in self.samples[0][1]]


def compare(scene: BenchScene, repetitions: int, smoke: bool) -> tuple[Against, ...]:
    """Raises AssertionError if headrace lost or doubled something."""
    for environment in ("quix", "faststream", perf_analyzer.ENVIRONMENT):
        python_of(environment)  # installed before anything is measured
    with own_triton() as triton, apart(triton.process.pid), scene.with_triton(triton.grpc):
        return tuple(_against(scene, each, repetitions, smoke) for each in WORKLOADS)


def _against(scene: BenchScene, workload: Workload, repetitions: int, smoke: bool) -> Against:
    ours, *peers = arms(workload)
    rates = {client: [_asked(scene, workload, client)] for client in (ASKING, PERF_ANALYZER)}
    ceiling = max(rates, key=lambda client: rates[client][0])
    samples: dict[str, list[Sample]] = {arm.name: [] for arm in (ours, *peers)}

    def measure(arm: Arm, number: int) -> None:
        sample = run(scene, arm, f"{arm.name}-{number}", SMOKE_RECORDS if smoke else arm.records)
        _tell(f"{arm.name} {number}: {sample}")
        assert sample.exact or arm is not ours, f"{arm.name} {number}: {sample}"
        samples[arm.name].append(sample)

    for number in range(repetitions):
        if number > 0:
            rates[ceiling].append(_asked(scene, workload, ceiling))
        measure(ours, number)
        for peer in peers if number < PEER_REPETITIONS else ():
            measure(peer, number)
    clients = sorted(rates, key=lambda client: client is not ceiling)
    return Against(
        workload,
        tuple((client, tuple(rates[client])) for client in clients),
        tuple((arm, tuple(samples[arm.name])) for arm in (ours, *peers)),
    )


def _asked(scene: BenchScene, workload: Workload, client: Client) -> float:
    rate = client.rows_per_second(scene.triton_url, workload)
    _tell(f"{workload.name}, {client.title}: {rate:,.1f}/s")
    return rate


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def ratios(found: Sequence[Against]) -> dict[str, Estimate]:
    """Headrace's records a second over rows a second of those who only ask, by model, in pairs of one repetition."""
    told = {}
    for each in found:
        told[f"vs_triton_ceiling_{each.workload.name}"] = ratio(list(zip(each.ours, each.ceiling, strict=True)))
        analyzed = dict(each.clients)[PERF_ANALYZER]
        told[f"vs_perf_analyzer_{each.workload.name}"] = ratio(list(zip(each.ours, analyzed, strict=False)))
    return told


def table(found: Sequence[Against]) -> list[str]:
    """In Markdown: all programs, then the ratios."""
    lines = [
        "| model | program | settings | records/s, median (range) | lost / doubled |",
        "|---|---|---|---|---|",
    ]
    for each in found:
        told = f"{each.workload.batch} a batch, {each.workload.concurrency} calls in flight"
        rows = [(client.title, told, rates, "") for client, rates in each.clients]
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
