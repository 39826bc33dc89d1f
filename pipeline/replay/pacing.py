"""How fast history is handed on: as fast as it goes, at a rate, or as it once came. Pure: the caller waits."""

from __future__ import annotations

import math
import re
from typing import Protocol

from headrace.pipeline.errors import ConfigError
from headrace.pipeline.pacing import Pace

_SPEED = re.compile(r"(?:x(?P<before>[\d.]+)|(?P<after>[\d.]+)x)")


class Pacing(Protocol):
    """A schedule."""

    def wait_seconds(self, timestamp_ms: int, now: float) -> float:
        """How long the next record has to wait; 0 or less if it may go.

        Args:
            timestamp_ms: its own; -1 if it has none.
            now: monotonic seconds.
        """

    def take(self, now: float) -> None:
        """The record goes now."""


class PerSecond:
    """So many records a second."""

    def __init__(self, rate: float, now: float) -> None:
        self._pace = Pace(rate, now)

    def wait_seconds(self, timestamp_ms: int, now: float) -> float:
        return self._pace.wait_seconds(now)

    def take(self, now: float) -> None:
        self._pace.take(now)


class LiveSpeed:
    """As far apart as their timestamps are, divided by ``speed``; the first record sets the start."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._first: tuple[int, float] | None = None

    def wait_seconds(self, timestamp_ms: int, now: float) -> float:
        if timestamp_ms < 0:
            return 0.0
        if self._first is None:
            self._first = timestamp_ms, now
        began_ms, began = self._first
        return began + (timestamp_ms - began_ms) / 1000 / self._speed - now

    def take(self, now: float) -> None:
        pass


Rate = tuple[str, float] | None
"""("per second", records), ("speed", factor), or None: as fast as it goes."""


def rate(text: str | None) -> Rate:
    """What ``--rate`` says: ``200`` records a second, ``x2`` twice the live speed, ``unlimited`` (as without it).

    Raises:
        ConfigError: it is none of these.
    """
    if text is None or text == "unlimited":
        return None
    speed = _SPEED.fullmatch(text)
    try:
        value = float(speed["before"] or speed["after"] if speed else text)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise ConfigError(f"--rate {text}: give records a second (200), a multiple of live speed (x2) or unlimited")
    return ("speed", value) if speed else ("per second", value)


def pacing(wanted: Rate, now: float) -> Pacing | None:
    """A schedule that begins now; None if there is nothing to wait for."""
    if wanted is None:
        return None
    kind, value = wanted
    return LiveSpeed(value) if kind == "speed" else PerSecond(value, now)
