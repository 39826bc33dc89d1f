"""Flow and group commit against a broker, through any order of completions, rebalances, losses and crashes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from headrace.pipeline.budget import Budget
from headrace.pipeline.commit import GroupCommit
from headrace.pipeline.flow import Flow, RecordRef
from headrace.pipeline.offsets import decode_metadata
from headrace.pipeline.ordering import PartitionLedger
from headrace.pipeline.ports import CommitUnit, OffsetCommit
from headrace.pipeline.records import OutputRecord, RecordBatch, TopicPartition
from tests.unit.done_offsets import done_from
from tests.unit.fakes import FakeBroker, FakeSource, FakeTransactions, LoopClock, VirtualLoop, settle
from tests.unit.strategies import examples

PARTITIONS = tuple(TopicPartition("requests", number) for number in range(3))
KEYS = (b"a", b"b", None)
SOME_KEYS = st.sampled_from(KEYS)
SETS = st.sets(st.sampled_from(PARTITIONS), min_size=1)
PICK = st.floats(0, 1, exclude_max=True)
PICKS = st.lists(PICK, max_size=6)


def is_poison(offset: int) -> bool:
    return offset % 7 == 3


def output(partition: TopicPartition, offset: int) -> OutputRecord:
    return OutputRecord("results", None, f"{partition.partition}@{offset}".encode())


def offsets(broker: FakeBroker) -> list[tuple[int, int]]:
    """Partition and offset that each visible output answers, in the order in which they became visible."""
    pairs = [(output.value or b"").decode().split("@") for output in broker.outputs]
    return [(int(partition), int(offset)) for partition, offset in pairs]


class Life:
    """One worker process, from its start until it crashes."""

    def __init__(self, broker: FakeBroker, max_records: int, max_unit: int) -> None:
        self.budget = Budget(max_records, 10**6)
        self.delivered: list[RecordBatch] = []
        self.flow = Flow(self.budget, self.delivered.append, drain_timeout_seconds=5.0)
        self.source = FakeSource(broker, self.budget)
        self.transactions = FakeTransactions(broker)
        self.commit = GroupCommit(self.flow, self.transactions, LoopClock(), max_unit)
        self.committing = asyncio.create_task(self.commit.run())
        self.on_their_way: list[RecordBatch] = []
        self.waiting: list[tuple[RecordRef, bytes | None]] = []
        self.in_call: list[tuple[RecordRef, bytes | None]] = []

    def complete(self, ref: RecordRef) -> None:
        self.flow.complete(ref, [output(ref.partition, ref.offset)])

    async def crash(self, committed: bool) -> None:
        """In the middle of a transaction, perhaps: the broker decides whether that was committed."""
        if committed and (unit := self.transactions.pending) and unit.still_owned():
            self.transactions.broker.commit(unit)
        self.committing.cancel()
        await asyncio.wait([self.committing])


class Pipeline(RuleBasedStateMachine):
    """Every rule is one thing that may happen to a worker; time passes only where something waits."""

    @initialize(max_records=st.integers(2, 40), max_unit=st.integers(1, 12), keys=st.lists(SOME_KEYS, min_size=6))
    def begin(self, max_records: int, max_unit: int, keys: list[bytes | None]) -> None:
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.broker = FakeBroker()
        self.max_records, self.max_unit = max_records, max_unit
        for partition in PARTITIONS:
            self.send(partition, keys)
        self.restart()

    def restart(self) -> None:
        self.run(self._start())

    async def _start(self) -> None:
        self.life = Life(self.broker, self.max_records, self.max_unit)
        await self.life.source.start(self.life.flow)
        await self.life.source.assign(*PARTITIONS)

    def run(self, step: Coroutine[Any, Any, None]) -> None:
        async def and_all_that_follows() -> None:
            await step
            await settle()

        self.runner.get_loop().run_until_complete(and_all_that_follows())  # a runner would see to Ctrl-C each time
        if self.life.committing.done():
            self.life.committing.result()

    # --- records come

    @rule(partition=st.sampled_from(PARTITIONS), keys=st.lists(SOME_KEYS, min_size=1, max_size=8))
    def send(self, partition: TopicPartition, keys: list[bytes | None]) -> None:
        for key in keys:
            self.broker.send(partition, key, b"some value")

    @rule(partition=st.sampled_from(PARTITIONS), most=st.integers(1, 10))
    def fetch(self, partition: TopicPartition, most: int) -> None:
        """Records on their way from the consumer's thread may arrive after a rebalance."""
        source = self.life.source
        if partition in source.positions and (batch := source.fetch(partition, most)):
            self.life.on_their_way.append(batch)

    @rule()
    def arrive(self) -> None:
        self.life.flow.received(self.life.on_their_way)
        self.life.on_their_way = []

    # --- and are processed

    def come(self, most: int) -> None:
        for partition in PARTITIONS:
            self.fetch(partition, most)
        self.arrive()
        while self.life.delivered:
            self.open_batch()
        self.run(settle())

    def open_batch(self) -> None:
        """As the processor does it: poison completes at once and in no lane, all others enter their key's lane."""
        batch = self.life.delivered.pop(0)
        if not self.life.flow.wants(batch.partition, batch.generation):
            return
        for record in batch.records:
            ref = RecordRef(batch.partition, batch.generation, record.provenance.offset)
            if is_poison(ref.offset):
                self.life.complete(ref)
            else:
                self.life.flow.enter(ref, [record.key] if record.key else [])
                self.life.waiting.append((ref, record.key))

    @rule(most=st.integers(0, 6), calls=PICKS, answers=PICKS, stalled=st.booleans())
    def infer(self, most: int, calls: list[float], answers: list[float], stalled: bool) -> None:
        """Some records come, some are taken along by a call, some calls are answered; a transaction may hang."""
        if stalled:
            self.life.transactions.hold()
        else:
            self.run(self._end_stall())
        self.come(most)
        for pick in calls[: len(self.life.waiting)]:
            self.call(int(pick * len(self.life.waiting)))
        for pick in answers[: len(self.life.in_call)]:
            self.run(self._answer(int(pick * len(self.life.in_call))))

    infer_more = infer  # twice among the rules: what it does is what all others disturb

    def call(self, index: int) -> None:
        each = self.life.waiting.pop(index)
        if self.life.flow.begin_call(each[0]):
            self.life.in_call.append(each)

    async def _answer(self, index: int) -> None:
        ref, _ = self.life.in_call.pop(index)
        self.life.complete(ref)
        self.life.flow.end_call(ref)

    # --- while Kafka does what it does

    async def _end_stall(self) -> None:
        self.life.transactions.let_go()

    @rule(drained=st.booleans(), mine=SETS, fences=st.booleans())
    def rebalance(self, drained: bool, mine: set[TopicPartition], fences: bool) -> None:
        """Not fenced: this worker comes back in the same generation, good for a commit that outlived the drain."""
        self.life.transactions.fences = fences
        self.run(self._rebalance(drained, mine))
        self.life.transactions.fences = True

    async def _rebalance(self, drained: bool, mine: set[TopicPartition]) -> None:
        revoking = asyncio.create_task(self.life.source.revoke())
        await settle()
        while drained and self.life.in_call:
            await self._answer(0)
        await revoking
        await self._assign(mine)

    @rule(mine=SETS, others_work=st.integers(0, 6))
    def lose_and_rejoin(self, mine: set[TopicPartition], others_work: int) -> None:
        self.run(self._lose(mine, others_work))

    async def _lose(self, mine: set[TopicPartition], others_work: int) -> None:
        """Another worker has had the partitions meanwhile, and answered what comes next in each."""
        await self.life.source.lose()
        for partition in PARTITIONS:
            self._answer_elsewhere(partition, others_work)
        await self._assign(mine)

    def _answer_elsewhere(self, partition: TopicPartition, most: int) -> None:
        start = self.broker.position(partition)
        ledger = PartitionLedger(start.offset or 0, decode_metadata(start.offset or 0, start.metadata)[0])
        for record in self.broker.inputs[partition][start.offset or 0 :][:most]:
            offset = record.provenance.offset
            if ledger.admit(offset, 1):
                ledger.complete(offset, [output(partition, offset)])
        if taken := ledger.take(most):
            commit = OffsetCommit(partition, taken.offset, taken.metadata)
            self.broker.commit(CommitUnit(taken.outputs, (commit,), taken.records, lambda: True))

    async def _assign(self, mine: set[TopicPartition]) -> None:
        assigning = asyncio.create_task(self.life.source.assign(*sorted(mine)))
        await settle()
        self.life.transactions.let_go()
        await asyncio.wait([assigning, self.life.committing], return_when=asyncio.FIRST_COMPLETED)
        if self.life.committing.done():
            assigning.cancel()
            self.life.committing.result()
        await assigning

    @rule(committed=st.booleans())
    def crash(self, committed: bool) -> None:
        self.runner.run(self.life.crash(committed))
        self.restart()

    # --- what must always hold

    @invariant()
    def outputs_and_offsets_agree(self) -> None:
        """Visible are the outputs of exactly the records that the committed positions call done, each once."""
        visible = sorted(offsets(self.broker))
        done: list[tuple[int, int]] = []
        for partition in PARTITIONS:
            position = self.broker.position(partition)
            base = position.offset or 0
            bitmap, complaint = decode_metadata(base, position.metadata)
            assert complaint is None
            done += [(partition.partition, offset) for offset in [*range(base), *done_from(bitmap, base)]]
        assert visible == sorted(done)

    @invariant()
    def keys_stay_in_order(self) -> None:
        last: dict[tuple[int, bytes], int] = {}
        for partition, offset in offsets(self.broker):
            key = self.broker.inputs[PARTITIONS[partition]][offset].key
            if key is not None and not is_poison(offset):
                assert last.get((partition, key), -1) < offset
                last[partition, key] = offset

    @invariant()
    def budget_is_never_overdrawn(self) -> None:
        assert 0 <= self.life.budget.records <= self.max_records

    def teardown(self) -> None:
        """Everything that was sent is answered in the end, and nothing is left in flight."""
        if not hasattr(self, "runner"):
            return
        sent = sum(len(records) for records in self.broker.inputs.values())
        self.run(self._end_stall())
        self._work_off(sent)
        self.outputs_and_offsets_agree()
        self.run(self._rebalance(True, set(PARTITIONS)))
        self._work_off(sent)
        assert self.life.budget.records == self.life.budget.size_bytes == 0
        assert len(self.broker.outputs) == sent
        self.outputs_and_offsets_agree()
        self.keys_stay_in_order()
        self.runner.run(self.life.crash(committed=False))
        self.runner.close()

    def _work_off(self, sent: int) -> None:
        """Until there is an output for each record that was sent, and once more."""
        for _ in range(sent):
            if len(self.broker.outputs) >= sent:
                break
            self.run(self._work())
        self.run(self._work())

    async def _work(self) -> None:
        for partition in PARTITIONS:
            self.fetch(partition, 10)
        self.arrive()
        while self.life.delivered:
            self.open_batch()
        while self.life.waiting:
            self.call(0)
        while self.life.in_call:
            await self._answer(-1)


TestPipeline = Pipeline.TestCase
TestPipeline.settings = settings(max_examples=examples(100), stateful_step_count=50, deadline=None)
