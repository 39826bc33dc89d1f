"""Live beside a replay: what a replay that ``--rate`` holds back costs live traffic in latency.

Run: ``python -m tests.bench.replay_beside_live``. A worker and a broker; events of one model at a share of the rate at
which a worker goes through a backlog of them, which is measured first. What live leaves idle is what a replay that
nothing holds back reaches beside it; then the replay, of other events, is held to half of that, and to one short call
at a time. While live goes on, the replay's process is stopped and continued in turn, every few seconds, so that the
machine's moods, which last longer, meet both alike. Latency is from ``produce`` to a ``read_committed`` consumer, in
the same process; what is sent in the first and the last part of a turn, when the arms overlap, is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from headrace.connectors.embedded.stack import Stack
from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.admin import ensure_topics
from headrace.pipeline.exit_codes import ExitCode
from headrace.pipeline.records import TopicSpec
from tests.bench.replay import LOADS, PARTITIONS, events, live
from tests.bench.steady import SteadyLoad, percentile
from tests.integration.harness import Scene, wait_until
from tests.integration.replays import COMMAND_SECONDS, Replays

SATURATED_RUNS = 3
REPLAY_SHARE = 0.5
"""Of what live leaves idle."""
SPARE_SECONDS = 30.0
"""Of history at the replay's rate, beyond what live takes: it begins earlier and must not end before."""
WARM_SECONDS = 5.0
IDLE_SECONDS = 15.0
TURN_SECONDS = 3.0
OVERLAP_SECONDS = 0.5
RESOLUTION_SECONDS = 0.002
SHARES = (0.5, 0.9, 0.99)
RESAMPLES = 2_000


@dataclass(frozen=True, slots=True)
class Rates:
    """Records a second. ``idle`` is what live leaves idle."""

    saturated: float
    live: float
    idle: float

    @property
    def replay(self) -> float:
        return REPLAY_SHARE * self.idle


@dataclass(frozen=True, slots=True)
class Turn:
    """So long the replay was stopped, or went on."""

    began: float
    ended: float
    beside: bool

    def of(self, timed: Sequence[tuple[float, float]]) -> list[float]:
        """The latencies that are this turn's."""
        first, last = self.began + OVERLAP_SECONDS, self.ended - OVERLAP_SECONDS
        return [seconds for at, seconds in timed if first <= at < last]


