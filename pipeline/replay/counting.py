"""How far a run is, exact whatever happens: each of its transactions holds that, as it is with it.

How it is stands in the runs topic, and is said in such transactions, too: so whoever has lost the run cannot say it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from headrace.pipeline.errors import FatalError, FencedError, HeadraceError, OutputRefusedError
from headrace.pipeline.ports import Clock, CommitUnit, StartPosition, Transactions
from headrace.pipeline.records import OutputRecord
from headrace.pipeline.replay.manifest import Plan, Progress, Run, RunState

log = logging.getLogger(__name__)

SIGN_OF_LIFE_SECONDS = 20.0
LAST_WORD_SECONDS = 10.0
"""How long Kafka may take to be told how the run is left."""


class RunTransactions(Transactions, Protocol):
    """Transactions whose units' last output is the run's progress, and which no other process's come between."""

    @property
    def last(self) -> bytes | None:
        """The value of the newest progress that is committed; None before the first. To be asked after ``start``."""


class CountedTransactions:
    """Implements ``ports.Transactions`` on a run's: adds its progress to every unit, and says how the run is.

    Args:
        inner: what commits.
        plan: of the run.
        decode, encode: of progress. The first may block.
        manifest: how the run is, as a record.
        exhausted: whether every record that is chosen is committed; asked when this is closed.
        clock: for the times.
        resume: whether this goes on with what another process began.
    """

    def __init__(
        self,
        inner: RunTransactions,
        plan: Plan,
        decode: Callable[[bytes], Progress],
        encode: Callable[[Progress], bytes],
        manifest: Callable[[Run], OutputRecord],
        exhausted: Callable[[], bool],
        clock: Clock,
        *,
        resume: bool,
    ) -> None:
        self._inner = inner
        self._plan = plan
        self._decode = decode
        self._encode = encode
        self._manifest = manifest
        self._exhausted = exhausted
        self._clock = clock
        self._resume = resume
        self._writer = str(uuid.uuid4())
        self._progress: Progress | None = None
        self._turn = asyncio.Lock()
        self._signs_of_life: asyncio.Task[None] | None = None
        self.failure: FatalError | None = None
        """Of a commit: nothing is committed after it."""
        self.left: Run | None = None
        """The run as it was when this was closed."""

    @property
    def lost(self) -> FencedError | None:
        """The failure, if it is that the run is another's, or has been removed."""
        return self.failure if isinstance(self.failure, FencedError) else None

    @property
    def progress(self) -> Progress | None:
        """As it is committed; None before that is known."""
        return self._progress

    async def start(self) -> None:
        """Takes the run, as it was left, from every other process. Raises as the inner transactions' and ``commit``."""
        await self._inner.start()
        value = self._inner.last
        found = Progress(self._plan.run) if value is None else self._decode(value)
        self._began, self._active_before = self._clock.monotonic(), found.active_seconds
        self._progress = replace(found, resumed=found.resumed + self._resume, writer=self._writer, number=0)
        await self._say(RunState.RUNNING)
        self._signs_of_life = asyncio.create_task(self._give_signs_of_life())

    async def commit(self, unit: CommitUnit) -> bool:
        """As the inner transactions'."""
        return await self._to_its_end(unit, None)

    async def close(self) -> None:
        """Says how the run is left, unless that is not known or another's to say; then as the inner transactions'."""
        if self._signs_of_life is not None:
            self._signs_of_life.cancel()
        if self._progress is not None:
            state = RunState.COMPLETE if self._exhausted() else RunState.STOPPED
            if self.failure is None:
                await self._say_last(state)
            self.left = self._run(state, self._progress)
        await self._inner.close()

    async def _say_last(self, state: RunState) -> None:
        try:
            async with asyncio.timeout(LAST_WORD_SECONDS):
                await self._say(state)
        except (TimeoutError, HeadraceError) as error:
            log.warning("how run %s is left could not be written: %s", self._plan.run, str(error) or "no answer")

    async def _say(self, state: RunState) -> None:
        """Write how the run is, and how far. Raises FatalError."""
        await self._to_its_end(CommitUnit((), (), 0, lambda: True), state)

    async def _give_signs_of_life(self) -> None:
        """It may be long that there is nothing to commit; and then this is how the process learns that it has lost."""
        while self.failure is None:
            await asyncio.sleep(SIGN_OF_LIFE_SECONDS)
            with contextlib.suppress(FatalError):  # it is kept
                await self._say(RunState.RUNNING)

    async def _to_its_end(self, unit: CommitUnit, state: RunState | None) -> bool:
        """Also if nobody waits for it any more: what comes next, if only the last word, must know what is committed."""
        return await asyncio.shield(asyncio.create_task(self._commit(unit, state)))

    async def _commit(self, unit: CommitUnit, state: RunState | None) -> bool:
        async with self._turn:
            if self.failure is not None:  # whether that is committed, and so what would be written, is not known
                raise self.failure
            after = self._after(unit)
            said = () if state is None else (self._manifest(self._run(state, after)),)
            output = OutputRecord(self._plan.progress_topic, None, self._encode(after), partition=0)
            try:
                committed = await self._inner.commit(replace(unit, outputs=(*unit.outputs, *said, output)))
            except OutputRefusedError as error:
                if error.index >= len(unit.outputs):
                    raise FatalError(f"how far the run is cannot be written: {error}") from error
                raise
            except BaseException as error:
                self.failure = error if isinstance(error, FatalError) else FatalError(f"a commit was lost: {error!r}")
                raise
            if committed:
                self._progress = after
            return committed

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

    def _run(self, state: RunState, progress: Progress) -> Run:
        return Run(
            self._plan,
            state,
            self._clock.epoch_ms(),
            results=progress.results,
            dead_letters=progress.dead_letters,
            resumed=progress.resumed,
            active_seconds=progress.active_seconds,
        )
