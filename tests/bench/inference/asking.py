"""A client that does nothing but ask Triton, and leaves it most of the machine.

``perf_analyzer`` looks for answers without a pause: where two processors are one core, that makes Triton slow.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence

import numpy as np
import tritonclient.grpc.aio as grpc

from tests.bench.inference.arms import Workload

CALLS = 16
"""Different ones, made before and asked in turn."""
WARM_SECONDS, SECONDS = 1.0, 4.0


def rows_per_second(grpc_url: str, workload: Workload) -> float:
    """Of a model that has a workload's calls in flight all the time."""
    return asyncio.run(_ask(grpc_url, workload))


async def _ask(grpc_url: str, workload: Workload) -> float:
    calls, ends = _calls(workload), []
    began = time.monotonic() + WARM_SECONDS
    ended = began + SECONDS
    async with grpc.InferenceServerClient(grpc_url) as client:

        async def ask(number: int) -> None:
            for call in itertools.islice(itertools.cycle(calls), number, None):
                await client.infer(workload.model, [call])
                ends.append(time.monotonic())
                if ends[-1] > ended:
                    return

        await asyncio.gather(*map(ask, range(workload.concurrency)))
    return workload.batch * sum(began < each <= ended for each in ends) / SECONDS


def _calls(workload: Workload) -> Sequence[grpc.InferInput]:
    endless = itertools.cycle(workload.rows)
    calls = []
    for _ in range(CALLS):
        rows = list(itertools.islice(endless, workload.batch))
        is_bytes = isinstance(rows[0], bytes)
        array = np.array([[row] for row in rows], np.object_) if is_bytes else np.array(rows, np.float32)
        call = grpc.InferInput(workload.input_name, list(array.shape), "BYTES" if is_bytes else "FP32")
        calls.append(call.set_data_from_numpy(array))
    return calls
