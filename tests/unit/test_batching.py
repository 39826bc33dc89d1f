from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.pipeline.batching import MOST_PASSES, Batch, Batcher, halves


def batcher(max_records: int = 4, max_bytes: int = 100, max_delay_seconds: float = 1.0) -> Batcher[str]:
    return Batcher(max_records, max_bytes, max_delay_seconds)


def fill(target: Batcher[str], items: str, now: float = 0.0, bucket: str = "b", weight_bytes: int = 1) -> None:
    for item in items:
        target.add(item, weight_bytes, bucket, now)


def taken(batch: Batch[str] | None) -> str | None:
    return None if batch is None else "".join(batch.items)


def test_full_batch_is_ready_at_once() -> None:
    target = batcher()
    fill(target, "abcde")
    assert target.next_due() == 0.0
    assert taken(target.take(0.0, idle=False)) == "abcd"
    assert target.take(0.0, idle=False) is None
    assert taken(target.take(0.0, idle=True)) == "e"


def test_under_filled_batch_leaves_after_its_delay() -> None:
    target = batcher(max_delay_seconds=1.0)
    fill(target, "a", now=5.0)
    fill(target, "b", now=5.5)
    assert target.next_due() == 6.0
    assert target.take(5.99, idle=False) is None
    assert taken(target.take(6.0, idle=False)) == "ab"
    assert target.next_due() is None


def test_idle_route_does_not_wait() -> None:
    target = batcher(max_delay_seconds=60)
    fill(target, "a")
    assert taken(target.take(0.0, idle=True)) == "a"
    assert target.take(0.0, idle=True) is None


def test_what_waits_goes_on_filling_past_its_delay() -> None:
    """While no slot asks, a due batch grows: load makes batches larger."""
    target = batcher(max_delay_seconds=1.0)
    fill(target, "a", now=0.0)
    fill(target, "bc", now=9.0)
    assert taken(target.take(9.0, idle=False)) == "abc"


def test_bytes_bound_a_batch() -> None:
    target = batcher(max_bytes=100)
    fill(target, "ab", weight_bytes=60)
    assert taken(target.take(0.0, idle=False)) == "a"
    assert target.take(0.0, idle=False) is None
    assert taken(target.take(0.0, idle=True)) == "b"


def test_too_heavy_item_goes_alone_and_in_its_turn() -> None:
    target = batcher(max_bytes=100)
    fill(target, "a", weight_bytes=1)
    fill(target, "B", weight_bytes=500)
    fill(target, "c", weight_bytes=0)
    assert [taken(target.take(0.0, idle=True)) for _ in range(4)] == ["a", "B", "c", None]


def test_buckets_never_mix() -> None:
    target = batcher(max_records=2)
    for item, bucket in (("a", "x"), ("b", "y"), ("c", "x"), ("d", "y")):
        target.add(item, 1, bucket, 0.0)
    batches = [target.take(0.0, idle=False), target.take(0.0, idle=False)]
    assert [taken(batch) for batch in batches] == ["ac", "bd"]


def test_due_item_goes_before_younger_full_batches() -> None:
    """One record of a rare shape must not starve behind a flood of a common one."""
    target = batcher(max_records=2, max_delay_seconds=1.0)
    target.add("rare", 1, "rare", 0.0)
    for number in range(10):
        target.add(f"{number}", 1, "common", 0.5)
    assert taken(target.take(0.6, idle=False)) == "01"
    assert taken(target.take(1.0, idle=False)) == "rare"


def test_bucket_may_have_a_tighter_bound() -> None:
    target = batcher(max_records=4)
    for item in "abc":
        target.add(item, 1, "small", 0.0, max_records=1)
    assert [taken(target.take(0.0, idle=False)) for _ in range(4)] == ["a", "b", "c", None]


def test_rows_bound_a_batch_and_an_item_is_never_parted() -> None:
    target = batcher(max_records=8, max_bytes=1000)
    for item, rows in (("a", 5), ("b", 2), ("c", 3), ("d", 1)):
        target.add(item, 1, "b", 0.0, rows=rows)
    assert [taken(target.take(0.0, idle=False)) for _ in range(2)] == ["ab", None]
    assert taken(target.take(0.0, idle=True)) == "cd"


