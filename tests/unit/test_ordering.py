from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.pipeline.offsets import NEAR, MetadataFormat, OffsetBitmap, Window, decode_metadata
from headrace.pipeline.ordering import PartitionLedger, Taken
from headrace.pipeline.records import OutputRecord
from tests.unit.done_offsets import done_from
from tests.unit.strategies import examples

METADATA_LIMIT_BYTES = 4096
"""Kafka's default for ``offset.metadata.max.bytes``."""


def output(offset: int) -> list[OutputRecord]:
    return [OutputRecord("results", None, str(offset).encode())]


def offsets_in(taken: Taken | None) -> list[int]:
    return [int(each.value or b"") for each in taken.outputs] if taken else []


def ledger_with(records: int, lanes: list[str | None] | None = None, window: int = 100) -> PartitionLedger:
    ledger = PartitionLedger(0, OffsetBitmap(0), Window(window, window, 0))
    for offset in range(records):
        ledger.admit(offset, 10)
        if lanes and (lane := lanes[offset]) is not None:
            ledger.enter(offset, [lane])
    return ledger


def test_commit_stops_below_the_lowest_incomplete_offset_and_carries_the_rest() -> None:
    ledger = ledger_with(4)
    ledger.complete(0, output(0))
    ledger.complete(2, output(2))
    taken = ledger.take(10)
    assert taken is not None
    assert offsets_in(taken) == [0, 2]
    assert taken.offset == 1
    done, _ = decode_metadata(taken.offset, taken.metadata)
    assert done_from(done, 1) == [2]


def test_successor_skips_what_is_done_above_the_committed_offset() -> None:
    ledger = ledger_with(4)
    ledger.complete(2, output(2))
    taken = ledger.take(10)
    assert taken is not None
    successor = PartitionLedger(taken.offset, decode_metadata(taken.offset, taken.metadata)[0])
    assert [successor.admit(offset, 1) for offset in range(5)] == [True, True, False, True, True]


def test_skipped_offsets_stay_done_in_the_successors_own_commits() -> None:
    """A second successor must skip them too, although the first never processed them."""
    first = ledger_with(6)
    first.complete(4, output(4))
    taken = first.take(10)
    assert taken is not None
    second = PartitionLedger(taken.offset, decode_metadata(taken.offset, taken.metadata)[0])
    second.admit(0, 1)
    second.admit(1, 1)
    second.complete(1, output(1))
    taken = second.take(10)
    assert taken is not None
    assert taken.offset == 0
    assert done_from(decode_metadata(0, taken.metadata)[0], 0) == [1, 4]


def test_lane_releases_in_offset_order() -> None:
    ledger = ledger_with(4, ["a", "b", "a", "a"])
    assert not ledger.complete(2, output(2))
    assert ledger.complete(1, output(1))
    assert ledger.complete(0, output(0))
    assert offsets_in(ledger.take(10)) == [1, 0, 2]
    assert ledger.complete(3, output(3))
    assert offsets_in(ledger.take(10)) == [3]


def test_record_in_two_lanes_waits_for_both() -> None:
    ledger = ledger_with(3)
    ledger.enter(0, ["text"])
    ledger.enter(1, ["image"])
    ledger.enter(2, ["text", "image"])
    ledger.complete(2, output(2))
    ledger.complete(0, output(0))
    assert offsets_in(ledger.take(10)) == [0]
    ledger.complete(1, output(1))
    assert offsets_in(ledger.take(10)) == [1, 2]


def test_record_without_lane_overtakes() -> None:
    ledger = ledger_with(3, ["a", None, "a"])
    assert ledger.complete(1, output(1))
    assert offsets_in(ledger.take(10)) == [1]


def test_completion_beyond_the_window_waits_for_the_base() -> None:
    ledger = ledger_with(20, window=10)
    for offset in range(1, 20):
        ledger.complete(offset, output(offset))
    assert offsets_in(ledger.take(100)) == list(range(1, 10))
    assert ledger.take(100) is None
    ledger.complete(0, output(0))
    taken = ledger.take(100)
    assert offsets_in(taken) == [0]
    assert offsets_in(ledger.take(100)) == list(range(10, 20))
    assert ledger.base == 20


