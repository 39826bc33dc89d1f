"""What librdkafka logs by itself, without what it says again and again while a broker is away."""

from __future__ import annotations

import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable

LOG_LEVEL = 4  # warnings and worse, of syslog's levels
"""Of what a client is told to log."""
REPEAT_SECONDS = 30.0
KEPT_LINES = 1_000
_CHANGING = re.compile(r"\d+ ?ms\b|\d+ identical")


class Unrepeated(logging.Filter):
    """Lets a line through that has not come for so long; of times and counts in it nothing depends.

    Args:
        clock: in seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._last: OrderedDict[str, float] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        line, now = _CHANGING.sub("", record.getMessage()), self._clock()
        if now - self._last.get(line, float("-inf")) < REPEAT_SECONDS:
            return False
        self._last[line] = now
        self._last.move_to_end(line)
        if len(self._last) > KEPT_LINES:
            self._last.popitem(last=False)
        return True


def client_log(name: str) -> logging.Logger:
    """The log that a client is given: ``librdkafka.`` and this name."""
    log = logging.getLogger(f"librdkafka.{name}")
    if not log.filters:
        log.addFilter(Unrepeated())
    return log
