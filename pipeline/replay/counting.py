"""How far a run is, exact whatever happens: each of its transactions holds that, as it is with it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from headrace.pipeline.errors import FatalError, OutputRefusedError
from headrace.pipeline.ports import Clock, CommitUnit, StartPosition, Transactions
from headrace.pipeline.records import OutputRecord
from headrace.pipeline.replay.manifest import Plan, Progress


class RunTransactions(Transactions, Protocol):
    """Transactions whose units' last output is the run's progress, and which no other process's come between."""

    @property
    def last(self) -> bytes | None:
        """The value of the newest progress that is committed; None before the first. To be asked after ``start``."""


class CountedTransactions:
    """Implements ``ports.Transactions`` on a run's: adds its progress to every unit.

    Args:
        inner: what commits.
        plan: of the run.
        decode, encode: of progress. The first may block.
        clock: for the times.
        resume: whether this goes on with what another process began.
    """

    def __init__(
        self,
        inner: RunTransactions,
        plan: Plan,
        decode: Callable[[bytes], Progress],
        encode: Callable[[Progress], bytes],
        clock: Clock,
        *,
        resume: bool,
    ) -> None:
        self._inner = inner
        self._plan = plan
        self._decode = decode
        self._encode = encode
        self._clock = clock
        self._resume = resume
        self._writer = str(uuid.uuid4())
        self._progress: Progress | None = None

    @property
    def progress(self) -> Progress | None:
        """As it is committed; None before that is known."""
        return self._progress

    async def start(self) -> None:
        """Fences every other process at this run, then takes what they have left."""
        await self._inner.start()
        value = self._inner.last
        found = Progress(self._plan.run) if value is None else self._decode(value)
        self._began, self._active_before = self._clock.monotonic(), found.active_seconds
        self._progress = replace(found, resumed=found.resumed + self._resume, writer=self._writer, number=0)

    async def commit(self, unit: CommitUnit) -> bool:
        """As the inner transactions'."""
        after = self._after(unit)
        output = OutputRecord(self._plan.progress_topic, None, self._encode(after), partition=0)
        try:
            committed = await self._inner.commit(replace(unit, outputs=(*unit.outputs, output)))
        except OutputRefusedError as error:
            if error.index == len(unit.outputs):
                raise FatalError(f"how far the run is cannot be written: {error}") from error
            raise
        if committed:
            self._progress = after
        return committed

    async def close(self) -> None:
        """As the inner transactions'."""
        await self._inner.close()

    def _after(self, unit: CommitUnit) -> Progress:
        assert self._progress is not None  # started
        before, topics = self._progress, [output.topic for output in unit.outputs]
        moved = {each.partition.partition: StartPosition(each.offset, each.metadata) for each in unit.offsets}
        return replace(
            before,
            number=before.number + 1,
            positions={**before.positions, **moved},
            results=before.results + topics.count(self._plan.results_topic),
            dead_letters=before.dead_letters + topics.count(self._plan.dead_letters_topic),
            updated_ms=self._clock.epoch_ms(),
            active_seconds=self._active_before + self._clock.monotonic() - self._began,
        )
