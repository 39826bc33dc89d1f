import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.admission import (
    attempts_left,
    backoff_seconds,
    check_deadline,
    deadline_ms,
    patience_seconds,
    unavailable_backoff_seconds,
)
from headrace.pipeline.config_retries import RetrySettings
from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.errors import PoisonError

RETRIES = RetrySettings(max_attempts=3, initial_backoff_seconds=0.1, max_backoff_seconds=1.0)


def route(deadline_seconds: float | None) -> RouteSettings:
    return RouteSettings(name="a", model="m", deadline_seconds=deadline_seconds)


@pytest.mark.parametrize(
    ("header_ms", "timestamp_ms", "deadline_seconds", "expected"),
    [
        (None, 1_000, None, None),
        (None, 1_000, 0.25, 1_250),
        (5_000, 1_000, 0.25, 5_000),
        (1_100, 1_000, 10, 1_100),
        (5_000, 1_000, None, 5_000),
        (None, -1, 10, None),
        (5_000, -1, 10, 5_000),
    ],
)
def test_own_deadline_goes_before_the_routes(
    header_ms: int | None, timestamp_ms: int, deadline_seconds: float | None, expected: int | None
) -> None:
    assert deadline_ms(header_ms, timestamp_ms, route(deadline_seconds)) == expected


@pytest.mark.parametrize(("deadline", "now_ms"), [(None, 10**15), (1_000, 999), (1_000, 1_000)])
def test_record_in_time_passes(deadline: int | None, now_ms: int) -> None:
    check_deadline(deadline, now_ms)


def test_late_record_is_poison() -> None:
    with pytest.raises(PoisonError, match=r"deadline passed 0\.001 s ago") as caught:
        check_deadline(1_000, 1_001)
    assert (caught.value.stage, caught.value.code) == ("admit", "DEADLINE_EXCEEDED")


def test_attempts_are_counted_down() -> None:
    assert [attempts_left(attempts, RETRIES) for attempts in range(5)] == [3, 2, 1, 0, 0]


def test_backoff_doubles_up_to_its_bound() -> None:
    just_below_one = 1 - 1e-12
    waits = [backoff_seconds(attempts, RETRIES, just_below_one) for attempts in (1, 2, 3, 4, 5, 6)]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


@given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
def test_backoff_stays_within_bounds(attempts: int, jitter: float) -> None:
    assert 0 <= backoff_seconds(attempts, RETRIES, jitter) <= RETRIES.max_backoff_seconds


def test_waits_for_what_does_not_answer_grow_to_two_seconds() -> None:
    waits = [unavailable_backoff_seconds(times) for times in (1, 2, 3, 10, 10**6)]
    assert waits == [0.1, 0.2, 0.4, 2.0, 2.0]


def test_patience_is_what_the_retries_could_last() -> None:
    assert patience_seconds(RETRIES) == 3.0
    assert patience_seconds(RetrySettings()) == 20.0
