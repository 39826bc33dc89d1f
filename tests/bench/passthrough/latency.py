"""Produced → visible at a steady rate, beside the floor: when the request itself reaches a plain consumer.

Both are of the very same records and read by one consumer, so the machine's moods meet both alike.
"""

from __future__ import annotations

import math
import random
import re
import statistics
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import psutil
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from headrace.connectors.embedded.process import ServerProcess
from headrace.pipeline.pacing import Pace
from tests.bench.passthrough.arms import OURS, PEERS, Arm, headrace, quix
from tests.bench.passthrough.environments import python_of
from tests.bench.passthrough.run import LEFT_OUT, STOP_SECONDS, miscounted, read, start
from tests.bench.passthrough.scene import PARTITIONS, BenchScene
from tests.bench.ratios import Estimate, estimate
from tests.bench.steady import percentile

RATE = 200
WARM_RATE, WARM_RECORDS = 400, 8_000
"""Of the raw loop, first: a broker that is new to transactions of a record or two takes several times as long."""
WARM_SECONDS, SECONDS, SMOKE_SECONDS = 2.0, 6.0, 1.0
SELDOM_REPETITIONS = 2
"""At most, of Quix."""
BACKLOG, SMOKE_BACKLOG = 30_000, 1_000
AT_ONCE = 1e6
"""Records a second: faster than any client sends."""
READY_SECONDS = 60.0
LATE_SECONDS = 30.0
SHARES: Mapping[str, float] = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
PROBE = -1
QUIX_SECONDS = 0.01
"""Quix's commit interval: about as long as its transactions take, so that no record waits for it."""
_PAUSE = re.compile(r"^\[(?P<at>\S+)\] GC\(\d+\) Pause .* (?P<ms>[\d.]+)ms$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class LatencySample:
    """Of one run.

    Attributes:
        latency_ms, floor_ms: by percentile, from when a record was due to be sent to when its result, or the record
            itself, was read.
        collections_ms: each of the broker's garbage collections in the window.
        steal: share of the processors' time meanwhile that other machines had.
    """

    latency_ms: Mapping[str, float]
    floor_ms: Mapping[str, float]
    collections_ms: tuple[float, ...]
    steal: float

    def added_ms(self, name: str) -> float:
        """Over the floor of the same run."""
        return self.latency_ms[name] - self.floor_ms[name]


@dataclass(frozen=True, slots=True)
class Latencies:
    """An arm and its samples, one each repetition."""

    arm: Arm
    samples: tuple[LatencySample, ...]


def arms() -> tuple[Arm, ...]:
    told = "what has come, up to 1,024 a transaction, headrace's client settings, 2 producers in turn"
    settings = {"records a transaction": 1024, "waits for more": False}
    raw = Arm("raw_at_once", "raw confluent-kafka loop", f"{PEERS}.raw_loop", 0, told, settings=settings)
    return headrace(), raw, quix("quix_at_once", QUIX_SECONDS)


@dataclass(slots=True)
class Times:
    """Monotonic seconds by the record's number."""

    due: dict[int, float] = field(default_factory=dict)
    reached: dict[int, float] = field(default_factory=dict)
    answered: dict[int, float] = field(default_factory=dict)


class SteadyRun:
    """Sends to a topic at a steady rate, and reads it and its results."""

    def __init__(self, bootstrap_servers: str, requests: str, results: str, rate: float) -> None:
        self._requests = requests
        self._rate = rate
        self._producer = Producer({"bootstrap.servers": bootstrap_servers, "enable.idempotence": True, "linger.ms": 0})
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": f"{results}-reader",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
            }
        )
        self._consumer.assign(
            [
                TopicPartition(topic, partition, OFFSET_BEGINNING)
                for topic in (requests, results)
                for partition in range(PARTITIONS)
            ]
        )
        self.times = Times()

    def probe(self, value: bytes) -> None:
        """Send one record, and return when it is answered."""
        self._produce(PROBE, value, time.monotonic())
        self._producer.flush(READY_SECONDS)
        self._read(1, READY_SECONDS)

    def send(self, values: Sequence[bytes]) -> None:
        """Send all, and return when all are answered."""
        sender = threading.Thread(target=self._send, args=(values,))
        sender.start()
        try:
            self._read(len(self.times.answered) + len(values), len(values) / self._rate + LATE_SECONDS)
        finally:
            sender.join()

    def close(self) -> None:
        self._consumer.close()

    def _send(self, values: Sequence[bytes]) -> None:
        pace = Pace(self._rate, time.monotonic(), math.inf)
        for number, value in enumerate(values):
            now = time.monotonic()
            left = pace.wait_seconds(now)
            time.sleep(max(0.0, left))
            pace.take(time.monotonic())
            self._produce(number, value, now + left)  # also if this is late: whoever waits began to then
        self._producer.flush(LATE_SECONDS)

    def _produce(self, number: int, value: bytes, due: float) -> None:
        self.times.due[number] = due
        self._producer.produce(self._requests, value, b"%d" % number)
        self._producer.poll(0)

    def _read(self, answers: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while min(len(self.times.answered), len(self.times.reached)) < answers:
            record = self._consumer.poll(0.1)
            now = time.monotonic()
            assert now < deadline, f"{len(self.times.answered)} of {answers} are answered"
            if record is not None and record.error() is None:
                seen = self.times.reached if record.topic() == self._requests else self.times.answered
                seen[int(record.key() or b"")] = now


def run(
    scene: BenchScene,
    arm: Arm,
    name: str,
    values: Sequence[bytes],
    warm: int,
    rate: float = RATE,
) -> LatencySample:
    """One run: ``timed``, without the first ``warm`` ones."""
    times, steal = timed(scene, arm, name, values, rate)
    measured = range(warm, len(values))
    epoch = time.time() - time.monotonic()
    window = times.due[warm] + epoch, max(times.answered.values()) + epoch
    return LatencySample(
        latency_ms=percentiles([times.answered[each] - times.due[each] for each in measured]),
        floor_ms=percentiles([times.reached[each] - times.due[each] for each in measured]),
        collections_ms=collections(scene.collections.read_text(), *window),
        steal=steal,
    )


def timed(scene: BenchScene, arm: Arm, name: str, values: Sequence[bytes], rate: float) -> tuple[Times, float]:
    """When each of some records was due, seen, and answered; and the share of the processors that others had.

    Args:
        scene: of the servers.
        arm: that answers.
        name: of its group, and of its topics.
        values: that are sent.
        rate: records a second.

    Raises:
        AssertionError: not every request is answered once.
    """
    requests, results = f"{name}.requests", f"{name}.results"
    for topic in (requests, results):
        scene.make_topic(topic)
    count = len(values)
    process = ServerProcess(name, scene.folder / name / "log")
    start(scene, arm, name, requests, process)
    steady = SteadyRun(scene.bootstrap_servers, requests, results, rate)
    before = psutil.cpu_times()
    try:
        steady.probe(values[0])
        steady.send(values)
        after = psutil.cpu_times()
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}; {process.log_tail()}") from error
    finally:
        process.stop(STOP_SECONDS)
        steady.close()
    times = steady.times
    lost, doubled = miscounted(read(scene, results), count + 1)
    assert (lost, doubled) == (0, 0), f"{name}: {lost} lost, {doubled} doubled"
    for topic in (requests, results):
        scene.drop_topic(topic)
    return times, (after.steal - before.steal) / (sum(after) - sum(before))


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {name: percentile(seconds, share) * 1000 for name, share in SHARES.items()}


