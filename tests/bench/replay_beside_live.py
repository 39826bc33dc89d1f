"""Live beside a replay: what a replay that ``--rate`` holds back costs live traffic in latency.

Run: ``python -m tests.bench.replay_beside_live``. A worker and a broker; events of one model at a share of the rate at
which a worker goes through a backlog of them, which is measured first. What live leaves idle is what a replay that
nothing holds back reaches beside it; then the replay, of other events, is held to half of that, and to one call at a
time. Live is run without it and beside it in turn, each first every other time, so that the machine's moods meet both.
Latency is from ``produce`` to a ``read_committed`` consumer, in the same process.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

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
RESOLUTION_SECONDS = 0.002
SHARES = (0.5, 0.9, 0.99)
ARMS = ("undisturbed", "beside a replay")


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
class Percentiles:
    """Of the latencies of one run, in milliseconds, as many as ``SHARES``."""

    milliseconds: tuple[float, ...]

    @classmethod
    def of(cls, latencies: list[float]) -> Percentiles:
        return cls(tuple(percentile(latencies, share) * 1000 for share in SHARES))


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


def beside_replay(
    scene: Replays, history: str, run: str, held: Sequence[str], send: Callable[[], list[float]]
) -> tuple[list[float], float]:
    """Send while a replay runs, held back by these options.

    Returns:
        What came of the sending, and the rate that the replay came to, in records a second.
    """
    with scene.start(history, "--run", run, *held) as process:
        try:
            wait_until(lambda: scene.answered(run), 60, "outcomes of the replay")
            latencies = send()
            assert process.poll() is None, "the replay was over before live was"
            process.send_signal(signal.SIGTERM)
            told, errors = process.communicate(timeout=COMMAND_SECONDS)
        finally:
            process.kill()
    assert process.returncode == ExitCode.INTERRUPTED, errors
    return latencies, _rate_told(told)


def _rate_told(lines: str) -> float:
    """Between the first sign of progress and the last one."""
    told = [each for each in map(json.loads, lines.splitlines()) if each["state"] == "running" and each["results"]]
    first, last = told[0], told[-1]
    return float((last["results"] - first["results"]) / (last["active_seconds"] - first["active_seconds"]))


def measure(
    endpoints: Endpoints, folder: Path, model: str, seconds: float, repetitions: int, live_share: float, max_batch: int
) -> None:
    for each in ("history", "beside"):
        (folder / each).mkdir()
    make = LOADS[model][1]
    found: dict[str, list[Percentiles]] = {arm: [] for arm in ARMS}
    replayed: list[float] = []
    history = Scene(endpoints, "history", folder / "history")
    scene = Replays(endpoints, "beside", folder / "beside", topics={"partitions": PARTITIONS})
    with history, scene:
        most = saturated(endpoints, folder, history, model)
        lengthen(history, model, most, seconds)
        scene.worker()
        load = SteadyLoad(scene, live_share * most, RESOLUTION_SECONDS)

        def send(of_seconds: float = seconds) -> list[float]:
            return load.latencies([scene.value(each) for each in events(make, int(of_seconds * live_share * most))])

        send(WARM_SECONDS)
        _, idle = beside_replay(scene, history.requests, "unlimited", (), send)
        rates = Rates(most, live_share * most, idle)
        # Live waits for the replay's calls that are under way: for one of them, not for four, and for a short one.
        held = ("--rate", f"{rates.replay:.1f}", "--max-concurrency", "1", "--max-batch", str(max_batch))
        for number in range(repetitions):
            for arm in ARMS[:: -1 if number % 2 else 1]:
                if arm == ARMS[0]:
                    latencies = send()
                else:
                    latencies, rate = beside_replay(scene, history.requests, f"r{number}", held, send)
                    replayed.append(rate)
                found[arm].append(Percentiles.of(latencies))
                shown = " ".join(f"{each:.1f}" for each in found[arm][-1].milliseconds)
                print(f"{arm}: {shown} ms, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    print(
        f"{model}: saturated {rates.saturated:,.0f}/s, live {rates.live:,.0f}/s, an unlimited replay beside it "
        f"{rates.idle:,.0f}/s, replay held to {rates.replay:,.0f}/s "
        f"(came to {statistics.median(replayed):,.0f}/s)"
    )
    show(found)


def show(found: dict[str, list[Percentiles]]) -> None:
    print("| live traffic | p50 | p90 | p99 | ratio of p99 (each pair) |")
    print("|---|---|---|---|---|")
    without, beside = ([each.milliseconds[-1] for each in found[arm]] for arm in ARMS)
    ratios = [after / before for before, after in zip(without, beside, strict=True)]
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    for arm, ratio in zip(ARMS, ("", spread), strict=True):
        columns = zip(*(each.milliseconds for each in found[arm]), strict=True)
        cells = " | ".join(f"{statistics.median(column):.1f} ms" for column in columns)
        print(f"| {arm} | {cells} | {ratio} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=LOADS, default="image_jpeg")
    parser.add_argument("--seconds", type=float, default=20, help="of each run")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--live-share", type=float, default=0.2, help="of the saturated rate, that live has")
    parser.add_argument("--max-batch", type=int, default=1, help="records in one of the replay's calls")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Stack() as stack:
        measure(
            stack.endpoints,
            Path(folder),
            options.model,
            options.seconds,
            options.repetitions,
            options.live_share,
            options.max_batch,
        )


if __name__ == "__main__":
    main()
