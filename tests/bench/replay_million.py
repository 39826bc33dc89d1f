"""A million records, replayed twice and compared: how long that takes, and how much memory.

Run: ``python -m tests.bench.replay_million``. Tiny events for the model ``identity``; runs ``a`` and ``b`` of all of
them; ``headrace evaluate b --against a``. Seconds are of the whole command. Memory is the resident size of its process
and of those that it started, together (what they share counts more than once), looked at every second.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import KafkaError, Message, Producer

from headrace.connectors.embedded.stack import Stack
from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.admin import ensure_topics
from headrace.pipeline.records import TopicSpec
from tests.integration.avro_ends import event, numbers
from tests.integration.harness import Scene
from tests.integration.replays import Replays

RECORDS = 1_000_000
PARTITIONS = 4
KEYS = 1_000
UNFLUSHED = 50_000
"""Records that the producer may hold: half of what its queue takes."""
SAMPLE_SECONDS = 1.0
COMMAND_SECONDS = 3600.0
WAY = (0.1, 0.5, 0.9)
"""Shares of a command's time at which its memory is shown: whether it grows."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A command that has come to its end.

    Attributes:
        told: the JSON on the last line of its output.
        seconds: that it took.
        resident_mib: its memory, a sample a second.
    """

    told: dict[str, Any]
    seconds: float
    resident_mib: tuple[float, ...]

    def at(self, share: float) -> float:
        """Its memory after this share of its time, in MiB."""
        return self.resident_mib[int(share * (len(self.resident_mib) - 1))]

    def row(self, name: str, records: int) -> str:
        memory = " | ".join(f"{each:,.0f} MiB" for each in (max(self.resident_mib), *map(self.at, WAY)))
        return f"| {name} | {self.seconds:,.1f} | {records / self.seconds:,.0f} | {memory} |"


def watched(words: Sequence[str], environment: Mapping[str, str], folder: Path) -> Watched:
    """Run a command that ends well, and look at its memory meanwhile."""
    samples: list[float] = []
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(words, env=environment, cwd=folder, stdout=out, stderr=errors) as process:
            try:
                while not _ended(process, SAMPLE_SECONDS):
                    samples.append(_resident_mib(psutil.Process(process.pid)))
                    assert time.monotonic() < began + COMMAND_SECONDS, words
            finally:
                process.kill()
        seconds = time.monotonic() - began
        out.seek(0)
        errors.seek(0)
        assert process.returncode == 0, errors.read()
        return Watched(json.loads(out.readlines()[-1]), seconds, tuple(samples))


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _resident_mib(process: psutil.Process) -> float:
    total = 0
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += each.memory_info().rss
    return total / 2**20


def fill(scene: Scene, records: int) -> None:
    def delivered(error: KafkaError | None, _: Message) -> None:
        assert error is None, error

    ensure_topics(scene.endpoints.bootstrap_servers, [TopicSpec(scene.requests, PARTITIONS)])
    producer = Producer(
        {
            "bootstrap.servers": scene.endpoints.bootstrap_servers,
            "enable.idempotence": True,
            "linger.ms": 50,
            "batch.size": 1_000_000,
            "compression.type": "lz4",
        }
    )
    for number in range(records):
        value = scene.value(event(numbers(number)))
        producer.produce(scene.requests, value, b"key-%d" % (number % KEYS), on_delivery=delivered)
        if number % UNFLUSHED == 0:
            assert producer.flush(60) == 0
    assert producer.flush(60) == 0


def measure(endpoints: Endpoints, folder: Path, records: int) -> None:
    out = folder / "out"
    scene = Replays(endpoints, "million", folder, topics={"partitions": PARTITIONS})
    with scene:

        def run(*arguments: str) -> Watched:
            return watched(scene.words(*arguments, "--json"), scene.environment, folder)

        began = time.monotonic()
        fill(scene, records)
        print(f"{records:,} records in the topic after {time.monotonic() - began:,.1f} s", flush=True)
        print("| command | seconds | records/s | peak | " + " | ".join(f"at {each:.0%}" for each in WAY) + " |")
        print("|---|---|---|---|---|---|---|")
        for name in ("a", "b"):
            replay = run("replay", scene.requests, "--run", name)
            assert (replay.told["results"], replay.told["dead_letters"]) == (records, 0), replay.told
            print(replay.row(f"`replay`, run {name}", records), flush=True)
        evaluate = run("evaluate", "b", "--against", "a", "--out", str(out))
        everything = {"results": records, "dead_letters": 0, "missing": 0, "duplicates": 0}
        assert evaluate.told["candidate"] == evaluate.told["baseline"] == everything, evaluate.told
        print(evaluate.row("`evaluate`", records))
    compared = evaluate.told["seconds"]
    size = (out / "report.html").stat().st_size
    print(
        f"`evaluate`: gathering and analysing {compared:,.1f} s, starting, rendering and writing "
        f"{evaluate.seconds - compared:,.1f} s; report.html {size / 1e6:.2f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=RECORDS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Stack() as stack:
        measure(stack.endpoints, Path(folder), options.records)


if __name__ == "__main__":
    main()
