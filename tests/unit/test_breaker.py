from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.pipeline.breaker import Breaker, BreakerState
from headrace.pipeline.config_breaker import BreakerSettings

SETTINGS = BreakerSettings(failures=3, open_seconds=5, max_open_seconds=12)


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def epoch_ms(self) -> int:
        raise AssertionError("a breaker does not look at the wall clock")


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.changes: list[str] = []
        self.breaker = Breaker(SETTINGS, self.clock, lambda state: self.changes.append(state.value))

    def fail(self, times: int = 1) -> None:
        """So many calls that begin now."""
        for _ in range(times):
            self.breaker.failed(self.clock.now)

    def opened(self) -> Breaker:
        self.fail(3)
        assert self.breaker.state is BreakerState.OPEN
        return self.breaker


def test_opens_with_failures_in_a_row_only() -> None:
    bench = Bench()
    bench.fail(2)
    bench.breaker.answered(0)
    bench.fail(2)
    assert bench.breaker.admits()
    bench.fail()
    assert not bench.breaker.admits()
    assert bench.changes == ["open"]
    assert bench.breaker.remaining_seconds == 5


def test_one_probe_at_a_time_decides() -> None:
    bench = Bench()
    breaker = bench.opened()
    bench.clock.now = 4.9
    assert not breaker.admits()
    bench.clock.now = 5.0
    assert [breaker.admits(), breaker.admits()] == [True, False]
    breaker.answered(5.0)
    assert [breaker.admits(), breaker.admits()] == [True, True]
    assert bench.changes == ["open", "half_open", "closed"]


def test_each_failed_probe_doubles_the_wait_up_to_the_longest() -> None:
    bench = Bench()
    breaker = bench.opened()
    waits = []
    for _ in range(3):
        bench.clock.now += breaker.remaining_seconds
        assert breaker.admits()
        bench.fail()
        waits.append(breaker.remaining_seconds)
    assert waits == [10, 12, 12]
    bench.clock.now += 12
    assert breaker.admits()
    breaker.answered(bench.clock.now)
    bench.fail(3)
    assert breaker.remaining_seconds == 5


def test_calls_that_began_before_it_opened_neither_close_it_nor_open_it_for_longer() -> None:
    bench = Bench()
    breaker = bench.opened()
    bench.clock.now = 1
    breaker.failed(0.5)
    breaker.answered(0.5)
    assert breaker.state is BreakerState.OPEN
    assert breaker.remaining_seconds == 4


@pytest.mark.parametrize("probe_begins_first", [True, False])
def test_calls_that_began_before_it_opened_do_not_decide_for_the_probe(probe_begins_first: bool) -> None:
    bench = Bench()
    bench.clock.now = 1
    breaker = bench.opened()
    bench.clock.now = 6
    assert breaker.look() is BreakerState.HALF_OPEN
    if probe_begins_first:
        assert breaker.admits()
    breaker.answered(0.5)
    breaker.failed(0.5)
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.admits() != probe_begins_first


def test_calls_that_began_before_it_opened_do_not_open_it_again_once_it_has_closed() -> None:
    bench = Bench()
    bench.clock.now = 1
    breaker = bench.opened()
    bench.clock.now = 6
    assert breaker.admits()
    breaker.answered(6)
    for _ in range(3):
        breaker.failed(0.5)
    bench.fail(2)
    breaker.answered(0.5)
    assert bench.changes == ["open", "half_open", "closed"]
    bench.fail()
    assert bench.changes == ["open", "half_open", "closed", "open"]


@pytest.mark.parametrize("state", list(BreakerState))
def test_every_state_is_left_and_reached(state: BreakerState) -> None:
    assert state.next
    assert any(state in other.next for other in BreakerState)


@dataclass(frozen=True)
class Call:
    """Under way, since then, and since the breaker had changed so often."""

    began: float
    changes: int


class Lives(RuleBasedStateMachine):
    """Whatever happens: never more than one call of now under way unless it is closed, whose outcome alone decides.

    And it always recovers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.breaker = self.bench.breaker
        self.under_way: list[Call] = []

    def is_of_now(self, call: Call) -> bool:
        return call.changes == len(self.bench.changes)

    @property
    def probes(self) -> list[Call]:
        return [each for each in self.under_way if self.is_of_now(each)]

    @rule()
    def call(self) -> None:
        state = self.breaker.look()
        may = state is BreakerState.CLOSED or (state is BreakerState.HALF_OPEN and not self.probes)
        assert self.breaker.admits() == may
        if may:
            self.under_way.append(Call(self.bench.clock.now, len(self.bench.changes)))

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.bench.clock.now += seconds

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), answered=st.booleans())
    def end(self, data: st.DataObject, answered: bool) -> None:
        call = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        before = (self.breaker.state, self.breaker.remaining_seconds, len(self.bench.changes))
        decides = self.is_of_now(call)
        (self.breaker.answered if answered else self.breaker.failed)(call.began)
        if not decides:
            assert (self.breaker.state, self.breaker.remaining_seconds, len(self.bench.changes)) == before
        elif before[0] is BreakerState.HALF_OPEN:
            assert self.breaker.state is (BreakerState.CLOSED if answered else BreakerState.OPEN)

    @invariant()
    def waits_no_longer_than_it_may(self) -> None:
        assert self.breaker.remaining_seconds <= SETTINGS.max_open_seconds

    def teardown(self) -> None:
        self.bench.clock.now += SETTINGS.max_open_seconds
        if self.breaker.look() is BreakerState.HALF_OPEN:
            assert self.probes or self.breaker.admits()
            self.breaker.answered(self.bench.clock.now)
        assert self.breaker.state is BreakerState.CLOSED


TestLives = Lives.TestCase