def collections(log: str, began: float, ended: float) -> tuple[float, ...]:
    """Milliseconds of each pause in the log of a Java virtual machine that was between these times (epoch seconds)."""
    return tuple(
        float(each["ms"])
        for each in _PAUSE.finditer(log)
        if began <= datetime.fromisoformat(each["at"]).timestamp() <= ended
    )


def half_of_saturation(scene: BenchScene, smoke: bool) -> int:
    """Records a second: half of what headrace answers of records that are sent all at once.

    By the same client as later, which sends and reads meanwhile: on a small machine that takes as much as the worker.
    """
    arm = headrace()
    values = list(scene.values(arm.load, SMOKE_BACKLOG if smoke else BACKLOG))
    times, _ = timed(scene, arm, "saturated", values, AT_ONCE)
    answered = sorted(times.answered.values())[round(LEFT_OUT * len(values)) :]
    return round((len(answered) - 1) / (answered[-1] - answered[0]) / 2)


def compare(scene: BenchScene, repetitions: int, smoke: bool, rate: int = RATE) -> tuple[Latencies, ...]:
    """Ours first, each in turn, at so many records a second."""
    python_of("quix")
    warm_seconds, seconds = (0.0, SMOKE_SECONDS) if smoke else (WARM_SECONDS, SECONDS)
    samples: dict[str, list[LatencySample]] = {arm.name: [] for arm in arms()}
    if not smoke:
        raw = arms()[1]
        timed(scene, raw, f"latency-{rate}-warm", list(scene.values(raw.load, WARM_RECORDS)), WARM_RATE)
    chance = random.Random(2)
    for number in range(repetitions):
        for arm in chance.sample(arms(), len(arms())):
            if number >= SELDOM_REPETITIONS and arm.environment is not None:
                continue
            values = list(scene.values(arm.load, round((warm_seconds + seconds) * rate)))
            sample = run(scene, arm, f"latency-{rate}-{arm.name}-{number}", values, round(warm_seconds * rate), rate)
            samples[arm.name].append(sample)
            print(f"latency {arm.name} at {rate}/s {number}: {sample}", file=sys.stderr, flush=True)
    return tuple(Latencies(arm, tuple(samples[arm.name])) for arm in arms())