def test_item_of_more_rows_than_allowed_goes_alone_and_in_its_turn() -> None:
    target = batcher(max_records=4)
    for item, rows in (("a", 1), ("b", 9), ("c", 1)):
        target.add(item, 1, "b", 0.0, rows=rows)
    assert [taken(target.take(0.0, idle=True)) for _ in range(4)] == ["a", "b", "c", None]


def test_items_of_a_higher_priority_go_first_and_the_others_fill_their_batch() -> None:
    target = batcher(max_records=3)
    for item, priority in (("a", 4), ("b", 0), ("C", 9), ("d", 4), ("E", 9)):
        target.add(item, 1, "b", 0.0, priority=priority)
    assert [taken(target.take(0.0, idle=True)) for _ in range(3)] == ["CEa", "db", None]


def test_of_what_is_ready_the_bucket_with_the_highest_priority_goes_first() -> None:
    target = batcher(max_records=2, max_delay_seconds=1.0)
    fill(target, "ab", now=0.0, bucket="full")
    target.add("U", 1, "urgent", 5.0, priority=5)
    target.add("V", 1, "later", 5.5, priority=9)
    assert [taken(target.take(6.0, idle=False)) for _ in range(3)] == ["U", "ab", None]
    assert taken(target.take(6.0, idle=True)) == "V"


@pytest.mark.parametrize("bucket", ["same", "other"])
def test_item_of_the_lowest_priority_does_not_starve_behind_a_flood_of_the_highest(bucket: str) -> None:
    target = batcher(max_records=2, max_delay_seconds=1.0)
    target.add("l", 1, bucket, 0.0, priority=0)
    cut: list[str | None] = []
    while "l" not in (cut[-1] or "" if cut else ""):
        assert len(cut) < 20
        for _ in range(2):
            target.add("U", 1, "same", 2.0 + len(cut), priority=9)
        cut.append(taken(target.take(2.0 + len(cut), idle=False)))
    assert cut == ["UU"] * MOST_PASSES + (["lU"] if bucket == "same" else ["l"])


def test_priority_waits_for_others_no_less_than_the_rest() -> None:
    target = batcher(max_delay_seconds=1.0)
    target.add("U", 1, "b", 0.0, priority=9)
    assert target.take(0.5, idle=False) is None
    assert target.next_due() == 1.0


def test_many_buckets_over_a_long_delay_keep_memory_bounded() -> None:
    """Full batches of one bucket come and go while an old item of another waits."""
    target = batcher(max_records=2, max_delay_seconds=60)
    target.add("old", 1, "old", 0.0)
    fill(target, "a", now=1.0, bucket="busy")
    for number in range(5000):
        fill(target, "bc", now=1.0 + number / 1000, bucket="busy")
        assert target.take(1.0 + number / 1000, idle=False) is not None
    assert [taken(target.take(now, idle=False)) for now in (60.0, 66.0, 200.0)] == ["old", "c", None]


@pytest.mark.parametrize(("records", "max_bytes", "delay"), [(0, 1, 0), (1, 0, 0), (1, 1, -0.1)])
def test_impossible_limits_are_refused(records: int, max_bytes: int, delay: float) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        Batcher[str](records, max_bytes, delay)


@given(st.integers(2, 300), st.data())
def test_halving_isolates_one_bad_item_in_log2_calls(size: int, data: st.DataObject) -> None:
    bad = data.draw(st.integers(0, size - 1))
    pending, depth = tuple(range(size)), 0
    while len(pending) > 1:
        first, second = halves(pending)
        assert first + second == pending
        pending = first if bad in first else second
        depth += 1
    assert pending == (bad,)
    assert depth <= (size - 1).bit_length()


def test_single_item_cannot_be_halved() -> None:
    with pytest.raises(ValueError, match="batch of one"):
        halves(("a",))


