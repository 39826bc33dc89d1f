"""The models, and the programs that have Triton run them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.bench.passthrough.arms import OURS, PEERS, Arm
from tests.bench.passthrough.scene import NUMBERS, Load
from tests.integration.avro_ends import DATA, Datum, event, image, text

PHOTO = (DATA / "photos" / "cat.jpg").read_bytes()
SEEN = 16
"""Different rows that those send who do nothing but ask."""
CONCURRENT = 32
"""Records that FastStream works on at a time, where it is told to."""


def sentence(chance: random.Random) -> str:
    return f"sentence number {chance.randrange(10_000)} of many, none of them long"


def a_sentence(chance: random.Random) -> Datum:
    return event(text(sentence(chance)))


def a_photo(_: random.Random) -> Datum:
    return event(image(PHOTO))


def numbers_rows() -> list[bytes | list[float]]:
    chance = random.Random(1)
    content = [NUMBERS.make(chance)["parts"][0]["content"][1]["data"] for _ in range(SEEN)]
    return [list(memoryview(each).cast("f")) for each in content]


def text_rows() -> list[bytes | list[float]]:
    chance = random.Random(1)
    return [sentence(chance).encode() for _ in range(SEEN)]


@dataclass(frozen=True, slots=True)
class Workload:
    """A model, what is sent to it, and how.

    Attributes:
        name: in bench.json.
        title: in the table.
        model, input_name: Triton's.
        modality: of its route.
        batch, concurrency: rows of a call, and calls in flight, of headrace and of those who do nothing but ask.
        records: of a run of headrace.
        few: of a run of a program that sends record by record.
        load: the events.
        rows: what those send.
    """

    name: str
    title: str
    model: str
    input_name: str
    modality: str
    batch: int
    concurrency: int
    records: int
    few: int
    load: Load
    rows: list[bytes | list[float]]

    @property
    def sections(self) -> Mapping[str, Any]:
        """Of pipeline.yaml."""
        route = {
            "name": self.name,
            "model": self.model,
            "match": {"modality": [self.modality]},
            "batch": {"max_records": self.batch},
            "max_concurrency": self.concurrency,
        }
        return {"routes": [route], "worker": {"max_in_flight_records": 20_000, "max_records_per_transaction": 5_000}}


WORKLOADS = (
    Workload(
        "identity", "identity, 218 numbers", "identity", "INPUT0", "TENSOR", 32, 8, 20_000, 1_000, NUMBERS,
        numbers_rows(),
    ),
    Workload(
        "text", "text_embedding, a sentence", "text_embedding", "TEXT", "TEXT", 8, 4, 1_500, 200,
        Load("sentences", a_sentence), text_rows(),
    ),
    Workload(
        "image", "image_jpeg, a photo", "image_jpeg", "ENCODED", "IMAGE", 8, 4, 500, 100, Load("photos", a_photo),
        [PHOTO],
    ),
)  # fmt: skip
"""Calls in flight: as many as the model gains by (see the page on models)."""


def arms(workload: Workload) -> tuple[Arm, ...]:
    """Ours first."""
    named, model, load = workload.name, workload.model, workload.load
    told = f"{workload.batch} a batch, {workload.concurrency} calls in flight"
    return (
        Arm(
            f"{OURS}-{named}", "headrace", "headrace", workload.records, told, arguments=("worker",),
            pipeline=workload.sections, model=model, load=load,
        ),
        Arm(
            f"quix-{named}", "Quix Streams exactly-once", f"{PEERS}.quix_app", workload.few,
            "a call a record, commit interval 0.1 s", environment="quix", settings={"commit interval": 0.1},
            model=model, load=load,
        ),
        Arm(
            f"faststream-{named}", "FastStream (at least once)", f"{PEERS}.faststream_app", workload.few,
            "a call a record", environment="faststream", model=model, load=load,
        ),
        Arm(
            f"faststream-at-once-{named}", "FastStream (at most once)", f"{PEERS}.faststream_app", workload.few,
            f"a call a record, {CONCURRENT} records at a time", environment="faststream",
            settings={"at once": CONCURRENT}, model=model, load=load,
        ),
    )  # fmt: skip
