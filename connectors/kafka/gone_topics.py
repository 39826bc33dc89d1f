"""Topics that are written to and that are gone: librdkafka only says, for a long time, that a call is late."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

GONE_SECONDS = 10.0
"""How long no broker may list a topic: one that has just started may not have heard of all of them yet."""


class GoneTopics:
    """Which of some topics are gone, by what the brokers list.

    Args:
        wanted: the topics.
        clock: in seconds, never going back.
    """

    def __init__(self, wanted: Collection[str] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._wanted = wanted
        self._clock = clock
        self._since: dict[str, float] = {}
        self._seen = 0.0

    def see(self, listed: Collection[str]) -> None:
        """What the brokers list now."""
        self._seen = now = self._clock()
        self._since = {topic: self._since.get(topic, now) for topic in self._wanted if topic not in listed}

    @property
    def names(self) -> list[str]:
        """Those that no listing had for ``GONE_SECONDS``, up to the last one, sorted."""
        return sorted(topic for topic, since in self._since.items() if self._seen - since >= GONE_SECONDS)
