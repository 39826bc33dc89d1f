"""Large inputs over gRPC and through shared memory: calls of one row to ``image_jpeg``, by size.

Run: ``python -m tests.bench.shared_memory``. Prints the table of docs/decisions/020-shared-memory.md. Both clients
are the worker's; their calls take turns.
"""

from __future__ import annotations

import asyncio
import statistics
import time

import numpy as np

from headrace.connectors.embedded.own_triton import own_triton
from headrace.connectors.triton import Sharing, TritonInferenceClient
from headrace.pipeline.ports import InferCall

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
CALLS = 60
WARM_CALLS = 10
TIMEOUT_SECONDS = 60.0


async def measure(grpc_url: str) -> None:
    """Milliseconds of each, the median: of the wall clock, and of this process's processor."""
    clients = (
        TritonInferenceClient(grpc_url),
        TritonInferenceClient(grpc_url, sharing=Sharing(from_bytes=1, owner="bench")),
    )
    print("| input | gRPC | of that, the worker's processor | shared memory | of that, the worker's processor |")
    print("|---|---|---|---|---|")
    for size_bytes in SIZES:
        # No image, as the model sees at once: what is left is the input's way.
        row = np.array([[np.random.default_rng(1).bytes(size_bytes)]], np.object_)
        call = InferCall("image_jpeg", "", {"ENCODED": row})
        found: list[list[tuple[float, float]]] = [[], []]
        for number in range(CALLS):
            for client, times in zip(clients, found, strict=True):
                wall, processor = time.perf_counter(), time.process_time()
                await client.infer(call, TIMEOUT_SECONDS)
                if number >= WARM_CALLS:
                    times.append((time.perf_counter() - wall, time.process_time() - processor))
        cells = [f"{statistics.median(each) * 1000:.1f} ms" for times in found for each in zip(*times, strict=True)]
        print(f"| {size_bytes:,} bytes | {' | '.join(cells)} |", flush=True)
    for client in clients:
        await client.close()


def main() -> None:
    with own_triton() as triton:
        asyncio.run(measure(triton.grpc))


if __name__ == "__main__":
    main()
