from __future__ import annotations

import asyncio
import threading
import uuid
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.budget import Budget, worker_budget
from headrace.pipeline.config import Settings
from headrace.pipeline.replay.rules import ReplayRules
from headrace.pipeline.retrying import delay_topics
from headrace.pipeline.worker import Connections, Worker
from tests.unit.fake_connections import FakeConnections
from tests.unit.fakes import FakeBroker, LoopClock, on_virtual_time


def test_is_full_by_records_or_by_bytes() -> None:
    budget = Budget(max_records=3, max_bytes=100)
    budget.take(2, 10)
    assert (budget.full, budget.room_records) == (False, 1)
    budget.take(1, 10)
    assert (budget.full, budget.room_records) == (True, 0)
    budget.release(2, 10)
    assert (budget.full, budget.room_records) == (False, 2)
    budget.take(1, 95)
    assert (budget.full, budget.room_records) == (True, 0)


def test_overshoot_leaves_no_room_until_it_is_given_back() -> None:
    """A fetch may bring more bytes than there was room for: they are counted, not refused."""
    budget = Budget(max_records=10, max_bytes=100)
    budget.take(4, 500)
    budget.release(1, 300)
    assert (budget.full, budget.size_bytes) == (True, 200)
    budget.release(3, 200)
    assert (budget.records, budget.size_bytes, budget.room_records) == (0, 0, 10)


def test_waiting_for_room_times_out_while_it_is_full() -> None:
    budget = Budget(1, 100)
    budget.take(1, 1)
    assert not budget.wait_for_room(0.002)
    budget.release(1, 1)
    assert budget.wait_for_room(0.0)


def test_release_on_one_thread_wakes_the_other() -> None:
    budget = Budget(1, 100)
    budget.take(1, 1)
    woken: list[bool] = []
    waiter = threading.Thread(target=lambda: woken.append(budget.wait_for_room(30)))
    waiter.start()
    budget.release(1, 1)
    waiter.join(10)
    assert woken == [True]


def test_two_threads_lose_no_count() -> None:
    budget = Budget(64, 10**9)
    rounds = 5_000

    def consume() -> None:
        for _ in range(rounds):
            while not budget.wait_for_room(30):
                pass
            budget.take(1, 7)

    consumer = threading.Thread(target=consume)
    consumer.start()
    released = 0
    while released < rounds:
        if here := budget.records:
            assert here <= 64
            budget.release(here, 7 * here)
            released += here
    consumer.join(10)
    assert (budget.records, budget.size_bytes) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=30))
def test_room_is_what_is_left(taken: list[tuple[int, int]]) -> None:
    budget = Budget(100, 10**6)
    for records, given_back in taken:
        budget.take(records, records)
        budget.release(min(given_back, budget.records), min(given_back, budget.size_bytes))
        assert budget.records == budget.size_bytes >= 0
        assert budget.room_records == max(0, 100 - budget.records)
        assert budget.full == (budget.room_records == 0)


def test_no_lane_takes_the_room_of_another_nor_of_the_rest() -> None:
    budget = Budget(9, 900, [["urgent"], ["bulk"]])
    budget.take(3, 3, "bulk")
    assert budget.crowds_out("bulk", paused=False)
    assert not budget.crowds_out("urgent", paused=False)
    assert not budget.crowds_out("any other", paused=False)
    assert (budget.full, budget.crowded, budget.room_records, budget.records) == (False, True, 6, 3)
    budget.take(2, 300, "requests")  # by its bytes
    assert budget.crowds_out("any other", paused=False)
    assert budget.room_records == 3
    budget.take(3, 3, "urgent")
    assert (budget.full, budget.room_records, budget.size_bytes) == (True, 0, 306)


def test_topic_without_room_is_read_again_when_half_of_a_small_share_is_free() -> None:
    budget = Budget(20, 2000, [["bulk"]])
    budget.take(10, 10, "bulk")
    budget.release(4, 4, "bulk")
    assert budget.crowds_out("bulk", paused=True)
    assert not budget.crowds_out("bulk", paused=False)
    budget.release(1, 1, "bulk")
    assert not budget.crowds_out("bulk", paused=True)


def test_topic_is_not_read_again_for_a_few_records_nor_only_when_most_of_its_share_is_free() -> None:
    for share, free in ((10_000, 2_000), (1_000, 256), (100, 50)):
        budget = Budget(2 * share, 10**9, [["bulk"]])
        budget.take(share - free + 1, 1, "bulk")
        assert budget.crowds_out("bulk", paused=True)
        budget.release(1, 0, "bulk")
        assert not budget.crowds_out("bulk", paused=True)


def test_without_lanes_all_topics_share_and_none_is_crowded_out() -> None:
    budget = Budget(3, 100)
    budget.take(3, 3, "requests")
    assert budget.full
    assert not budget.crowds_out("requests", paused=True)


LANES = Settings.model_validate(
    {
        "name": "mill",
        "topics": {"requests": ["requests", "urgent"]},
        "routes": [
            {"name": "a", "model": "m", "topics": ["urgent"], "retries": {"delays": ["5s", "1m"]}},
            {"name": "b", "model": "m"},
        ],
        "worker": {"max_in_flight_records": 9, "max_in_flight_bytes": 9000},
    }
)


@pytest.mark.parametrize("topic", ["mill.retry.5s", "mill.retry.1m", "mill.redriven"])
def test_what_was_put_off_or_redriven_takes_no_room_of_request_topics(topic: str) -> None:
    budget = worker_budget(LANES)
    budget.take(3, 3, topic)
    assert not any(budget.crowds_out(each, paused=False) for each in ("requests", "urgent"))
    assert all(budget.crowds_out(each, paused=False) for each in delay_topics(LANES))
    assert budget.room_records == 6
    budget.release(3, 3, topic)
    assert budget.room_records == 9


def test_without_lanes_all_of_a_worker_is_one_share() -> None:
    budget = worker_budget(LANES.model_copy(update={"routes": LANES.routes[1:]}))
    budget.take(9, 9, "mill.redriven")
    assert budget.full


@pytest.mark.parametrize("topic", ["requests", "urgent"])
def test_replay_of_a_pipeline_with_lanes_is_bounded(topic: str) -> None:
    budget = worker_budget(LANES, replays=True)
    budget.take(9, 9, topic)
    assert budget.full
    budget.release(9, 9, topic)
    assert budget.room_records == 9


@pytest.mark.parametrize("replays", [False, True])
@on_virtual_time
async def test_worker_divides_its_budget_unless_it_replays(replays: bool) -> None:
    settings = LANES.model_copy(update={"name": f"mill-{uuid.uuid4()}"})
    connections = FakeConnections(FakeBroker(), settings)

    async def nobody(*_: object) -> None:
        raise AssertionError("nothing was sent")

    rules = ReplayRules(frozenset(), {}) if replays else None
    worker = Worker(settings, lambda: cast("Connections", connections), LoopClock(), nobody, nobody, rules=rules)
    running = asyncio.create_task(worker.run())
    await connections.consuming.wait()
    assert connections.source is not None
    budget = connections.source.budget
    budget.take(9, 9, "urgent")
    assert budget.full == replays
    budget.release(9, 9, "urgent")
    await worker.stop()
    await running
