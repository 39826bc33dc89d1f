"""``make bench``: every benchmark that compares, in one run on one machine.

Run: ``python -m tests.bench [--only NAME] [--arm NAME ...] [--repetitions N] [--full] [--smoke]``. Writes
``build/bench.json`` (``build/bench-smoke.json`` with ``--smoke``) and, after a whole run, the tables of
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.inference import compare as inference
from tests.bench.inference import line
from tests.bench.passthrough import latency
from tests.bench.passthrough.arms import OURS, UNCALIBRATED, all_arms
from tests.bench.passthrough.compare import Comparison, compare, table
from tests.bench.passthrough.scene import BenchScene, bench_scene
from tests.bench.passthrough.sweeps import sweep
from tests.bench.passthrough.sweeps import table as sweep_table
from tests.bench.plots import Bar, bars
from tests.bench.ratios import Estimate
from tests.bench.report import JSON, PAGE, SMOKE_JSON, machine, put, versions, write_json

REPETITIONS, HALF_REPETITIONS, SWEEP_REPETITIONS = 7, 3, 3
TITLE_CHARACTERS = 60
PICTURES = PAGE.parent / "images"
FULL = ("sweeps",)
"""Not among what is run without ``--full``: they take long."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one benchmark comes to.

    Attributes:
        content: for the JSON file, every sample in it.
        ratios: for its ``ratios``.
        lines: of Markdown, for the page.
        whole: nothing was left out, so that the page may have it.
        picture: its title, its unit and its bars; None: there is none.
    """

    content: Mapping[str, Any]
    ratios: Mapping[str, Estimate]
    lines: list[str]
    whole: bool
    picture: tuple[str, str, list[Bar]] | None = None


def passthrough(scene: BenchScene, options: argparse.Namespace) -> Outcome:
    found = compare(scene, options.repetitions, options.smoke, options.arm)
    shown = [_bar(f"{each.arm.title}, {each.arm.told}", each.rates, each.arm.name == OURS) for each in found.measured]
    picture = "Pass-through, exactly once: records of 1 kB", "records a second", shown
    return Outcome(_content(found), found.ratios(), table(found), not options.arm, picture)


def _bar(title: str, values: Sequence[float], ours: bool) -> Bar:
    title = title if len(title) <= TITLE_CHARACTERS else f"{title[: TITLE_CHARACTERS - 1]}…"
    return Bar(title, statistics.median(values), min(values), max(values), ours)


def _content(found: Comparison) -> dict[str, Any]:
    arms = {
        each.arm.name: {
            "program": each.arm.title,
            "settings": each.arm.told,
            "records": each.records,
            "versions": dict(each.versions),
            "samples": [dataclasses.asdict(sample) for sample in each.samples],
        }
        for each in found.measured
    }
    return {
        "record_bytes": found.record_bytes,
        "calibration": dataclasses.asdict(found.calibration),
        "arms": arms,
    }


def latency_at_rate(scene: BenchScene, options: argparse.Namespace) -> Outcome:
    found = latency.compare(scene, options.repetitions, options.smoke)
    return _latency(latency.RATE, found, latency.added(found))


def latency_at_half(scene: BenchScene, options: argparse.Namespace) -> Outcome:
    rate = latency.half_of_saturation(scene, options.smoke)
    found = latency.compare(scene, min(options.repetitions, HALF_REPETITIONS), options.smoke, rate)
    added = {f"half_saturated_{name}": each for name, each in latency.added(found).items()}
    return _latency(rate, found, added)


def _latency(rate: int, found: Sequence[latency.Latencies], added: Mapping[str, Estimate]) -> Outcome:
    arms = {
        each.arm.name: {
            "program": each.arm.title,
            "settings": each.arm.told,
            "samples": [dataclasses.asdict(sample) for sample in each.samples],
        }
        for each in found
    }
    shown = [
        _bar(f"{each.arm.title}, {share}", [sample.latency_ms[share] for sample in each.samples], each.arm.name == OURS)
        for each in found
        for share in latency.SHARES
    ]
    picture = f"Sent to visible at {rate:,} records a second", "ms", shown
    lines = [f"At {rate:,} records a second:", "", *latency.table(found, added)]
    return Outcome({"records_per_second": rate, "arms": arms}, added, lines, True, picture)


def inference_through_triton(scene: BenchScene, options: argparse.Namespace) -> Outcome:
    found = inference.compare(scene, options.repetitions, options.smoke)
    models = {
        each.workload.name: {
            "model": each.workload.model,
            "batch": each.workload.batch,
            "concurrency": each.workload.concurrency,
            "ceiling": each.ceiling,
            "clients": {client.title: list(rates) for client, rates in each.clients},
            "arms": {
                arm.name: {
                    "program": arm.title,
                    "settings": arm.told,
                    "samples": [dataclasses.asdict(sample) for sample in samples],
                }
                for arm, samples in each.samples
            },
        }
        for each in found
    }
    shown = []
    for each in found:
        model = each.workload.name
        shown += [_bar(f"{model}: {client.title}", rates, ours=False) for client, rates in each.clients]
        for number, (arm, samples) in enumerate(each.samples):
            rates = [sample.records_per_second for sample in samples]
            shown.append(_bar(f"{model}: {arm.title}", rates, ours=number == 0))
    picture = "Through Triton, which has one core", "records a second", shown
    return Outcome({"models": models}, inference.ratios(found), inference.table(found), True, picture)


def head_of_line(scene: BenchScene, options: argparse.Namespace) -> Outcome:
    found = line.compare(scene, options.repetitions, options.smoke)
    told = {
        name: {
            "program": each.arm.title,
            "settings": each.arm.told,
            "p99_ms": {"undisturbed": each.undisturbed, "disturbed": each.disturbed},
        }
        for name, each in found.items()
    }
    shown = [
        _bar(f"{each.arm.title}, {how}", values, name != line.QUIX)
        for name, each in found.items()
        for how, values in (("undisturbed", each.undisturbed), ("disturbed", each.disturbed))
    ]
    picture = "One record of a hundred takes a second: p99 of the others", "ms", shown
    return Outcome({"arms": told}, line.ratios(found), line.table(found), True, picture)


def sweeps(scene: BenchScene, options: argparse.Namespace) -> Outcome:
    rows = sweep(scene, min(options.repetitions, SWEEP_REPETITIONS), options.smoke)
    told = [
        {
            "sweep": row.sweep,
            "point": row.point,
            "program": row.arm.title,
            "settings": row.arm.told,
            "records": row.records,
            "samples": [dataclasses.asdict(sample) for sample in row.samples],
        }
        for row in rows
    ]
    return Outcome({"rows": told}, {}, sweep_table(rows), True)


BENCHMARKS: Mapping[str, Callable[[BenchScene, argparse.Namespace], Outcome]] = {
    "passthrough": passthrough,
    "latency": latency_at_rate,
    "latency_half": latency_at_half,
    "inference": inference_through_triton,
    "head_of_line": head_of_line,
    "sweeps": sweeps,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Benchmarks side by side with peers.")
    parser.add_argument("--only", choices=BENCHMARKS, help="this benchmark alone")
    names = [arm.name for arm in all_arms(UNCALIBRATED)]
    parser.add_argument(
        "--arm", action="append", default=[], choices=names, help="of passthrough this arm beside headrace's alone"
    )
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, help="of each arm, interleaved")
    parser.add_argument("--full", action="store_true", help=f"{', '.join(FULL)}, too")
    parser.add_argument("--smoke", action="store_true", help="whether it works: few records, one repetition, no page")
    options = parser.parse_args()
    if options.smoke:
        options.repetitions = 1
    chosen = [options.only] if options.only else [name for name in BENCHMARKS if options.full or name not in FULL]
    began, before, used = time.time(), machine(), versions()  # the pages that are written make a tree that is not clean
    outcomes: dict[str, Outcome] = {}
    with bench_scene() as scene:  # one broker for all: a new one is slow for its first thousands of transactions
        for name in chosen:
            outcomes[name] = BENCHMARKS[name](scene, options)  # written as soon as it is there
            content = _all(options, began, before, used, outcomes)
            write_json(SMOKE_JSON if options.smoke else JSON, content)
            print("\n".join(outcomes[name].lines), flush=True)
            if outcomes[name].whole and not options.smoke:
                _show(name, outcomes[name], content)


def _all(
    options: argparse.Namespace,
    began: float,
    before: Mapping[str, Any],
    used: Mapping[str, str],
    outcomes: Mapping[str, Outcome],
) -> dict[str, Any]:
    """What build/bench.json holds."""
    ratios = {name: each for outcome in outcomes.values() for name, each in outcome.ratios.items()}
    return {
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "seconds": round(time.time() - began, 1),
        "smoke": options.smoke,
        "repetitions": options.repetitions,
        "machine": {**before, "load_average_after": machine()["load_average"]},
        "versions": used,
        "benchmarks": {name: dict(outcome.content) for name, outcome in outcomes.items()},
        "ratios": {name: each.median for name, each in ratios.items()},
        "intervals": {name: [each.low, each.high] for name, each in ratios.items()},
    }


def _show(name: str, outcome: Outcome, content: Mapping[str, Any]) -> None:
    """In docs/benchmarks.md."""
    lines = _place(content, outcome.lines)
    if outcome.picture is not None:
        title, unit, found = outcome.picture
        bars(PICTURES / f"bench-{name}.svg", title, unit, found)
        lines += ["", f"![{title}]({PICTURES.name}/bench-{name}.svg)"]
    PAGE.write_text(put(PAGE.read_text(), name, lines))


def _place(content: Mapping[str, Any], lines: list[str]) -> list[str]:
    """With the machine and the day above."""
    where, used = content["machine"], content["versions"]
    head = (
        f"{content['began'][:10]}, commit {used['commit']}: {where['cpu']}, {where['cores']} cores, "
        f"{where['memory_gib']:.0f} GiB. Kafka {used['kafka']}, librdkafka {used['librdkafka']}, "
        f"Python {used['python']}. {content['repetitions']} repetitions."
    )
    return [head, "", *lines]


if __name__ == "__main__":
    main()
