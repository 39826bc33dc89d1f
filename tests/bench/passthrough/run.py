"""One run of one arm: the program goes through the whole topic, and what it wrote is counted and timed."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import yaml
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from headrace.connectors.embedded.process import ServerProcess
from headrace.pipeline.avro import Contract, schema_json
from tests.bench.passthrough.arms import Arm
from tests.bench.passthrough.environments import ROOT, environment, python_of
from tests.bench.passthrough.scene import PARTITIONS, BenchScene
from tests.bench.passthrough.spec import SPEC_VARIABLE, Spec
from tests.bench.passthrough.watch import Watch, is_done
from tests.bench.steady import percentile

LEFT_OUT = 0.1
"""Share of the results, the first ones, that is not timed: starting up."""
RUN_SECONDS = 120.0
STOP_SECONDS = 10.0
READ_SECONDS = 60.0
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run came to.

    Attributes:
        records_per_second: by the broker's times of the results, the first tenth left out; 0 if too few came.
        visible_p50_ms, visible_p99_ms: from a result's append to when a ``read_committed`` reader could have it.
        lost, doubled: requests without a result, and results beyond the first.
        records_a_transaction: mean, where the program counts them.
        seconds: of the whole run.
        load: average of the machine at its end.
    """

    records_per_second: float
    visible_p50_ms: float
    visible_p99_ms: float
    lost: int
    doubled: int
    records_a_transaction: float | None
    seconds: float
    load: float

    @property
    def exact(self) -> bool:
        """Each request was answered once."""
        return not self.lost and not self.doubled


class Result(NamedTuple):
    """Where a result is, when the broker had it, and the request (partition, offset) that it answers."""

    partition: int
    offset: int
    appended_ms: int
    answers: tuple[int, int]


def run(scene: BenchScene, arm: Arm, name: str, records: int) -> Sample:
    """Raises AssertionError if the program ends by itself."""
    began = time.monotonic()
    requests, results = scene.requests(arm.load, records, arm.partitions), f"{name}.results"
    scene.make_topic(results, arm.partitions)
    processes = [ServerProcess(name, scene.folder / name / f"log-{slot}") for slot in range(arm.workers)]
    with Watch(scene.bootstrap_servers, results, arm.partitions) as watch:
        try:
            for slot, process in enumerate(processes):
                start(scene, arm, name, requests.topic, process, slot)
            deadline = time.monotonic() + RUN_SECONDS
            while not (is_done(scene.admin, name, requests.ends) and watch.visible >= records):
                for process in processes:
                    assert process.running, f"{name} ended; {process.log_tail()}"
                if time.monotonic() > deadline:  # a peer that stalls: what it lost is told
                    break
                time.sleep(POLL_SECONDS)
        finally:
            for process in processes:
                process.stop(STOP_SECONDS)
    found = read(scene, results, arm.partitions)
    scene.drop_topic(results)
    return _sample(found, watch, records, _reported(scene.folder / name), time.monotonic() - began)


def start(scene: BenchScene, arm: Arm, name: str, requests: str, process: ServerProcess, slot: int = 0) -> None:
    """Begin to answer a topic of requests, into ``NAME.results``, in the group of that name."""
    folder = scene.folder / name / str(slot)
    folder.mkdir(parents=True)
    settings, results = dict(arm.settings), f"{name}.results"
    arguments = arm.arguments
    if arm.pipeline is not None:
        file = folder / "pipeline.yaml"
        arguments = (*arguments, "-c", str(file)) if arm.model else arguments
        settings["file"] = str(file)
        topics = {"requests": [requests], "results": results, "dead_letters": f"{name}.dead-letters"}
        whole = {
            **arm.pipeline,
            "name": name,
            "kafka": {"bootstrap_servers": scene.bootstrap_servers},
            "registry": {"url": scene.registry_url},
            "topics": {**topics, "partitions": arm.partitions},
            **({"triton": {"url": scene.triton_url}} if scene.triton_url else {}),
            "worker": {**arm.pipeline["worker"], "http_port": 0, "slot": slot},
        }
        file.write_text(yaml.safe_dump(whole))
    spec = Spec(
        bootstrap_servers=scene.bootstrap_servers,
        requests=requests,
        results=results,
        group=name,
        partitions=arm.partitions,
        request_schema=schema_json(Contract.REQUEST),
        request_schema_id=scene.ids.request,
        result_schema_id=scene.ids.result,
        report=str(folder / "report.json"),
        triton_url=scene.triton_url,
        model=arm.model,
        settings=settings,
    )
    spec.write(folder / "spec.json")
    command = [str(python_of(arm.environment)), "-m", arm.program, *arguments]
    process.spawn(command, {**environment(), SPEC_VARIABLE: str(folder / "spec.json")}, ROOT)


def _reported(folder: Path) -> float | None:
    """Records a transaction, if the program says so."""
    counts = [json.loads(each.read_text()) for each in folder.glob("*/report.json")]
    records, transactions = (sum(each[name] for each in counts) for name in ("records", "transactions"))
    return float(records / transactions) if transactions else None


def read(scene: BenchScene, topic: str, partitions: int = PARTITIONS) -> list[Result]:
    """All that a ``read_committed`` consumer can have, to the ends of the partitions."""
    consumer = Consumer(
        {
            "bootstrap.servers": scene.bootstrap_servers,
            "group.id": "bench",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(partitions)])
    found: list[Result] = []
    unfinished, deadline = partitions, time.monotonic() + READ_SECONDS
    try:
        while unfinished and time.monotonic() < deadline:
            for record in consumer.consume(10_000, 0.2):
                error = record.error()
                if error is not None:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    unfinished -= 1
                    continue
                where = scene.registry.decode(cast("bytes", record.value()))["provenance"]
                answers = where["partition"], where["offset"]
                found.append(Result(record.partition() or 0, record.offset() or 0, record.timestamp()[1], answers))
    finally:
        consumer.close()
    return found


def miscounted(found: Sequence[Result], requests: int) -> tuple[int, int]:
    """How many requests have no result, and how many results are more than the first of a request."""
    counts = Counter(each.answers for each in found)
    return requests - len(counts), len(found) - len(counts)


def _sample(
    found: Sequence[Result], watch: Watch, records: int, records_a_transaction: float | None, seconds: float
) -> Sample:
    lost, doubled = miscounted(found, records)
    timed = sorted(found, key=lambda each: each.appended_ms)[int(len(found) * LEFT_OUT) :]
    delays = [
        max(0.0, seen * 1000 - each.appended_ms)
        for each in timed
        if (seen := watch.seen_at(each.partition, each.offset)) is not None
    ]
    took_ms = timed[-1].appended_ms - timed[0].appended_ms if timed else 0
    return Sample(
        records_per_second=(len(timed) - 1) / took_ms * 1000 if took_ms else 0.0,
        visible_p50_ms=statistics.median(delays) if delays else 0.0,
        visible_p99_ms=percentile(delays, 0.99) if delays else 0.0,
        lost=lost,
        doubled=doubled,
        records_a_transaction=records_a_transaction,
        seconds=seconds,
        load=os.getloadavg()[0],
    )
