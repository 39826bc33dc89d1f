"""A partition's whole life, at random: with windows and limits so small that all of them matter."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.pipeline import offsets
from headrace.pipeline.offsets import Window, decode_metadata
from headrace.pipeline.ordering import PartitionLedger, Taken
from headrace.pipeline.records import OutputRecord
from tests.unit.done_offsets import done_from
from tests.unit.strategies import examples

NEAR, FAR, FAR_RUNS = 16, 64, 3
OLDER, NEWER = Window(NEAR, NEAR, 0), Window(NEAR, FAR, FAR_RUNS)


@pytest.fixture(scope="module", autouse=True)
def _small_windows() -> Iterator[None]:
    """Of the encoding too, which refuses what is beyond them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, number in {"NEAR": NEAR, "FAR": FAR, "FAR_RUNS": FAR_RUNS, "_NEAR_BYTES": NEAR // 8 + 1}.items():
            patch.setattr(offsets, name, number)
        yield


class Life:
    """Records of two lanes and none, with gaps between them, processed by a chain of ledgers."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.start = rng.choice([0, rng.randrange(1000), 2**63 - 500 + rng.randrange(300)])
        span = range(self.start, self.start + rng.choice([60, 150]))
        gaps = rng.choice([0, 0.1, 0.5, 0.8])
        self.records = [offset for offset in span if rng.random() >= gaps]
        if self.records and rng.random() < 0.3:  # one long gap
            first = rng.choice(self.records)
            self.records = [offset for offset in self.records if not first < offset < first + rng.randrange(80)]
        self.lanes = {offset: rng.choice(["a", "b", "", "ab"]) for offset in self.records}
        self.committed: list[int] = []
        self.offset, self.metadata = self.start, ""
        self.restart()

    def restart(self) -> None:
        done, complaint = decode_metadata(self.offset, self.metadata)
        assert complaint is None
        self.ledger = PartitionLedger(self.offset, done, self.rng.choice([OLDER, NEWER, NEWER, NEWER]))
        self.position = self.offset
        self.open: list[int] = []

    def consume(self, count: int) -> None:
        for offset in [offset for offset in self.records if offset >= self.position][:count]:
            self.position = offset + 1
            if self.ledger.admit(offset, 1):
                self.ledger.enter(offset, list(self.lanes[offset]))
                self.open.append(offset)

    def complete(self, count: int, slow: bool) -> None:
        """Records in any order; the first of those in flight is left for last if it is slow."""
        for _ in range(min(count, len(self.open) - slow)):
            offset = self.open.pop(self.rng.randrange(slow, len(self.open)))
            self.ledger.complete(offset, [OutputRecord("results", None, str(offset).encode())])

    def commit(self, taken: Taken | None) -> None:
        if taken is None:
            return
        assert (taken.offset, taken.metadata) != (self.offset, self.metadata), "each unit must be told from the last"
        assert taken.offset >= self.offset
        self.committed += [int(output.value or b"") for output in taken.outputs]
        self.offset, self.metadata = taken.offset, taken.metadata
        done, complaint = decode_metadata(self.offset, self.metadata)
        assert complaint is None
        found = {offset for offset in done_from(done, self.offset) if offset in self.lanes}
        assert found == {offset for offset in self.committed if offset >= self.offset}
        assert {offset for offset in self.records if offset < self.offset} <= set(self.committed)


@settings(max_examples=examples(300), deadline=None)
@given(seed=st.integers(0, 2**32))
def test_life_commits_each_record_once_and_in_the_order_of_its_lanes(seed: int) -> None:
    rng = random.Random(seed)
    life = Life(rng)
    crashes, slow = rng.choice([0, 0.02, 0.1]), rng.random() < 0.5
    for step in range(300):
        dice = rng.random()
        if dice < crashes:
            if rng.random() < 0.5:
                life.ledger.take(5)  # its transaction is aborted
            life.restart()
        elif dice < 0.5:
            life.consume(rng.randrange(1, 40))
        elif dice < 0.8:
            life.complete(rng.randrange(1, 20), slow and step < 250)
        else:
            life.commit(life.ledger.take(rng.randrange(1, 30), rng.choice([10**9, rng.randrange(1, 40)])))
    life.consume(len(life.records))
    life.complete(len(life.open), slow=False)
    while taken := life.ledger.take(7):
        life.commit(taken)
    assert sorted(life.committed) == life.records
    assert (life.ledger.waiting, life.ledger.outstanding) == (0, (0, 0))
    for lane in "ab":
        mine = [offset for offset in life.committed if lane in life.lanes[offset]]
        assert mine == sorted(mine)
    assert life.metadata == "", "all is done, and nothing is left to be skipped"