class Turns:
    """Stops a process and continues it, in turn, until it is told to end; then it goes on."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.done: list[Turn] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self._process.send_signal(signal.SIGCONT)

    def _run(self) -> None:
        for beside in itertools.cycle((False, True)):
            self._process.send_signal(signal.SIGCONT if beside else signal.SIGSTOP)
            began = time.monotonic()
            if self._ending.wait(TURN_SECONDS):
                return
            self.done.append(Turn(began, time.monotonic(), beside))


def saturated(endpoints: Endpoints, folder: Path, history: Scene, model: str) -> float:
    """Fill the history, and see how fast a worker of a new group goes through it."""
    count, make = LOADS[model]
    ensure_topics(endpoints.bootstrap_servers, [TopicSpec(history.requests, PARTITIONS)])
    history.send_events(events(make, count))
    names = [f"saturated-{number}" for number in range(SATURATED_RUNS)]
    return statistics.median(live(endpoints, folder / each, history.requests, each, count) for each in names)


def lengthen(history: Scene, model: str, most: float, seconds: float) -> None:
    """Until no replay comes to the end of it while live runs."""
    count, make = LOADS[model]
    wanted = int(most * (seconds + SPARE_SECONDS))
    history.send_events(events(make, max(0, wanted - count)))


@contextlib.contextmanager
def replaying(
    scene: Replays, history: str, run: str, held: Sequence[str]
) -> Iterator[tuple[subprocess.Popen[str], list[float]]]:
    """A replay that has begun, held back by these options; afterwards the list has the rate that it came to."""
    rate: list[float] = []
    with scene.start(history, "--run", run, *held) as process:
        try:
            wait_until(lambda: scene.answered(run), 60, "outcomes of the replay")
            yield process, rate
            assert process.poll() is None, "the replay was over before live was"
            process.send_signal(signal.SIGTERM)
            told, errors = process.communicate(timeout=COMMAND_SECONDS)
        finally:
            process.kill()
    assert process.returncode == ExitCode.INTERRUPTED, errors
    rate.append(_rate_told(told))


def _rate_told(lines: str) -> float:
    """Between the first sign of progress and the last one."""
    told = [each for each in map(json.loads, lines.splitlines()) if each["state"] == "running" and each["results"]]
    first, last = told[0], told[-1]
    return float((last["results"] - first["results"]) / (last["active_seconds"] - first["active_seconds"]))


def measure(endpoints: Endpoints, folder: Path, options: argparse.Namespace) -> None:
    for each in ("history", "beside"):
        (folder / each).mkdir()
    model, make = options.model, LOADS[options.model][1]
    history = Scene(endpoints, "history", folder / "history")
    scene = Replays(endpoints, "beside", folder / "beside", topics={"partitions": PARTITIONS})
    with history, scene:
        most = saturated(endpoints, folder, history, model)
        lengthen(history, model, most, options.seconds)
        scene.worker()
        load = SteadyLoad(scene, options.live_share * most, RESOLUTION_SECONDS)

        def send(seconds: float) -> list[tuple[float, float]]:
            count = int(seconds * options.live_share * most)
            return load.timed([scene.value(each) for each in events(make, count)])

        send(WARM_SECONDS)
        with replaying(scene, history.requests, "unlimited", ()) as (_, idle):
            send(IDLE_SECONDS)
        rates = Rates(most, options.live_share * most, *idle)
        if options.own_triton:
            gently, how = ["--own-triton"], "with a Triton of its own"
        else:  # live waits for the replay's calls that are under way: for one of them, not for four, and a short one
            gently = ["--max-concurrency", "1", "--max-batch", options.max_batch]
            how = f"{options.max_batch} a call"
        held = ("--rate", f"{rates.replay:.1f}", *gently)
        with replaying(scene, history.requests, "held", held) as (_, alone):
            send(IDLE_SECONDS)
        with replaying(scene, history.requests, "turns", held) as (process, _), Turns(process) as turns:
            timed = send(options.seconds)
    print(
        f"{model}: saturated {rates.saturated:,.0f}/s, live {rates.live:,.0f}/s, an unlimited replay beside it "
        f"{rates.idle:,.0f}/s, replay held to {rates.replay:,.0f}/s (came to {alone[0]:,.0f}/s), {how}"
    )
    # Pairs of a turn without it and the next one beside it.
    pairs = list(zip(turns.done[0::2], turns.done[1::2], strict=False))
    show([(without.of(timed), beside.of(timed)) for without, beside in pairs])


def show(pairs: list[tuple[list[float], list[float]]]) -> None:
    arms = [list(itertools.chain.from_iterable(latencies)) for latencies in zip(*pairs, strict=True)]
    rng = random.Random(1)
    ratios = sorted(_ratio(rng.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    spread = f"{_ratio(pairs):.2f} ({ratios[RESAMPLES // 40]:.2f} to {ratios[-RESAMPLES // 40]:.2f})"
    print("| live traffic | events | p50 | p90 | p99 | ratio of p99 (95 % by bootstrap) |")
    print("|---|---|---|---|---|---|")
    for arm, latencies, ratio in zip(("undisturbed", "beside a replay"), arms, ("", spread), strict=True):
        cells = " | ".join(f"{percentile(latencies, share) * 1000:.1f} ms" for share in SHARES)
        print(f"| {arm} | {len(latencies):,} | {cells} | {ratio} |")


def _ratio(pairs: list[tuple[list[float], list[float]]]) -> float:
    without, beside = (list(itertools.chain.from_iterable(latencies)) for latencies in zip(*pairs, strict=True))
    return percentile(beside, SHARES[-1]) / percentile(without, SHARES[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=LOADS, default="image_jpeg")
    parser.add_argument("--seconds", type=float, default=150, help="of the turns, all together")
    parser.add_argument("--live-share", type=float, default=0.2, help="of the saturated rate, that live has")
    parser.add_argument("--max-batch", default="1", help="records in one of the replay's calls")
    parser.add_argument("--own-triton", action="store_true", help="the replay has a Triton of its own")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Stack() as stack:
        measure(stack.endpoints, Path(folder), options)


if __name__ == "__main__":
    main()
