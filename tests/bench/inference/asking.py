"""A client that does nothing but ask Triton, and uses little of the machine: what it leaves, Triton has.

``perf_analyzer`` looks for answers without a pause; where two processors are one core that slows Triton down.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence

import numpy as np
import tritonclient.grpc.aio as grpc

CALLS = 16
"""Different ones, which are asked in turn."""


def rows_per_second(
    grpc_url: str,
    model: str,
    input_name: str,
    rows: Sequence[bytes | list[float]],
    batch: int,
    concurrency: int,
    warm_seconds: float,
    seconds: float,
) -> float:
    """Of a model that has so many calls of so many rows in flight all the time.

    Args:
        grpc_url: Triton's.
        model: its name.
        input_name: of its one input.
        rows: what is sent, in turn: bytes, or numbers.
        batch: rows of a call.
        concurrency: calls in flight.
        warm_seconds: first, not counted.
        seconds: that count.
    """
    return asyncio.run(_ask(grpc_url, model, _calls(input_name, rows, batch), concurrency, warm_seconds, seconds))


def _calls(input_name: str, rows: Sequence[bytes | list[float]], batch: int) -> list[grpc.InferInput]:
    endless = itertools.cycle(rows)
    calls = []
    for _ in range(CALLS):
        some = [next(endless) for _ in range(batch)]
        is_bytes = isinstance(some[0], bytes)
        array = np.array([[each] for each in some], np.object_) if is_bytes else np.array(some, np.float32)
        call = grpc.InferInput(input_name, list(array.shape), "BYTES" if is_bytes else "FP32")
        calls.append(call.set_data_from_numpy(array))
    return calls


async def _ask(
    grpc_url: str, model: str, calls: Sequence[grpc.InferInput], concurrency: int, warm_seconds: float, seconds: float
) -> float:
    began = time.monotonic() + warm_seconds
    ends: list[float] = []

    async with grpc.InferenceServerClient(grpc_url) as client:

        async def ask(number: int) -> None:
            for call in itertools.islice(itertools.cycle(calls), number, None):
                await client.infer(model, [call])
                ends.append(time.monotonic())
                if ends[-1] > began + seconds:
                    return

        await asyncio.gather(*(ask(number) for number in range(concurrency)))
    rows = calls[0].shape()[0]
    return rows * sum(began < each <= began + seconds for each in ends) / seconds
