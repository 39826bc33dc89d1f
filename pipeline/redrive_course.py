"""The course of a redrive: dead letters in, transactions out, at their rate. Pure: the caller reads and commits."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

from headrace.pipeline.errors import OutputRefusedError
from headrace.pipeline.letters import Letter
from headrace.pipeline.pacing import Pace
from headrace.pipeline.records import OutputRecord, SourceRecord
from headrace.pipeline.redriving import Left, Redriving, Tally

UNIT_LETTERS = 500
UNIT_BYTES = 16 * 1024 * 1024
"""Dead letters that share a transaction; one that has more bytes has one for itself."""
WAIT_SECONDS = 0.2
"""Longest wait at a time: in between it is told how far things are."""

Read = tuple[SourceRecord, Letter | None]
"""A record of the dead-letter topic, and the dead letter that it is, if it is one."""


def to_redrive(
    records: Iterable[Read], wants: Callable[[Letter], bool], redriving: Redriving, tally: Tally
) -> Iterator[Letter]:
    """Those that are wanted and can be; what becomes of the others is counted."""
    for _, letter in records:
        if letter is None:
            tally.unreadable += 1
        elif wants(letter):
            why = redriving.left(letter)
            if why is None:
                yield letter
            else:
                tally.left[why] += 1


class Course:
    """Redrives dead letters in transactions, in the order in which they are read.

    Args:
        redriving: decides, and makes the records.
        commit: all of these records in one transaction, or none; blocks.
        limit: so many dead letters at most.
        rate: so many a second at most.
        told: is called now and then.
        tally: to count in.
        held: is entered around each transaction and the counting of what it held.
        monotonic, epoch_ms, wait: the time, and how it passes.
    """

    def __init__(
        self,
        redriving: Redriving,
        commit: Callable[[Sequence[OutputRecord]], None],
        *,
        limit: int | None = None,
        rate: float | None = None,
        told: Callable[[], None] = lambda: None,
        tally: Tally | None = None,
        held: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
        monotonic: Callable[[], float] = time.monotonic,
        epoch_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._redriving = redriving
        self._commit = commit
        self._limit = limit
        self._pace = None if rate is None else Pace(rate, monotonic())
        self._told = told
        self._held = held
        self._monotonic = monotonic
        self._epoch_ms = epoch_ms
        self._wait = wait
        self._unit: list[Letter] = []
        self._unit_bytes = 0
        self.tally = tally or Tally()

    def perform(self, records: Iterable[Read], wants: Callable[[Letter], bool]) -> None:
        """Until the records, or the limit.

        Raises:
            FatalError: as ``commit`` does.
        """
        for letter in to_redrive(self._telling(records), wants, self._redriving, self.tally):
            if self._pace is not None:
                self._await_turn(self._pace)
            size_bytes = letter.record.size_bytes
            if self._unit_bytes + size_bytes > UNIT_BYTES:
                self._flush()
            self._unit.append(letter)
            self._unit_bytes += size_bytes
            if len(self._unit) >= UNIT_LETTERS or self._is_enough():
                self._flush()
            if self._is_enough():
                return
        self._flush()

    def _telling(self, records: Iterable[Read]) -> Iterator[Read]:
        for each in records:
            yield each
            self._told()

    def _is_enough(self) -> bool:
        return self._limit is not None and self.tally.count + len(self._unit) >= self._limit

    def _await_turn(self, pace: Pace) -> None:
        if pace.wait_seconds(self._monotonic()) > 0:
            self._flush()  # those whose turn has come wait for nobody
        while (seconds := pace.wait_seconds(self._monotonic())) > 0:
            self._wait(min(seconds, WAIT_SECONDS))
            self._told()
        pace.take(self._monotonic())

    def _flush(self) -> None:
        while self._unit:
            now_ms = self._epoch_ms()
            outputs = [output for letter in self._unit for output in self._redriving.records(letter, now_ms)]
            with self._held():
                try:
                    self._commit(outputs)
                except OutputRefusedError as refused:
                    del self._unit[refused.index * len(self._unit) // len(outputs)]
                    self.tally.left[Left.TOO_LARGE] += 1
                else:
                    self.tally.add(self._unit, now_ms)
                    self._unit.clear()
        self._unit_bytes = 0
