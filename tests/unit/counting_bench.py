"""A run's transactions on a fake broker, which a test may hold, refuse or fail."""

from __future__ import annotations

from functools import partial

from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.ports import CommitUnit, OffsetCommit, StartPosition
from headrace.pipeline.records import OutputRecord, TopicPartition
from headrace.pipeline.replay.counting import CountedTransactions
from headrace.pipeline.replay.manifest import (
    Progress,
    ProgressDecoder,
    Run,
    RunDecoder,
    encode_progress,
    encode_run,
)
from tests.unit.fakes import FakeBroker, FakeTransactions, LoopClock
from tests.unit.replay_bench import PLAN

P0, P1 = TopicPartition("requests", 0), TopicPartition("requests", 1)
LEFT = Progress(
    "try-1",
    writer="another",
    number=41,
    positions={0: StartPosition(5, "m"), 3: StartPosition(9, "")},
    results=7,
    dead_letters=2,
    resumed=1,
    active_seconds=40.0,
)
"""What an earlier process has left."""
SCHEMA_ID = 9
DECODER = ProgressDecoder()
DECODER.add_schema(SCHEMA_ID, schema_json(Contract.REPLAY_PROGRESS))
ENCODE = partial(encode_progress, schema_id=SCHEMA_ID)
RUNS = "runs"
RUN_DECODER = RunDecoder()
RUN_DECODER.add_schema(SCHEMA_ID, schema_json(Contract.REPLAY_RUN))


def manifest(run: Run) -> OutputRecord:
    return OutputRecord(RUNS, run.plan.run.encode(), encode_run(run, SCHEMA_ID))


class RunTransactions(FakeTransactions):
    """`counting.RunTransactions` on a fake broker; nothing is known before others are fenced."""

    def __init__(self, broker: FakeBroker, left: Progress | None) -> None:
        super().__init__(broker)
        self._left = None if left is None else ENCODE(left)

    @property
    def last(self) -> bytes | None:
        assert self.started
        written = [output.value for output in self.broker.outputs if output.topic == PLAN.progress_topic]
        return written[-1] if written else self._left


class Bench:
    """A run's transactions, and what readers see of it."""

    def __init__(self, left: Progress | None = LEFT, *, resume: bool = True) -> None:
        self.broker = FakeBroker()
        self.exhausted = False
        self.inner = RunTransactions(self.broker, left)
        self.counted = self.process(self.inner, resume=resume)

    def process(self, inner: RunTransactions, *, resume: bool = True) -> CountedTransactions:
        return CountedTransactions(
            inner, PLAN, DECODER.decode, ENCODE, manifest, lambda: self.exhausted, LoopClock(), resume=resume
        )

    @property
    def said(self) -> list[Run]:
        """How the run is said to be, the newest last."""
        values = [output.value for output in self.broker.outputs if output.topic == RUNS]
        return [RUN_DECODER.decode(value) for value in values]

    @property
    def written(self) -> list[Progress]:
        """The run's progress, as it is read."""
        return [DECODER.decode(output.value) for output in self.broker.outputs if output.topic == PLAN.progress_topic]

    @property
    def known(self) -> Progress:
        """To the process itself."""
        assert self.counted.progress is not None
        return self.counted.progress

    def visible(self, topic: str) -> int:
        return sum(output.topic == topic for output in self.broker.outputs)


def unit(results: int, dead_letters: int = 0, offset: int = 6, partition: TopicPartition = P0) -> CommitUnit:
    topics = [PLAN.results_topic] * results + [PLAN.dead_letters_topic] * dead_letters
    outputs = tuple(OutputRecord(topic, None, b"%d" % number) for number, topic in enumerate(topics))
    return CommitUnit(outputs, (OffsetCommit(partition, offset, f"m{offset}"),), len(outputs), lambda: True)
