"""What a record costs of processor time in a worker: decode, encode, and the whole way but for Kafka and Triton.

Run: ``python -m tests.bench.hot_path``. Processor time, not time of day, of the least disturbed of some rounds. The
whole way is from record batches to the outputs of transactions: ledger, decode, routing, batching, a model that gives
back what it gets, order by key, headers, encode.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Callable, Sequence

from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.budget import Budget
from headrace.pipeline.clock import SystemClock
from headrace.pipeline.config import Settings
from headrace.pipeline.dispatch import RouteDispatcher
from headrace.pipeline.envelope import RequestDecoder, ResultDecoder, encode_result
from headrace.pipeline.flow import Flow
from headrace.pipeline.health import Health
from headrace.pipeline.interpreter import set_for_a_worker
from headrace.pipeline.ports import FrameSampler, StartPosition
from headrace.pipeline.processor import Processor
from headrace.pipeline.records import OutputRecord, Provenance, RecordBatch, SourceRecord, TopicPartition
from headrace.pipeline.setup import ContractIds
from headrace.pipeline.user_code import UserCode
from tests.bench.passthrough.arms import WORKER_SETTINGS
from tests.bench.passthrough.peers.worker import Identity
from tests.bench.passthrough.scene import NUMBERS
from tests.integration.avro_ends import encode

RECORDS, BATCH, KEYS, ROUNDS = 2_048, 512, 10_000, 40
REQUEST, RESULT, DEAD_LETTER = 1, 2, 3
PARTITION = TopicPartition("requests", 0)
MOST_A_TRANSACTION = 5_000


class NoSampler:
    """No video comes by here."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(name)


def records_from(first: int, values: Sequence[bytes]) -> list[SourceRecord]:
    return [
        SourceRecord(Provenance(*PARTITION, first + at, 1_700_000_000_000), b"%d" % (at % KEYS), value, ())
        for at, value in enumerate(values)
    ]


class Core:
    """The worker between its ports, without Faust's channels."""

    def __init__(self) -> None:
        topics = {"requests": ["requests"], "results": "results", "dead_letters": "dead"}
        settings = Settings.model_validate({"name": "mill", "topics": topics, **WORKER_SETTINGS})
        decoder = RequestDecoder()
        decoder.add_schema(REQUEST, schema_json(Contract.REQUEST))
        clock = SystemClock()
        budget = Budget(RECORDS * 10, 10**10)
        self._batches: list[RecordBatch] = []
        self._flow = Flow(budget, self._batches.append, 10.0)
        ids = ContractIds(REQUEST, RESULT, DEAD_LETTER)
        partitions = {"requests": 1, "results": 1, "dead": 1}
        user_code = UserCode(30.0)
        self._processor = Processor(settings, "mill-0", decoder, ids, partitions, self._flow, clock, user_code)
        sampler: FrameSampler = NoSampler()  # type: ignore[assignment]
        (route,) = settings.routes
        self._dispatcher = RouteDispatcher(
            route, 10.0, Identity(), sampler, self._flow, Health(), clock, self._processor.finish
        )
        self._budget = budget

    async def go_through(self, values: Sequence[bytes], rounds: int) -> tuple[float, list[OutputRecord]]:
        """Seconds of the quickest round, and its outputs."""
        await self._flow.assigned(1, {PARTITION: StartPosition(0, "")})
        running = asyncio.create_task(self._dispatcher.run())
        outputs: list[OutputRecord] = []
        best = float("inf")
        for number in range(rounds):
            records = records_from(number * len(values), values)
            outputs.clear()
            began = time.process_time()
            for at in range(0, len(records), BATCH):
                some = tuple(records[at : at + BATCH])
                self._budget.take(len(some), sum(record.size_bytes for record in some), PARTITION.topic)
                self._flow.received([RecordBatch(PARTITION, 1, some)])
                tasks = await self._processor.open_batch(self._batches.pop())
                await self._dispatcher.submit(tasks["identity"])
                self._commit(outputs)
            while len(outputs) < len(values):
                await asyncio.sleep(0)
                self._commit(outputs)
            best = min(best, time.process_time() - began)
        running.cancel()
        return best, outputs

    def _commit(self, outputs: list[OutputRecord]) -> None:
        while unit := self._flow.collect(MOST_A_TRANSACTION):
            outputs += unit.commit.outputs
            self._flow.settle(unit, committed=True)


def quickest(call: Callable[[], object], rounds: int) -> float:
    """Seconds of processor time."""
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        call()
        best = min(best, time.process_time() - began)
    return best


def measure(rounds: int, count: int) -> dict[str, float]:
    """Microseconds a record."""
    chance = random.Random(1)
    values = [encode(REQUEST, NUMBERS.make(chance)) for _ in range(count)]
    whole, outputs = asyncio.run(Core().go_through(values, rounds))
    assert len(outputs) == count
    requests, results = RequestDecoder(), ResultDecoder()
    requests.add_schema(REQUEST, schema_json(Contract.REQUEST))
    results.add_schema(RESULT, schema_json(Contract.RESULT))
    made = [results.decode(output.value) for output in outputs]
    found = {
        "decode": quickest(lambda: [requests.decode(value) for value in values], rounds),
        "encode": quickest(lambda: [encode_result(result, RESULT) for result in made], rounds),
        "whole": whole,
    }
    return {name: seconds / count * 1e6 for name, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--records", type=int, default=RECORDS)
    options = parser.parse_args()
    set_for_a_worker()  # as a worker does
    for name, microseconds in measure(options.rounds, options.records).items():
        print(f"{name}: {microseconds:.1f} µs a record")


if __name__ == "__main__":
    main()
