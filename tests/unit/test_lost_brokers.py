"""A client that finds no broker any more, although they answer others, is found out and replaced."""

from __future__ import annotations

import itertools

import pytest
from confluent_kafka import KafkaError

from headrace.connectors.kafka.lost_brokers import CHECK_SECONDS, CHECKS, LostBrokers
from headrace.pipeline.config import Assignment
from tests.unit.fake_group_client import Bench, FakeClient, ours, wait_until

ALL_DOWN = KafkaError(KafkaError._ALL_BROKERS_DOWN)


class Watched:
    def __init__(self) -> None:
        self.now = 0.0
        self.answers = True
        self.asked = 0
        self.client = FakeClient()
        self.client.brokerless = True
        self.lost = LostBrokers(self._answers, lambda: self.now)

    def _answers(self) -> bool:
        self.asked += 1
        return self.answers

    def check(self, times: int = 1) -> bool:
        """At the next so many times; what the last one finds."""
        found = False
        for _ in range(times):
            self.now += CHECK_SECONDS
            found = self.lost.by(self.client)
        return found


def test_client_without_brokers_is_found_out_while_they_answer_others() -> None:
    watched = Watched()
    watched.lost.note(ALL_DOWN)
    assert not watched.check(CHECKS - 1)
    assert watched.check()


def test_nobody_is_asked_before_the_client_has_said_that_all_are_down() -> None:
    watched = Watched()
    watched.lost.note(KafkaError(KafkaError._TRANSPORT))
    assert not watched.check(2 * CHECKS)
    assert watched.asked == 0


def test_outage_is_none() -> None:
    watched = Watched()
    watched.answers = False
    watched.lost.note(ALL_DOWN)
    assert not watched.check(5 * CHECKS)
    watched.answers = True
    assert not watched.check(CHECKS - 1), "it may take its time after the brokers are back"
    assert watched.check()


def test_client_that_finds_one_again_is_left_alone() -> None:
    watched = Watched()
    watched.lost.note(ALL_DOWN)
    assert not watched.check(CHECKS - 1)
    watched.client.brokerless = False
    assert not watched.check()
    watched.client.brokerless = True
    assert not watched.check(2 * CHECKS)
    watched.lost.note(ALL_DOWN)
    assert not watched.check(CHECKS - 1), "what was counted before is forgotten"
    assert watched.check()


@pytest.mark.parametrize("assignment", Assignment)
async def test_member_goes_on_with_a_new_client(assignment: Assignment) -> None:
    ticks = itertools.count(0.0, CHECK_SECONDS)
    bench = Bench(assignment, lost_brokers=LostBrokers(lambda: True, lambda: next(ticks)))
    first = bench.client
    first.available.update({0: 1, 1: 1})
    first.tell("on_assign", 0, 1)
    await bench.consumer.start(bench.flow)
    await wait_until(lambda: bench.budget.records == 2)

    bench.client = second = FakeClient(assignment is Assignment.COOPERATIVE_STICKY)
    second.available.update({1: 1})
    second.tell("on_assign", 1)
    first.brokerless = True
    bench.config["error_cb"](ALL_DOWN)
    await wait_until(lambda: len(bench.records_of(1)) == 2)
    assert bench.flow.partitions == ours(1)
    assert first.closed_as != "open"
    assert first.assignment() == []
    assert bench.records_of(1) == [(1, 0), (2, 0)]
    assert bench.budget.records == 1, "what was in flight is dropped, and comes again"
    await bench.consumer.stop()
