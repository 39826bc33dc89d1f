from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.shadow_feed import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Room, Trust, as_dispatched


def test_model_that_answers_nothing_is_asked_less_and_less() -> None:
    trust = Trust()
    assert trust.asks(0.0)
    assert trust.silent(since=0.0, now=1.0)
    asked = [time for time in range(1, 1000) if trust.asks(float(time))]
    assert asked[:5] == [3, 7, 15, 31, 63]
    assert {later - earlier for earlier, later in pairwise(asked[4:])} == {LONGEST_PAUSE_SECONDS}


def test_model_that_answers_again_is_trusted_at_once() -> None:
    trust = Trust()
    trust.silent(since=0.0, now=1.0)
    assert not trust.asks(1.5)
    assert trust.answered(2.0)
    assert not trust.answered(2.1), "once is enough to say so"
    assert trust.asks(2.2)


def test_model_that_answers_others_meanwhile_is_slow_and_not_silent() -> None:
    trust = Trust()
    trust.answered(5.0)
    assert not trust.silent(since=4.0, now=6.0)
    assert trust.asks(6.0)
    assert trust.silent(since=5.5, now=7.0)


def test_many_that_are_late_together_count_once() -> None:
    trust = Trust()
    assert [trust.silent(since=0.0, now=1.0 + number / 100) for number in range(3)] == [True, False, False]
    assert trust.paused_until == 1.0 + FIRST_PAUSE_SECONDS


@given(st.lists(st.tuples(st.floats(0, 10), st.sampled_from(["asks", "answered", "silent"])), max_size=60))
def test_pause_is_bounded_and_none_while_the_model_answers(steps: list[tuple[float, str]]) -> None:
    trust, now = Trust(), 0.0
    for passed, step in steps:
        now += passed
        match step:
            case "asks":
                trust.asks(now)
            case "answered":
                trust.answered(now)
                assert trust.asks(now)
            case _:
                trust.silent(now - passed, now)
        assert trust.pause_seconds == 0 or FIRST_PAUSE_SECONDS <= trust.pause_seconds <= LONGEST_PAUSE_SECONDS
        assert trust.paused_until == -math.inf or trust.paused_until <= now + LONGEST_PAUSE_SECONDS


def test_shadow_is_dispatched_as_its_route_but_for_model_and_concurrency() -> None:
    route = RouteSettings.model_validate(
        {
            "name": "image",
            "model": "image_jpeg",
            "version": "1",
            "timeout_seconds": 7,
            "batch": {"max_records": 5},
            "shadow": {"version": "2", "max_concurrency": 3},
        }
    )
    shadow = as_dispatched(route)
    assert (shadow.name, shadow.model, shadow.version, shadow.max_concurrency) == ("image/shadow", "image_jpeg", "2", 3)
    left_out = {"name", "version", "max_concurrency", "shadow"}
    assert shadow.model_dump(exclude=left_out) == route.model_dump(exclude=left_out)


def test_room_is_halved_once_for_what_was_asked_for_together() -> None:
    room = Room(least=2, most=64)
    for number in range(20):
        room.late(in_hand=20 - number, since=number / 20, now=1.0 + number / 20)
    assert room.parts == 10
    room.late(in_hand=10, since=1.0, now=2.0)
    assert room.parts == 5


def test_room_grows_by_one_for_as_many_answers_as_it_has_parts() -> None:
    room = Room(least=2, most=64)
    room.late(in_hand=40, since=0.0, now=1.0)
    for _ in range(20):
        room.in_time()
    assert 20.9 < room.parts <= 21


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 100), st.booleans()), max_size=60))
def test_room_stays_within_its_bounds(steps: list[tuple[float, int, bool]]) -> None:
    room, now = Room(least=2, most=64), 0.0
    assert room.parts == 64
    for passed, in_hand, late in steps:
        now += passed
        if late:
            room.late(in_hand, now - passed, now)
        else:
            room.in_time()
        assert 2 <= room.parts <= 64
