"""Ctrl-C between the calls of a client library, not inside them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self


class HeldInterrupts:
    """Makes Ctrl-C a KeyboardInterrupt, as always, but inside ``held`` only when that ends.

    The Kafka client loses an exception that is raised while it calls back. Calls inside ``held`` must be short.
    """

    def __init__(self) -> None:
        self._holding = False
        self._came = False
        self._before: Any = None  # a handler, or what stands for one

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Around one call. Raises KeyboardInterrupt at its end if one came, unless the call itself raised."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._came:
            self._came = False
            raise KeyboardInterrupt

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if not self._holding:
            raise KeyboardInterrupt
        self._came = True


class PatientInterrupts(HeldInterrupts):
    """As its base, for SIGTERM too; inside ``held``, which may be long, a second one does not wait."""

    def __enter__(self) -> Self:
        self._before_term = signal.signal(signal.SIGTERM, self._interrupt)
        return super().__enter__()

    def __exit__(self, *arguments: object) -> None:
        super().__exit__(*arguments)
        signal.signal(signal.SIGTERM, self._before_term)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._came:
            raise KeyboardInterrupt
        super()._interrupt(number, frame)
