"""The real clock behind ``ports.Clock``."""

from __future__ import annotations

import time


class SystemClock:
    monotonic = staticmethod(time.monotonic)  # as it is: it is asked for a dozen times a record

    def epoch_ms(self) -> int:
        return time.time_ns() // 1_000_000
