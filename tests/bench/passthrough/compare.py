"""All arms, one after the other, again and again in another order each time, so that the machine's moods meet all."""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.passthrough.arms import OURS, QUIX_INTERVALS, UNCALIBRATED, Arm, Calibration, all_arms, headrace, quix
from tests.bench.passthrough.environments import python_of, versions
from tests.bench.passthrough.run import Sample, run
from tests.bench.passthrough.scene import BenchScene
from tests.bench.ratios import Estimate, ratio

WARM_RUNS = 2
"""Of headrace, of which the last one calibrates: the broker is new to all this, too."""
SMOKE_RECORDS = 1_000
OFTEN = (OURS, "raw_same", "faust", "quix_equal")
SELDOM_REPETITIONS = 2
"""At most, of the arms that are not run each time: what they tell is no narrow thing."""
RATIOS: Mapping[str, str] = {
    "vs_raw_loop": "raw_same",
    "vs_faust_exactly_once": "faust",
    "vs_quix_exactly_once": "quix_equal",
    "vs_quix_exactly_once_default": "quix_default",
    "vs_quix_exactly_once_best": "quix_best",
    "vs_faststream": "faststream",
    "vs_faststream_batches": "faststream_batches",
}
"""Name in bench.json → arm that headrace's records a second are divided by."""


@dataclass(frozen=True, slots=True)
class Measured:
    """An arm and its samples, one each repetition."""

    arm: Arm
    records: int
    versions: Mapping[str, str]
    samples: tuple[Sample, ...]

    @property
    def rates(self) -> list[float]:
        return [each.records_per_second for each in self.samples]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of one run of the benchmark.

    Attributes:
        calibration: what the settings of some arms followed from.
        record_bytes: of a request's value.
        measured: ours first.
    """

    calibration: Calibration
    record_bytes: float
    measured: tuple[Measured, ...]

    def ratios(self) -> dict[str, Estimate]:
        """Headrace's records a second over others', in pairs of one repetition; those of arms that ran."""
        rates = {each.arm.name: each.rates for each in self.measured}
        return {
            name: ratio(list(zip(rates[OURS], rates[arm], strict=False)))  # the others' repetitions are the first ones
            for name, arm in RATIOS.items()
            if all(rates.get(arm, [0.0]))
        }


def compare(scene: BenchScene, repetitions: int, smoke: bool, chosen: Sequence[str] = ()) -> Comparison:
    """Calibrate, then measure.

    Args:
        scene: of the servers.
        repetitions: of each arm.
        smoke: with few records, and settings that are not calibrated: whether it works.
        chosen: names of the arms beside headrace's; all, if empty.

    Raises:
        AssertionError: headrace or the raw loop lost or doubled something.
    """

    for environment in {arm.environment for arm in all_arms(UNCALIBRATED) if not chosen or arm.name in chosen}:
        python_of(environment)  # installed before anything is measured

    def measure(arm: Arm, name: str) -> Sample:
        records = records_of(arm, smoke)
        sample = run(scene, arm, f"{arm.name}-{name}", records)
        print(
            f"{arm.name} {name}: {sample.records_per_second:,.0f}/s, visible after {sample.visible_p50_ms:.0f} ms, "
            f"{sample.lost} lost, {sample.doubled} doubled, {sample.seconds:.1f} s, load {sample.load:.1f}",
            file=sys.stderr,
            flush=True,
        )
        if arm.environment is None:
            assert sample.exact, f"{arm.name} {name}: {sample}"
        return sample

    intervals = () if smoke or (chosen and "quix_best" not in chosen) else (None, *QUIX_INTERVALS)
    calibration = calibrate(measure, 1 if smoke else WARM_RUNS, intervals)
    arms = [each for each in all_arms(calibration) if not chosen or each.name in (OURS, *chosen)]
    samples: dict[str, list[Sample]] = {arm.name: [] for arm in arms}
    chance = random.Random(1)
    for number in range(repetitions):
        for arm in chance.sample(arms, len(arms)):
            if number >= SELDOM_REPETITIONS and arm.name not in OFTEN:
                continue
            samples[arm.name].append(measure(arm, str(number)))
    measured = tuple(
        Measured(arm, records_of(arm, smoke), versions(arm.environment, arm.packages), tuple(samples[arm.name]))
        for arm in arms
    )
    return Comparison(calibration, scene.requests(measured[0].arm.load, measured[0].records).mean_bytes, measured)


def records_of(arm: Arm, smoke: bool) -> int:
    return SMOKE_RECORDS if smoke else arm.records


def calibrate(
    measure: Callable[[Arm, str], Sample], warm_runs: int, intervals_seconds: Sequence[float | None]
) -> Calibration:
    """The last of some runs of headrace decides, and of these commit intervals of Quix the fastest."""
    warm = [measure(headrace(), f"warm-{number}") for number in range(warm_runs)][-1]
    assert warm.records_a_transaction is not None
    tried = {
        interval: measure(quix("quix", interval), f"try-{index}").records_per_second
        for index, interval in enumerate(intervals_seconds)
    }
    return Calibration(
        records_a_transaction=round(warm.records_a_transaction),
        visibility_seconds=round(warm.visible_p50_ms / 1000, 4),
        quix_interval_seconds=max(tried, key=lambda interval: tried[interval], default=QUIX_INTERVALS[-1]),
    )


def row(measured: Measured) -> str:
    """Of the table in docs/benchmarks.md."""
    samples, rates = measured.samples, measured.rates
    visible = [
        statistics.median(values)
        for values in ([each.visible_p50_ms for each in samples], [each.visible_p99_ms for each in samples])
    ]
    wrong = sum(each.lost for each in samples), sum(each.doubled for each in samples)
    cells = (
        measured.arm.title,
        measured.arm.told,
        f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})",
        f"{visible[0]:,.0f} / {visible[1]:,.0f} ms",
        f"{wrong[0]:,} / {wrong[1]:,}" if any(wrong) else "none",
    )
    return f"| {' | '.join(cells)} |"


def table(comparison: Comparison) -> list[str]:
    """Two tables in Markdown: the arms, and the ratios."""
    lines = [
        "| program | settings | records/s, median (range) | visible after, p50 / p99 | lost / doubled |",
        "|---|---|---|---|---|",
        *map(row, comparison.measured),
        "",
        "| ratio of records/s | median of the pairs | 95 % by bootstrap |",
        "|---|---|---|",
    ]
    for name, each in comparison.ratios().items():
        lines.append(f"| `{name}` | {each.median:.2f} | {each.low:.2f} to {each.high:.2f} |")
    return lines