class BatcherMachine(RuleBasedStateMachine):
    """Any sequence of adds, takes, discards and steps of time, against a plain model of what waits."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.bucket_of: list[str] = []
        self.priority_of: list[int] = []
        self.batcher: Batcher[int] = Batcher(max_records=3, max_bytes=50, max_delay_seconds=1.0)
        self.waiting: dict[str, list[tuple[int, int, float, int]]] = defaultdict(list)

    @rule(
        bucket=st.sampled_from("xyz"),
        weight=st.integers(0, 80),
        count=st.integers(1, 5),
        rows=st.sampled_from([1, 1, 1, 2, 3, 5]),
        priority=st.sampled_from([4, 4, 4, 4, 9, 0]),
    )
    def add(self, bucket: str, weight: int, count: int, rows: int, priority: int) -> None:
        for _ in range(count):
            item = len(self.bucket_of)
            self.bucket_of.append(bucket)
            self.batcher.add(item, weight, bucket, self.now, rows=rows, priority=priority)
            self.priority_of.append(priority)
            self.waiting[bucket].append((item, weight, self.now, rows))
            self.waiting[bucket].sort(key=lambda each: (-self.priority_of[each[0]], each[0]))

    @rule(seconds=st.sampled_from([0.0, 0.3, 0.5, 1.0, 7.0]))
    def step(self, seconds: float) -> None:
        self.now += seconds

    @rule(idle=st.booleans())
    def take(self, idle: bool) -> None:
        heads = [item[2] for items in self.waiting.values() for item in items]
        priorities = {self.priority_of[item] for items in self.waiting.values() for item, *_ in items}
        batch = self.batcher.take(self.now, idle)
        if batch is None:
            assert not heads or (not idle and min(heads) + 1.0 > self.now)
            assert not any(self.full(items) for items in self.waiting.values())
            return
        bucket = self.bucket_of[batch.items[0]]
        items = self.waiting[bucket]
        if batch.items[0] != items[0][0]:  # it was passed over too often: what has waited longest goes before
            oldest = min(items, key=lambda each: (each[2], -self.priority_of[each[0]], each[0]))
            items = [oldest, *[each for each in items if each is not oldest]]
            assert oldest[2] == min(heads)
        cut, rest = items[: len(batch.items)], items[len(batch.items) :]
        assert tuple(item for item, *_ in cut) == batch.items  # highest first, in order; none lost or doubled
        weight_bytes, rows = sum(weight for _, weight, _, _ in cut), sum(rows for *_, rows in cut)
        assert len(cut) == 1 or (rows <= 3 and weight_bytes <= 50)
        assert not rest or rows + rest[0][3] > 3 or weight_bytes + rest[0][1] > 50  # as large as allowed
        if len(priorities) > 1:
            highest = max(self.priority_of[each[0][0]] for each in self.waiting.values() if self.ready(each, idle))
            assert self.priority_of[cut[0][0]] == highest or cut[0][2] == min(heads)
        elif idle or min(heads) + 1.0 <= self.now:
            assert cut[0][2] == min(heads)  # nobody starves
        else:
            assert self.full(items)
        self.waiting[bucket] = rest

    @precondition(lambda self: any(self.waiting.values()))
    @rule()
    def wait_until_due(self) -> None:
        due = self.batcher.next_due()
        assert due is not None
        self.now = max(self.now, due)
        self.take(idle=False)

    @invariant()
    def something_is_due_while_something_waits(self) -> None:
        assert (self.batcher.next_due() is None) == (not any(self.waiting.values()))

    def ready(self, items: list[tuple[int, int, float, int]], idle: bool) -> bool:
        return bool(items) and (idle or self.full(items) or min(each[2] for each in items) + 1.0 <= self.now)

    def full(self, items: list[tuple[int, int, float, int]]) -> bool:
        return sum(rows for *_, rows in items) >= 3 or sum(weight for _, weight, _, _ in items) >= 50

    def teardown(self) -> None:
        left = [item for items in self.waiting.values() for item, *_ in items]
        drained: list[int] = []
        while batch := self.batcher.take(self.now, idle=True):
            drained += batch.items
        assert sorted(drained) == sorted(left)


TestBatcherMachine = BatcherMachine.TestCase