def test_completions_far_beyond_the_window_are_committed_while_they_are_few_runs() -> None:
    ledger = PartitionLedger(0, OffsetBitmap(0), Window(near=10, far=50, far_runs=2))
    for offset in range(60):
        ledger.admit(offset, 10)
    for offset in [*range(12, 18), *range(20, 25), 30]:
        ledger.complete(offset, output(offset))
    assert offsets_in(ledger.take(100)) == [*range(12, 18), *range(20, 25)], "three runs"
    for offset in range(25, 30):
        ledger.complete(offset, output(offset))
    assert offsets_in(ledger.take(100)) == [30, *range(25, 30)], "which close the gap"
    for offset in (49, 50):
        ledger.complete(offset, output(offset))
    assert ledger.take(100) is None
    ledger.complete(0, output(0))
    assert offsets_in(ledger.take(100)) == [0]
    assert ledger.take(100) is None, "the base is 1: a third run still"
    for offset in [*range(1, 12), 18, 19]:
        ledger.complete(offset, output(offset))
    assert offsets_in(ledger.take(100)) == [49, 50, *range(1, 12), 18, 19], "which make one of two runs"


def test_one_slow_record_holds_up_a_whole_window_of_others_no_more() -> None:
    records = 3 * NEAR
    ledger = PartitionLedger(0, OffsetBitmap(0), MetadataFormat.H2.window)
    for offset in range(records):
        ledger.admit(offset, 10)
        if offset:
            ledger.complete(offset, [])
    done = 0
    while taken := ledger.take(records):
        done += taken.records
        assert taken.offset == 0
        metadata = taken.metadata
        assert len(metadata) < 100
    assert done == records - 1
    successor = PartitionLedger(0, decode_metadata(0, metadata)[0])
    assert [offset for offset in range(records + 1) if successor.admit(offset, 10)] == [0, records]


def test_gaps_without_records_part_no_runs() -> None:
    """The requests were written in transactions: each leaves a marker, which is no record."""
    ledger = PartitionLedger(0, OffsetBitmap(0), Window(near=10, far=1000, far_runs=1))
    for offset in range(900):
        if offset % 5:
            ledger.admit(offset, 10)
    for offset in range(2, 900):
        if offset % 5:
            ledger.complete(offset, output(offset))
    assert offsets_in(ledger.take(1000)) == [offset for offset in range(2, 900) if offset % 5]


def test_what_a_transaction_leaves_behind_counts_as_parting_the_runs() -> None:
    """All that is ready would be one run, but what one transaction takes of it must be few runs by itself."""
    records = NEAR + 1000
    ledger = PartitionLedger(0, OffsetBitmap(0), MetadataFormat.H2.window)
    for offset in range(records):
        ledger.admit(offset, 10)
    for offset in [*range(1, NEAR), *range(NEAR + 1, records, 2), *range(NEAR, records, 2)]:
        ledger.complete(offset, output(offset))
    done: list[int] = []
    while taken := ledger.take(300):
        done += offsets_in(taken)
        successor, _ = decode_metadata(0, taken.metadata)
        assert successor.count() == len(done)
    assert sorted(done) == list(range(1, records))


@pytest.mark.parametrize("waiting", [300, 8000], ids=["unreadable", "too large for the broker"])
def test_gaps_between_records_that_wait_make_no_runs(waiting: int) -> None:
    """Requests that were written in transactions of one record each; the first two are slow."""
    ledger = PartitionLedger(0, OffsetBitmap(0), MetadataFormat.H2.window)
    for offset in range(0, NEAR + waiting, 2):
        ledger.admit(offset, 10)
    for offset in range(4, NEAR, 2):
        ledger.complete(offset, output(offset))
    taken = ledger.take(NEAR)
    assert taken is not None
    assert len(taken.metadata) < METADATA_LIMIT_BYTES
    done, _ = decode_metadata(0, taken.metadata)
    assert set(done_from(done, 0)) >= set(range(4, NEAR, 2))
    assert not any(offset in done for offset in range(NEAR + 10, NEAR + waiting))


def test_older_format_commits_no_further_than_it_can_say() -> None:
    done = OffsetBitmap(0)
    for offset in range(NEAR + 100, NEAR + 200):
        done.add(offset)
    ledger = PartitionLedger(0, done, MetadataFormat.H1.window)
    for offset in range(NEAR + 201):
        ledger.admit(offset, 10)
    for offset in (NEAR - 1, NEAR, NEAR + 200):
        ledger.complete(offset, output(offset))
    taken = ledger.take(10)
    assert offsets_in(taken) == [NEAR - 1]
    assert taken is not None
    assert taken.metadata.startswith("h2:0:"), "what a worker of the newer format has done cannot be said otherwise"


def test_completing_twice_is_refused() -> None:
    ledger = ledger_with(1)
    ledger.complete(0, [])
    with pytest.raises(ValueError, match="cannot become complete"):
        ledger.complete(0, [])


def test_consuming_an_offset_again_is_refused() -> None:
    ledger = ledger_with(3)
    with pytest.raises(ValueError, match="consumed again"):
        ledger.admit(1, 1)


