"""The arms of the comparison: which program, in which environment, with which settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.bench.passthrough.scene import NUMBERS, PARTITIONS, Load

MANY, SOME, FEW = 60_000, 10_000, 2_000
"""Records of a run: each takes some seconds, at the rate that a program of its kind has."""
OURS = "headrace"
RAW_RECORDS = (64, 256, 1024)
QUIX_INTERVALS = (0.1, 0.5, 2.0)
"""Seconds, tried once each beside its default; the fastest is the arm ``quix_best``."""
FASTSTREAM_BATCH = 500
PEERS = "tests.bench.passthrough.peers"
WORKER_SETTINGS: Mapping[str, Any] = {
    "worker": {"max_in_flight_records": 20_000, "max_records_per_transaction": 5_000},
    "routes": [
        {"name": "identity", "model": "identity", "match": {"modality": ["TENSOR"]}, "batch": {"max_records": 512}}
    ],
}
"""What differs from the defaults."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One program with one set of settings.

    Attributes:
        name: in bench.json.
        title: in the table.
        program: its module.
        records: of one run.
        told: its settings in a few words.
        environment: name of its pins; None: the project's own.
        packages: whose versions matter.
        settings: for its ``Spec``.
        arguments: of its command line.
        pipeline: sections of ``pipeline.yaml``, if it is headrace.
        load: what it goes through.
        model: that it has Triton run; empty: there is no Triton.
        partitions: of its topics.
        workers: processes of it, in one group.
    """

    name: str
    title: str
    program: str
    records: int
    told: str
    environment: str | None = None
    packages: tuple[str, ...] = ("confluent-kafka",)
    settings: Mapping[str, Any] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    pipeline: Mapping[str, Any] | None = None
    load: Load = NUMBERS
    model: str = ""
    partitions: int = PARTITIONS
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the settings of some arms follow from, measured before the comparison.

    Attributes:
        records_a_transaction: headrace's mean.
        visibility_seconds: headrace's median, of a result from its append to when it can be read.
        quix_interval_seconds: Quix's fastest; None: its default is.
    """

    records_a_transaction: int
    visibility_seconds: float
    quix_interval_seconds: float | None


UNCALIBRATED = Calibration(1, 1.0, 1.0)
"""For what does not depend on it: which arms there are, and what they need."""


def headrace() -> Arm:
    told = "512 a batch, 20,000 in flight, up to 5,000 a transaction, 2 producers; all else by default"
    packages = "confluent-kafka", "faust-streaming", "fastavro"
    return Arm(OURS, "headrace", f"{PEERS}.worker", MANY, told, packages=packages, pipeline=WORKER_SETTINGS)


def raw(name: str, records: int) -> Arm:
    return Arm(
        name,
        "raw confluent-kafka loop",
        f"{PEERS}.raw_loop",
        MANY,
        f"{records} a transaction, headrace's client settings, 2 producers in turn",
        settings={"records a transaction": records},
    )


def quix(name: str, interval_seconds: float | None, note: str = "") -> Arm:
    told = "default commit interval" if interval_seconds is None else f"commit interval {interval_seconds:.3g} s"
    return Arm(
        name,
        "Quix Streams exactly-once",
        f"{PEERS}.quix_app",
        MANY,
        f"{told}{note}, headrace's client settings for speed",
        environment="quix",
        packages=("quixstreams", "confluent-kafka", "fastavro"),
        settings={} if interval_seconds is None else {"commit interval": interval_seconds},
    )


def faust() -> Arm:
    return Arm(
        "faust",
        "Faust exactly_once",
        f"{PEERS}.faust_app",
        SOME,
        "as it comes",
        environment="faust",
        packages=("faust-streaming", "aiokafka", "fastavro"),
        arguments=("worker", "-l", "warn", "--without-web"),
    )


def faststream(name: str, records: int, batches: int = 0) -> Arm:
    return Arm(
        name,
        "FastStream (at least once)",
        f"{PEERS}.faststream_app",
        records,
        f"batches of up to {batches}" if batches else "record by record, offsets committed after each",
        environment="faststream",
        packages=("faststream", "aiokafka", "fastavro"),
        settings={"batches": batches} if batches else {},
    )


def all_arms(calibration: Calibration) -> tuple[Arm, ...]:
    """Ours first."""
    best = calibration.quix_interval_seconds
    return (
        headrace(),
        raw("raw_same", calibration.records_a_transaction),
        *(raw(f"raw_{records}", records) for records in RAW_RECORDS),
        faust(),
        quix("quix_equal", calibration.visibility_seconds, " (headrace's median visibility delay)"),
        quix("quix_default", None),
        *(() if best is None else (quix("quix_best", best, " (the fastest tried)"),)),
        faststream("faststream", FEW),
        faststream("faststream_batches", SOME, FASTSTREAM_BATCH),
    )
