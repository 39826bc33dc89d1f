"""What goes wrong and when in a chaos run: the seed decides, and a short run has all that must not stop the stream."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from tests.chaos.faults import KIND_CALLS
from tests.chaos.schedule import KINDS, STREAM_KINDS, schedule

SHORT_SECONDS = 150.0
PAUSE_SECONDS = (2.0, 6.0)


@pytest.mark.parametrize("seed", range(20))
def test_short_run_has_each_fault_that_must_not_stop_the_stream(seed: int) -> None:
    assert set(STREAM_KINDS) <= {fault.kind for fault in schedule(seed, SHORT_SECONDS, PAUSE_SECONDS)}


def test_seed_has_the_same_faults_again_and_another_seed_others() -> None:
    first, again, other = (schedule(seed, SHORT_SECONDS, PAUSE_SECONDS) for seed in (7, 7, 8))
    assert first == again
    assert first != other


@pytest.mark.parametrize("seed", range(5))
def test_what_two_faults_need_alike_has_recovered_before_the_second(seed: int) -> None:
    faults = schedule(seed, SHORT_SECONDS, PAUSE_SECONDS)
    for needs in {fault.needs for fault in faults}:
        for first, second in pairwise(fault for fault in faults if fault.needs == needs):
            assert second.at >= first.at + first.seconds + KINDS[first.kind].room
    assert all(fault.at + fault.seconds <= SHORT_SECONDS for fault in faults)


def test_each_kind_comes_as_often_as_its_weight_says() -> None:
    """Whatever had to wait for what it needs: a card that is drawn is dealt, sooner or later."""
    counts = Counter(fault.kind for fault in schedule(3, 20_000, PAUSE_SECONDS))
    decks = sum(counts.values()) / sum(kind.weight for kind in KINDS.values())
    for name, kind in KINDS.items():
        assert counts[name] == pytest.approx(decks * kind.weight, rel=0.1), name


def test_every_kind_is_carried_out_by_something() -> None:
    assert KIND_CALLS.keys() == KINDS.keys()
