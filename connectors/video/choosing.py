"""Which frames of a video are kept, decided frame by frame, for its end is not known until it is there. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = cv2.typing.MatLike
"""Pixels: height, width, and blue, green, red as uint8."""

_ROUNDING = 1e-6
"""Times are ticks of some clock divided by its rate: a frame due at 0.3 s may come at 0.29999999 s."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A frame that was kept: encoded, and when it is shown."""

    seconds: float
    image: bytes


class Chooser(Protocol):
    """Is offered every frame, in order."""

    kept: list[Kept]
    """What has been chosen so far."""

    def offer(self, seconds: float, picture: Callable[[], Picture], encode: Callable[[], bytes]) -> None:
        """Keep this frame or let it pass.

        Args:
            seconds: when it is shown; never less than at the last call.
            picture: its pixels; costs a conversion, so it is asked for when needed.
            encode: the frame as it would be kept.
        """


class ByTime:
    """The first frame of each period, and no more than so many: when there are more, the period doubles.

    So a video that is longer than was thought is sampled more sparsely, and evenly still.
    """

    def __init__(self, period_seconds: float, most: int) -> None:
        self.kept: list[Kept] = []
        self.thinned = False
        self._period_seconds = period_seconds
        self._most = most
        self._last = -1

    def offer(self, seconds: float, picture: Callable[[], Picture], encode: Callable[[], bytes]) -> None:
        period = self._number(seconds)
        if period <= self._last:
            return
        self._last = period
        self.kept.append(Kept(seconds, encode()))
        while len(self.kept) > self._most:
            self._thin()

    def _number(self, seconds: float) -> int:
        return math.floor(seconds / self._period_seconds + _ROUNDING)

    def _thin(self) -> None:
        self.thinned = True
        self._period_seconds *= 2
        first_of: dict[int, Kept] = {}
        for each in self.kept:
            first_of.setdefault(self._number(each.seconds), each)
        self.kept = list(first_of.values())
        self._last = max(first_of)


class ByChange:
    """The first frame, and each whose picture differs enough from the last that was kept.

    When there are more than so many, those that differ least are dropped.
    """

    WIDTH, HEIGHT = 32, 18
    """Pictures are compared at this size: what moves a little or is noise does not count."""
    LOOK_SECONDS = 0.1
    """How often: to convert a frame costs more than to decode it."""

    def __init__(self, threshold: float, most: int) -> None:
        self.kept: list[Kept] = []
        self._threshold = threshold
        self._most = most
        self._before: NDArray[np.floating] | None = None
        self._changes: list[float] = []
        self._last_look = -1

    def offer(self, seconds: float, picture: Callable[[], Picture], encode: Callable[[], bytes]) -> None:
        look = math.floor(seconds / self.LOOK_SECONDS + _ROUNDING)
        if look <= self._last_look:
            return
        self._last_look = look
        small = cv2.resize(picture(), (self.WIDTH, self.HEIGHT), interpolation=cv2.INTER_AREA)
        now = small.astype(np.float32) / np.float32(255)
        change = math.inf if self._before is None else float(np.abs(now - self._before).mean())
        if change < self._threshold:
            return
        self._before = now
        self.kept.append(Kept(seconds, encode()))
        self._changes.append(change)
        if len(self.kept) > self._most:
            least = self._changes.index(min(self._changes))
            del self.kept[least], self._changes[least]
