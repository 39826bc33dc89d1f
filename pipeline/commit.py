"""Group commit, self-clocking: the moment one transaction ends the next begins with all that completed meanwhile.

Transactions are small and quick when the worker is idle and large when it is busy; there is no interval to tune. Where
nobody waits for the answers, a transaction may linger: the broker's work is by the transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from headrace.pipeline import metrics
from headrace.pipeline.errors import OutputRefusedError
from headrace.pipeline.flow import Flow, Unit
from headrace.pipeline.ports import Clock, Transactions


class GroupCommit:
    """Writes what the flow has completed, one transaction at a time.

    The next unit is collected only when the last one's outcome is known, so offsets can only grow.

    Args:
        max_records, max_bytes: of one transaction, see ``Flow.collect``.
        linger_seconds: how long what is ready waits for more.
    """

    def __init__(
        self,
        flow: Flow,
        transactions: Transactions,
        clock: Clock,
        max_records: int,
        max_bytes: int = sys.maxsize,
        linger_seconds: float = 0.0,
    ) -> None:
        self._flow = flow
        self._transactions = transactions
        self._clock = clock
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._linger_seconds = linger_seconds
        self._flushing = asyncio.Event()
        self._idle = asyncio.Event()
        flow.flush = self.flush

    async def run(self) -> None:
        """Commit for ever. Raises FatalError when the transactions do."""
        while True:
            await self._flow.completed.wait()
            await self._linger()
            self._flow.completed.clear()
            while unit := self._flow.collect(self._max_records, self._max_bytes):
                await self._commit(unit)
                if unit.commit.records < self._max_records:
                    await self._linger()
            self._idle.set()
            self._flushing.clear()

    async def _linger(self) -> None:
        """Unless a flush is waited for."""
        if not self._linger_seconds:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._linger_seconds):
                await self._flushing.wait()

    async def flush(self) -> None:
        """Wait until nothing is ready, the transaction in flight included. The caller sets the deadline."""
        self._idle.clear()
        self._flushing.set()
        self._flow.completed.set()
        await self._idle.wait()

    async def _commit(self, unit: Unit) -> None:
        began = self._clock.monotonic()
        while True:
            try:
                committed = await self._transactions.commit(unit.commit)
                break
            except OutputRefusedError as error:
                unit = self._flow.refuse(unit, error)
        self._flow.settle(unit, committed)
        metrics.TRANSACTIONS.labels("committed" if committed else "dropped").inc()
        metrics.TRANSACTION_SECONDS.observe(self._clock.monotonic() - began)
        metrics.TRANSACTION_RECORDS.observe(unit.commit.records)
