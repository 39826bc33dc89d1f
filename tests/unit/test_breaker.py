from __future__ import annotations

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
        for _ in range(times):
            self.breaker.failed()

    def opened(self) -> Breaker:
        self.fail(3)
        assert self.breaker.state is BreakerState.OPEN
        return self.breaker


def test_opens_with_failures_in_a_row_only() -> None:
    bench = Bench()
    bench.fail(2)
    bench.breaker.answered()
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
    breaker.answered()
    assert [breaker.admits(), breaker.admits()] == [True, True]
    assert bench.changes == ["open", "half_open", "closed"]


def test_each_failed_probe_doubles_the_wait_up_to_the_longest() -> None:
    bench = Bench()
    breaker = bench.opened()
    waits = []
    for _ in range(3):
        bench.clock.now += breaker.remaining_seconds
        assert breaker.admits()
        breaker.failed()
        waits.append(breaker.remaining_seconds)
    assert waits == [10, 12, 12]
    bench.clock.now += 12
    assert breaker.admits()
    breaker.answered()
    bench.fail(3)
    assert breaker.remaining_seconds == 5


def test_probe_that_comes_to_nothing_is_made_again() -> None:
    bench = Bench()
    breaker = bench.opened()
    bench.clock.now = 5
    assert breaker.admits()
    breaker.unknown()
    assert breaker.admits()


def test_calls_that_began_before_it_opened_neither_close_it_nor_open_it_for_longer() -> None:
    bench = Bench()
    breaker = bench.opened()
    bench.clock.now = 1
    breaker.failed()
    breaker.answered()
    assert breaker.state is BreakerState.OPEN
    assert breaker.remaining_seconds == 4


@pytest.mark.parametrize("state", list(BreakerState))
def test_every_state_is_left_and_reached(state: BreakerState) -> None:
    assert state.next
    assert any(state in other.next for other in BreakerState)


class Lives(RuleBasedStateMachine):
    """Whatever happens: never more than one call under way unless it is closed, and it always recovers."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.breaker = self.bench.breaker
        self.probes = 0

    @rule()
    def call(self) -> None:
        state = self.breaker.look()
        admitted = self.breaker.admits()
        if state is BreakerState.HALF_OPEN:
            assert admitted == (self.probes == 0)
            self.probes += admitted
        else:
            assert admitted == (state is BreakerState.CLOSED)

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.bench.clock.now += seconds

    @rule(outcome=st.sampled_from(["answered", "failed"]))
    def end(self, outcome: str) -> None:
        if self.breaker.state is BreakerState.HALF_OPEN and not self.probes:
            return
        getattr(self.breaker, outcome)()
        self.probes = 0

    @precondition(lambda self: self.probes)
    @rule()
    def come_to_nothing(self) -> None:
        self.breaker.unknown()
        self.probes = 0

    @invariant()
    def waits_no_longer_than_it_may(self) -> None:
        assert self.breaker.remaining_seconds <= SETTINGS.max_open_seconds

    def teardown(self) -> None:
        self.bench.clock.now += SETTINGS.max_open_seconds
        if self.breaker.look() is BreakerState.HALF_OPEN:
            self.breaker.unknown()
            assert self.breaker.admits()
            self.breaker.answered()
        assert self.breaker.state is BreakerState.CLOSED


TestLives = Lives.TestCase