def added(found: Sequence[Latencies]) -> dict[str, Estimate]:
    """Milliseconds that headrace adds to the floor, and to the raw loop's p50 and p99, of the same repetition.

    Of the runs without a collection, if there are any.
    """
    by_name = {each.arm.name: each.samples for each in found}
    pairs = list(zip(by_name[OURS], by_name["raw_at_once"], strict=True))
    calm = [pair for pair in pairs if not any(each.collections_ms for each in pair)] or pairs
    estimates = {}
    for name in ("p50", "p99"):
        estimates[f"added_{name}_ms"] = estimate([ours.added_ms(name) for ours, _ in calm])
        estimates[f"added_to_raw_{name}_ms"] = estimate(
            [ours.added_ms(name) - raw.added_ms(name) for ours, raw in calm]
        )
    return estimates


def table(found: Sequence[Latencies], told: Mapping[str, Estimate]) -> list[str]:
    """In Markdown: medians over the runs of the percentiles of each, and what is added."""
    lines = [
        "| program | settings | p50 / p90 / p99 / max | floor, p50 / p90 / p99 / max | collections | steal |",
        "|---|---|---|---|---|---|",
    ]
    for each in found:
        pauses = [pause for sample in each.samples for pause in sample.collections_ms]
        cells = (
            each.arm.title,
            each.arm.told,
            _cell([sample.latency_ms for sample in each.samples]),
            _cell([sample.floor_ms for sample in each.samples]),
            f"{len(pauses)}, the longest {max(pauses):.0f} ms" if pauses else "none",
            f"{statistics.median(sample.steal for sample in each.samples):.0%}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| milliseconds | median of the runs | 95 % by bootstrap |", "|---|---|---|"]
    for name, value in told.items():
        lines.append(f"| `{name}` | {value.median:.1f} | {value.low:.1f} to {value.high:.1f} |")
    return lines


def _cell(percentiles: Sequence[Mapping[str, float]]) -> str:
    return " / ".join(f"{statistics.median(each[name] for each in percentiles):.1f}" for name in SHARES) + " ms"
