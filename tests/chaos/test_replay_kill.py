"""A replay that is killed again and again while brokers die and the net breaks: each record of its range once.

``HEADRACE_CHAOS_SEED`` has the same load, kills and faults again. ``tests/integration/test_replay.py`` kills one on
brokers that are well.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from headrace.connectors.kafka.admin import ensure_topics
from headrace.connectors.kafka.history import KafkaTopicHistory
from headrace.pipeline.errors import HeadraceError
from headrace.pipeline.records import TopicSpec
from tests.chaos.checker import CLIENT, asked_by, said_by
from tests.chaos.cluster import KafkaCluster
from tests.chaos.faults import break_net
from tests.chaos.load import PARTITIONS, Load
from tests.chaos.stage import Stage
from tests.chaos.tally import Asked
from tests.integration.avro_ends import Registry
from tests.integration.harness import wait_until

RUN = "r"
RUNS = "chaos.runs"
RESULTS, DEAD_LETTERS, PROGRESS = (f"{RUNS}.{RUN}.{name}" for name in ("results", "dead-letters", "progress"))
TRANSACTIONAL_ID = f"{RUNS}.{RUN}-0"
RECORDS = 2_000
LOAD_RATE = 1_500.0
REPLAY_RATE = 150
"""Records a second: so that it is not over before all is broken."""
KILLS = 4
ALIVE_SECONDS = (0.0, 2.0)
"""A process is killed so long after it has committed something."""
BROKERS = ("transaction_coordinator", "leader")
NETS = ("kafka_cut", "kafka_refuse", "kafka_hang", "kafka_lose_replies")
BROKEN_SECONDS = (1.0, 3.0)
WELL_SECONDS = (0.5, 2.0)
PROGRESS_SECONDS = 90.0
END_SECONDS = 120.0


class Outcome(NamedTuple):
    """``code`` is empty for a result."""

    code: str
    identity: int


class ReplayProcess:
    """``headrace replay``, begun and then resumed however often it ends."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self._stage = stage
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[str] | None = None
        self._complete = False
        self.starts = 0
        self.last_words: list[str] = []
        """Of processes that ended by themselves, before the run was complete."""

    def start(self) -> None:
        whole = [self._stage.topics.requests, "--run", RUN] if not self.starts else ["--resume", RUN]
        words = [sys.executable, "-m", "headrace", "replay", *whole, "--rate", str(REPLAY_RATE), "--json"]
        self.starts += 1
        self._log = (self._folder / f"replay-{self.starts}.log").open("w+")
        self._process = subprocess.Popen(
            [*words, "-c", str(self._stage.config)],
            env={**os.environ, **self._stage.environment(0)},
            cwd=self._folder,
            text=True,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def kill(self) -> None:
        """SIGKILL, if it is there."""
        if self._process is not None:
            self._process.kill()
            self._end()

    def ended(self) -> bool:
        """Whether the run is complete. What has ended without that is started again, as a user would.

        Raises:
            AssertionError: it has ended in another way than by what it says cannot be had now.
        """
        if self._complete or self._process is None or (code := self._process.poll()) is None:
            return self._complete
        log = self._end()
        assert code in (0, 1), log
        self._complete = code == 0
        if not self._complete:
            self.last_words.append(log.rstrip().rpartition("\n")[2])
            self.start()
        return self._complete

    def _end(self) -> str:
        assert self._process is not None
        assert self._log is not None
        self._process.wait(10)
        self._log.seek(0)
        text = self._log.read()
        self._log.close()
        self._process = None
        return text


@contextlib.contextmanager
def replaying(stage: Stage, folder: Path) -> Iterator[ReplayProcess]:
    process = ReplayProcess(stage, folder)
    process.start()
    try:
        yield process
    finally:
        process.kill()


class Breaker:
    """Breaks brokers, and the net before them, in two threads until it is told to stop; then all is well."""

    def __init__(self, cluster: KafkaCluster, rng: random.Random) -> None:
        self._cluster = cluster
        self._brokers, self._nets = (random.Random(rng.getrandbits(32)) for _ in range(2))
        self._stopping = threading.Event()
        self.done: Counter[str] = Counter()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Raises what a fault raised."""
        with ThreadPoolExecutor(2) as pool:
            running: list[Future[None]] = [pool.submit(self._break_brokers), pool.submit(self._break_nets)]
            try:
                yield
            finally:
                self._stopping.set()
        for each in running:
            each.result()

    def _break_brokers(self) -> None:
        """One at a time, back in sync before the next: two of three replicas are what is promised on."""
        for kind in self._dealt(self._brokers, BROKERS):
            node = self._node(kind)
            self._cluster.kill(node)
            self._wait(self._brokers, BROKEN_SECONDS)
            self._cluster.start(node)
            self._cluster.wait_in_sync()
            self.done[f"{kind}_kill"] += 1

    def _break_nets(self) -> None:
        for kind in self._dealt(self._nets, NETS):
            proxies = [self._cluster.proxies[node] for node in self._nets.choice(([1], [2], [3], [1, 2, 3]))]
            for proxy in proxies:
                break_net(proxy, kind, self._nets)
            self._wait(self._nets, BROKEN_SECONDS)
            drop = self._nets.random() < 0.5
            for proxy in proxies:
                proxy.heal(drop=drop)
            self.done[kind] += 1

    def _dealt(self, rng: random.Random, kinds: tuple[str, ...]) -> Iterator[str]:
        """Each before any comes again, with pauses."""
        while True:
            for kind in rng.sample(kinds, len(kinds)):
                self._wait(rng, WELL_SECONDS)
                if self._stopping.is_set():
                    return
                yield kind

    def _wait(self, rng: random.Random, seconds: tuple[float, float]) -> None:
        self._stopping.wait(rng.uniform(*seconds))

    def _node(self, kind: str) -> int:
        with contextlib.suppress(LookupError):  # between two leaders: any then
            if kind == "leader":
                return self._cluster.leader(PROGRESS, 0)
            return self._cluster.transaction_coordinator(TRANSACTIONAL_ID)
        return self._brokers.choice(sorted(self._cluster.servers))


def read(where: str, topic: str) -> Iterator[Message]:
    """All that is committed, and nothing may be open any more."""
    history = KafkaTopicHistory(where, topic, CLIENT)
    ends = history.written()
    assert {partition: held.end for partition, held in history.retained().items()} == ends
    consumer = Consumer(
        {
            **CLIENT,
            "bootstrap.servers": where,
            "group.id": "checker",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    unread = {partition for partition, end in ends.items() if end}
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in unread])
    deadline = time.monotonic() + END_SECONDS
    try:
        while unread:
            assert time.monotonic() < deadline, f"{topic} is not read to the ends of {unread}"
            for record in consumer.consume(1000, 0.1):
                error = record.error()
                if error is None:
                    yield record
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(record.partition() or 0)
    finally:
        consumer.close()


def check(stage: Stage) -> Counter[str]:
    """The number of results and dead letters. Raises AssertionError unless each input has the one outcome it must."""
    where, registry, unknown = stage.cluster.bootstrap_servers, Registry(stage.registry.url), set[int]()
    wanted: dict[tuple[int | None, int | None], Asked] = {}
    for record in read(where, stage.topics.requests):
        wanted[record.partition(), record.offset()] = asked_by(registry, unknown, record.key(), record.value())
    found: dict[tuple[int | None, int | None], list[Outcome]] = {}
    for topic in (RESULTS, DEAD_LETTERS):
        for record in read(where, topic):
            said = said_by(registry, record.key(), record.headers(), record.value())
            assert said.topic == stage.topics.requests
            assert (topic == DEAD_LETTERS) == bool(said.code)
            found.setdefault((said.partition, said.offset), []).append(Outcome(said.code, said.identity))
    assert found == {place: [Outcome(asked.code, asked.identity)] for place, asked in wanted.items()}
    assert len(wanted) == RECORDS
    return Counter("dead_letters" if asked.code else "results" for asked in wanted.values())


def written(where: str) -> int:
    """How far the run's progress is written, committed or not."""
    try:
        return KafkaTopicHistory(where, PROGRESS, CLIENT).written()[0]
    except HeadraceError:  # not made yet, or its leader has just been killed
        return 0


@pytest.mark.timeout(600)
def test_replay_killed_while_brokers_fall_answers_each_record_once(tmp_path: Path) -> None:
    seed = int(os.environ.get("HEADRACE_CHAOS_SEED") or random.SystemRandom().randrange(2**32))
    print(f"\nHEADRACE_CHAOS_SEED={seed}", file=sys.stderr, flush=True)
    rng = random.Random(seed)
    with Stage(tmp_path, slots=(), topics={"runs": RUNS}) as stage:
        direct, requests = stage.cluster.bootstrap_servers, stage.topics.requests
        ensure_topics(direct, [TopicSpec(requests, PARTITIONS, 3)])
        with Load(direct, stage.registry.url, requests, rng, LOAD_RATE, lambda: 0, RECORDS + 1, limit=RECORDS) as load:
            load.wait(60)
        began = time.monotonic()
        breaker = Breaker(stage.cluster, rng)
        with replaying(stage, tmp_path) as replay:
            wait_until(lambda: written(direct), PROGRESS_SECONDS, "the run to begin")
            with breaker.at_work():
                for _ in range(KILLS):
                    before = written(direct)
                    wait_until(
                        lambda before=before: replay.ended() or written(direct) > before,  # type: ignore[misc]
                        PROGRESS_SECONDS,
                        "the replay to commit something",
                    )
                    time.sleep(rng.uniform(*ALIVE_SECONDS))
                    assert not replay.ended(), "it was over before it could be killed"
                    replay.kill()
                    replay.start()
            wait_until(replay.ended, END_SECONDS, "the replay to be complete")
        seconds = time.monotonic() - began
        counts = check(stage)
        words = [sys.executable, "-m", "headrace", "runs", "show", RUN, "-c", str(stage.config)]
        shown = subprocess.run(words, env={**os.environ, **stage.environment(0)}, capture_output=True, text=True)
        run = json.loads(shown.stdout)
    print(
        f"{counts}, resumed {run['resumed']} times of {replay.starts} starts, {dict(breaker.done)} in {seconds:.0f} s; "
        f"ended by themselves: {replay.last_words}",
        file=sys.stderr,
    )
    assert (run["state"], run["results"], run["dead_letters"]) == (
        "complete",
        counts["results"],
        counts["dead_letters"],
    )
    assert counts["dead_letters"] == load.poison > 0
    assert 1 <= run["resumed"] < replay.starts
