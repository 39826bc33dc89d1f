"""Head of line: what the others wait when one record of a hundred takes a second, each ordering and Quix Streams."""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace.connectors.embedded.own_triton import own_triton
from tests.bench.head_of_line import ORDERINGS, RATE, SLOW_EVERY, SLOW_MS, settings
from tests.bench.passthrough.arms import OURS, PEERS, Arm
from tests.bench.passthrough.environments import python_of
from tests.bench.passthrough.latency import timed
from tests.bench.passthrough.scene import BenchScene
from tests.bench.ratios import Estimate, ratio
from tests.bench.steady import percentile
from tests.integration.avro_ends import delayed, encode

MODEL = "delay"
MOST_REPETITIONS = 3
WARM_SECONDS, SECONDS, SMOKE_SECONDS = 2.0, 6.0, 1.0
"""Undisturbed, and then so long disturbed."""
QUIX = "quix"


@dataclass(frozen=True, slots=True)
class Line:
    """p99 of the quick records, in milliseconds, one each repetition."""

    arm: Arm
    undisturbed: tuple[float, ...]
    disturbed: tuple[float, ...]

    @property
    def ratio(self) -> Estimate:
        """What the slow ones make of it."""
        return ratio(list(zip(self.disturbed, self.undisturbed, strict=True)))


def arms() -> Mapping[str, Arm]:
    """By ordering; and Quix's."""
    ours = {
        ordering: Arm(
            f"{OURS}-{ordering}",
            f"headrace, ordering: {ordering}",
            "headrace",
            0,
            "a row a call, 4 calls in flight",
            arguments=("worker",),
            pipeline={**settings(ordering, 1), "worker": {}},
            model=MODEL,
        )
        for ordering in ORDERINGS
    }
    told = "a call a record, commit interval 0.1 s"
    interval = {"commit interval": 0.1}
    theirs = Arm(
        QUIX, "Quix Streams exactly-once", f"{PEERS}.quix_app", 0, told, environment="quix", settings=interval,
        model=MODEL,
    )  # fmt: skip
    return {**ours, QUIX: theirs}


def compare(scene: BenchScene, repetitions: int, smoke: bool) -> Mapping[str, Line]:
    """Each arm in turn, undisturbed and then disturbed. Raises AssertionError if something was lost or doubled."""
    python_of("quix")
    warm_seconds, seconds = (0.0, SMOKE_SECONDS) if smoke else (WARM_SECONDS, SECONDS)
    found: dict[str, dict[bool, list[float]]] = {name: {False: [], True: []} for name in arms()}
    chance = random.Random(4)
    with own_triton() as triton, scene.with_triton(triton.grpc):
        for number in range(min(repetitions, MOST_REPETITIONS)):
            for name, arm in chance.sample(list(arms().items()), len(arms())):
                p99_ms = _p99_ms(scene, arm, f"line-{name}-{number}", warm_seconds, seconds)
                print(f"head of line {name} {number}: {p99_ms}", file=sys.stderr, flush=True)
                for disturbed, each in p99_ms.items():
                    found[name][disturbed].append(each)
    return {name: Line(arm, tuple(found[name][False]), tuple(found[name][True])) for name, arm in arms().items()}


def _p99_ms(scene: BenchScene, arm: Arm, name: str, warm_seconds: float, seconds: float) -> dict[bool, float]:
    """Of the quick records, by whether they were disturbed."""
    warm, half, count = (
        round(each * RATE) for each in (warm_seconds, warm_seconds + seconds, warm_seconds + 2 * seconds)
    )
    slow = range(half + SLOW_EVERY // 2, count, SLOW_EVERY)
    values = [
        encode(scene.ids.request, delayed(SLOW_MS if each in slow else 0.0, float(each))) for each in range(count)
    ]
    times, _ = timed(scene, arm, name, values, RATE)
    quick = {False: range(warm, half), True: [each for each in range(half, count) if each not in slow]}
    return {
        disturbed: percentile([times.answered[each] - times.due[each] for each in numbers], 0.99) * 1000
        for disturbed, numbers in quick.items()
    }


def ratios(found: Mapping[str, Line]) -> dict[str, Estimate]:
    """p99 disturbed over undisturbed; of the default ordering without a name."""
    default = ORDERINGS[0]
    named = {f"head_of_line_p99_{name}": line.ratio for name, line in found.items() if name != default}
    return {"head_of_line_p99": found[default].ratio, **named}


def table(found: Mapping[str, Line]) -> list[str]:
    """In Markdown."""
    lines = ["| program | settings | p99 undisturbed | p99 disturbed | ratio (95 %) |", "|---|---|---|---|---|"]
    for line in found.values():
        ratio = line.ratio
        lines.append(
            f"| {line.arm.title} | {line.arm.told} | {_median(line.undisturbed)} | {_median(line.disturbed)} | "
            f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) |"
        )
    return lines


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} ms"
