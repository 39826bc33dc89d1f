"""Everything breaks, in an order that a seed decides, and each input has one outcome all the same.

``make chaos`` runs it for two and a half minutes, ``make chaos-long`` for an hour. ``HEADRACE_CHAOS_SEED`` has a run
again (it is printed, and in ``build/chaos.json``): the same load and the same faults at the same times.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from headrace.pipeline.config import Assignment
from tests.chaos.checker import Watcher, check
from tests.chaos.faults import Saboteur
from tests.chaos.load import Load
from tests.chaos.mix import Fate
from tests.chaos.schedule import SLOTS, schedule
from tests.chaos.stage import GROUP, Stage
from tests.chaos.tally import DELAYS
from tests.integration.harness import wait_until

REPORT = Path(__file__).parents[2] / "build" / "chaos.json"
SECONDS = 150.0
PAUSE_SECONDS = (2.0, 6.0)
LONG_PAUSE_SECONDS = (6.0, 18.0)
LONG = 600.0
"""A run from so many seconds on has the longer pauses: its records are what counts, and its overlaps come by chance."""
LONG_SECONDS = 3600.0
RATE = 350.0
SETTLE_SECONDS = 120.0
CHECKED_RATE = 1_500
"""Inputs a second that the checker reads at least, with all that came of them."""
STALL_SECONDS = 90.0
"""No partition may go without an answer for longer while an input of it has none (docs/guarantees.md says what adds up
to it)."""


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@pytest.mark.timeout(2 * LONG_SECONDS)
def test_no_fault_loses_doubles_tears_or_reorders_an_answer(tmp_path: Path) -> None:
    seed = int(os.environ.get("HEADRACE_CHAOS_SEED") or random.SystemRandom().randrange(2**32))
    seconds = float(os.environ.get("HEADRACE_CHAOS_SECONDS") or SECONDS)
    rate = float(os.environ.get("HEADRACE_CHAOS_RATE") or RATE)
    tell(f"\nHEADRACE_CHAOS_SEED={seed}")
    faults = schedule(seed, seconds, PAUSE_SECONDS if seconds < LONG else LONG_PAUSE_SECONDS)
    assignment = list(Assignment)[seed % 2]
    report: dict[str, Any] = {
        "seed": seed,
        "assignment": assignment.value,
        "seconds": seconds,
        "rate": rate,
        "passed": False,
    }
    tell(f"kafka.assignment: {assignment.value}")
    try:
        with Stage(tmp_path, kafka={"assignment": assignment.value}) as stage:
            report |= run(stage, faults, random.Random(seed), rate, seconds)
        assert report["errors"] == {}, report["explanation"]
        assert report["records"] == report["delivered"], "Kafka itself has lost what it had acknowledged"
        assert report["dead_letters"] == report["poison"] + report["exhausted"]
        assert (report["exhausted"] > 0) == ("retry_storm" in report["faults"])
        assert report["put_off"] >= len(DELAYS) * report["exhausted"]
        assert report["shadows"] > 0
        assert report["repeats"] == report["repeats_sent"] > report["duplicates_sent"] == report["dropped"] > 0
        assert report["longest_stall_s"] <= STALL_SECONDS
        assert report["worker_exits"].keys() <= {1}, "nobody starts a worker again that ended otherwise"
        report["passed"] = True
    finally:
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text(json.dumps(report, indent=2) + "\n")


def run(stage: Stage, faults: list[Any], rng: random.Random, rate: float, seconds: float) -> dict[str, Any]:
    """The numbers of one run."""
    direct, registry_url = stage.cluster.bootstrap_servers, stage.registry.url
    began = time.monotonic()
    with Watcher(direct, stage.topics) as watcher:
        load = Load(direct, registry_url, stage.topics.requests, rng, rate, lambda: watcher.answered, repeats=True)
        saboteur = Saboteur(stage, load)
        with load:
            saboteur.run(faults, tell)
            load_until = began + seconds
            wait_until(lambda: time.monotonic() >= load_until or not load.running, seconds, "the end of the load")
            load.stop()
        tell(f"{time.monotonic() - began:7.1f} s  {load.sent} records are sent, {watcher.answered} answered")
        stage.settle()
        try:
            watcher.wait_answered(load.owed, SETTLE_SECONDS)
        except AssertionError as error:  # the check tells more of it
            tell(str(error))
        stalls = watcher.stalls
        longest = watcher.longest_stall_s
        slowest = watcher.slowest_seconds
    for slot in SLOTS:
        stage.terminate_worker(slot, 15)
    verdict = check(direct, registry_url, stage.topics, GROUP, read_seconds=240 + load.sent / CHECKED_RATE)
    verdict = dataclasses.replace(verdict, longest_stall_s=round(longest, 1))
    explanation = verdict.explain() if verdict.errors else ""
    counts = verdict.to_json()
    counts.pop("examples")
    return counts | {
        "errors": verdict.errors,
        "explanation": explanation,
        "longest_stall_s": round(longest, 1),
        "longest_stalls": {str(partition): str(stall) for partition, stall in stalls.items()},
        "slowest_s": round(slowest, 1),
        "delivered": load.delivered,
        "poison": load.poison,
        "exhausted": load.fates[Fate.EXHAUSTED],
        "repeats_sent": load.repeats,
        "duplicates_sent": load.fates[Fate.DROPPED],
        "paused_s": round(load.paused_seconds, 1),
        "faults": dict(sorted(saboteur.done.items())),
        "fault_count": sum(saboteur.done.values()),
        "worker_exits": dict(Counter(stage.exits)),
        "worker_last_words": stage.last_words,
        "wall_s": round(time.monotonic() - began, 1),
    }
