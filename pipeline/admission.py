"""Deadlines and retry budgets. Pure: the time and the dice are arguments."""

from __future__ import annotations

from headrace.pipeline.config_retries import RetrySettings
from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.records import Stage

UNAVAILABLE_BACKOFF_SECONDS = 2.0
"""Longest wait between two calls to a server that does not answer: also how soon its return is noticed."""


def deadline_ms(header_ms: int | None, timestamp_ms: int, route: RouteSettings) -> int | None:
    """When a record stops being worth an inference, in epoch milliseconds; None if never.

    Args:
        header_ms: the record's own ``deadline`` header, which goes first.
        timestamp_ms: the record's timestamp; negative if Kafka gave none, then only the header counts.
        route: its ``deadline_seconds`` is the age allowed to records without a deadline of their own.
    """
    if header_ms is not None:
        return header_ms
    if route.deadline_seconds is None or timestamp_ms < 0:
        return None
    return timestamp_ms + round(route.deadline_seconds * 1000)


def check_deadline(deadline_ms: int | None, now_ms: int) -> None:
    """Let a record pass up to and including its deadline.

    Raises:
        PoisonError: ``DEADLINE_EXCEEDED``.
    """
    if deadline_ms is not None and now_ms > deadline_ms:
        late_seconds = (now_ms - deadline_ms) / 1000
        message = f"the deadline passed {late_seconds:.3f} s ago: send again with a later one, or add workers"
        raise PoisonError(Stage.ADMIT, "DEADLINE_EXCEEDED", message)


def attempts_left(attempts: int, settings: RetrySettings) -> int:
    """Infer attempts a record still has after ``attempts`` failed ones."""
    return max(0, settings.max_attempts - attempts)


def backoff_seconds(attempts: int, settings: RetrySettings, jitter: float) -> float:
    """How long to wait after ``attempts`` (1 or more) failed ones: exponential, bounded, with full jitter.

    Args:
        attempts: how many have failed.
        settings: first and longest wait.
        jitter: a random number in [0, 1). Spreads the retries of many records over the whole interval, so that they
            do not come back as one wave.
    """
    doublings = min(max(attempts, 1) - 1, 63)  # 2.0**63 times any wait is above every bound; more would overflow
    ceiling = min(settings.max_backoff_seconds, settings.initial_backoff_seconds * 2.0**doublings)
    return ceiling * jitter


def unavailable_backoff_seconds(waits: int) -> float:
    """How long to wait, the ``waits``-th time, for what does not answer. Costs no attempt, so there is no jitter."""
    return min(0.05 * 2.0 ** min(waits, 10), UNAVAILABLE_BACKOFF_SECONDS)


def patience_seconds(settings: RetrySettings) -> float:
    """How long a model that does not answer is waited for while its server is up.

    What the retry budget could last with the longest waits: enough for a model to be loaded again (20 s by default).
    """
    return settings.max_attempts * settings.max_backoff_seconds