def test_gaps_of_compaction_and_transaction_markers_are_passed_over() -> None:
    ledger = PartitionLedger(10, OffsetBitmap(10))
    for offset in (12, 17, 40):
        ledger.admit(offset, 1)
    ledger.complete(12, output(12))
    ledger.complete(40, output(40))
    taken = ledger.take(10)
    assert taken is not None
    assert taken.offset == 17
    ledger.complete(17, output(17))
    taken = ledger.take(10)
    assert taken is not None
    assert (taken.offset, taken.metadata) == (41, "")


def test_first_record_far_above_the_start_costs_no_memory() -> None:
    """A new group on an old topic starts at 0, and retention has removed billions of records."""
    first = 2**60 + 3
    ledger = PartitionLedger(0, OffsetBitmap(0))
    for offset in (first, first + 1):
        ledger.admit(offset, 1)
    ledger.complete(first + 1, output(first + 1))
    taken = ledger.take(10)
    assert taken is not None
    assert taken.offset == first
    assert done_from(decode_metadata(taken.offset, taken.metadata)[0], first) == [first + 1]


class Crashes(RuleBasedStateMachine):
    """A partition processed by a chain of ledgers, each cut off at any moment: each offset is committed once."""

    LANES = ("a", "b", None)

    @initialize(near=st.integers(1, 30), far=st.integers(0, 100), far_runs=st.integers(0, 3), gaps=st.booleans())
    def begin(self, near: int, far: int, far_runs: int, gaps: bool) -> None:
        self.window = Window(near, near + far, far_runs)
        self.gaps = gaps
        self.committed: list[int] = []
        self.offset, self.metadata = 0, ""
        self.restart()

    def restart(self) -> None:
        done, complaint = decode_metadata(self.offset, self.metadata)
        assert complaint is None
        self.ledger = PartitionLedger(self.offset, done, self.window)
        self.position = self.offset
        self.open: list[int] = []

    @staticmethod
    def lane(offset: int) -> str | None:
        return Crashes.LANES[offset % 7 % 3]

    @rule(count=st.integers(1, 8))
    def consume(self, count: int) -> None:
        for _ in range(count):
            offset, self.position = self.position, self.position + 1
            if self.gaps and offset % 5 == 0:  # never a record there, in any life: a transaction marker, say
                continue
            if self.ledger.admit(offset, 1):
                if lane := self.lane(offset):
                    self.ledger.enter(offset, [lane])
                self.open.append(offset)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(self.open))
        self.open.remove(offset)
        self.ledger.complete(offset, output(offset))

    @rule(max_records=st.integers(1, 10))
    def commit(self, max_records: int) -> None:
        if taken := self.ledger.take(max_records):
            assert taken.records == len(offsets_in(taken)) <= max_records
            self.committed += offsets_in(taken)
            self.offset, self.metadata = taken.offset, taken.metadata

    @rule()
    def crash(self) -> None:
        self.restart()

    @rule()
    def crash_inside_the_transaction(self) -> None:
        self.ledger.take(5)
        self.restart()

    @invariant()
    def each_offset_is_committed_once_and_in_lane_order(self) -> None:
        assert len(set(self.committed)) == len(self.committed)
        for lane in ("a", "b"):
            mine = [offset for offset in self.committed if self.lane(offset) == lane]
            assert mine == sorted(mine)

    def teardown(self) -> None:
        """One last life drains all: whatever lies below the committed offset must have been committed, once."""
        self.restart()
        self.consume(max([0, *self.committed]) + 1 - self.position)
        for offset in self.open:
            self.ledger.complete(offset, output(offset))
        while taken := self.ledger.take(1000):
            self.committed += offsets_in(taken)
            self.offset, self.metadata = taken.offset, taken.metadata
        self.each_offset_is_committed_once_and_in_lane_order()
        done, _ = decode_metadata(self.offset, self.metadata)
        above = {each for each in self.committed if each >= self.offset}
        found = {each for each in done_from(done, self.offset) if not (self.gaps and each % 5 == 0)}
        assert found == above
        gaps = {each for each in range(self.offset) if self.gaps and each % 5 == 0}
        assert set(range(self.offset)) - set(self.committed) <= gaps


TestCrashes = Crashes.TestCase
TestCrashes.settings = settings(max_examples=examples(60), stateful_step_count=40, deadline=None)


@given(order=st.permutations(range(30)), budget=st.integers(1, 40))
def test_any_completion_order_commits_everything(order: list[int], budget: int) -> None:
    ledger = ledger_with(30)
    seen: list[int] = []
    for offset in order:
        ledger.complete(offset, output(offset))
        seen += offsets_in(ledger.take(budget))
    while taken := ledger.take(budget):
        seen += offsets_in(taken)
    assert sorted(seen) == list(range(30))
    assert ledger.base == 30
    assert ledger.outstanding == (0, 0)
