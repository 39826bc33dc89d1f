"""Latency and throughput of the bundled models behind a Triton of the bench's own: prints a Markdown table.

    python -m tests.bench.bench_models [--placement cuda] [--seconds 3] [--models text_embedding,speech_to_text]

Two ways of calling: one caller with batches of 1 to 64 rows, and callers that each send single rows, which Triton's
dynamic batching puts together. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from headrace.connectors.embedded.extras import DOWNLOAD_MB, ensure_extra
from headrace.connectors.embedded.paths import cache_dir
from headrace.connectors.embedded.ports import PortReservation
from headrace.connectors.embedded.progress import Progress
from headrace.connectors.embedded.triton import TritonServer
from headrace.connectors.embedded.triton_env import ensure_interpreter, ensure_models
from headrace.connectors.triton import TritonInferenceClient
from headrace.pipeline.ports import Array, InferCall

DATA = Path(str(files("headrace") / "pipeline" / "demo" / "data"))
EXTRAS = tuple(DOWNLOAD_MB)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
CALLERS = (1, 8, 32, 64)


@dataclass(frozen=True, slots=True)
class Measure:
    """``rows_per_second``, and the median and 99th percentile of a call in milliseconds."""

    rows_per_second: float
    p50_ms: float
    p99_ms: float


def inputs() -> dict[str, tuple[str, Array]]:
    """For each model its input's name and 64 rows: texts, photos and speech of the demo, or random numbers."""
    random = np.random.default_rng(1)

    def encoded(contents: list[bytes]) -> Array:
        rows = np.empty((64, 1), np.object_)
        rows[:, 0] = [contents[index % len(contents)] for index in range(64)]
        return rows

    speech = encoded([path.read_bytes() for path in sorted((DATA / "speech").iterdir())])
    every = [path.read_bytes() for folder in ("photos", "speech") for path in sorted((DATA / folder).iterdir())]
    sentences = [line for line in (DATA / "sentences.txt").read_bytes().splitlines() if line]
    return {
        "identity": ("INPUT0", random.standard_normal((64, 256)).astype(np.float32)),
        "affine": ("X", random.standard_normal((64, 64)).astype(np.float32)),
        "text_embedding": ("TEXT", encoded(sentences)),
        "image_classification": ("IMAGE", random.integers(0, 256, (64, 224, 224, 3), np.uint8)),
        "image_jpeg": ("ENCODED", encoded([path.read_bytes() for path in sorted((DATA / "photos").iterdir())])),
        "audio_vad": ("AUDIO", speech),
        "content_type": ("CONTENT", encoded(every)),
        "speech_to_text": ("AUDIO", speech),
    }


@contextmanager
def serving(placement: str, extras: list[str]) -> Iterator[TritonServer]:
    """A Triton with the bundled models and these extras, stopped afterwards."""
    interpreter = ensure_interpreter(cache_dir(), Progress(), placement)
    repository = ensure_models(cache_dir(), interpreter, placement, Progress())
    with tempfile.TemporaryDirectory() as folder, PortReservation() as ports:
        server = TritonServer(
            Path(folder),
            interpreter,
            repository,
            http_port=ports.take(),
            grpc_port=ports.take(),
            metrics_port=ports.take(),
            extras=[ensure_extra(cache_dir(), interpreter, name, placement, Progress()) for name in extras],
        )
        try:
            server.start()
            yield server
        finally:
            server.kill()


async def measure(client: TritonInferenceClient, calls: list[InferCall], callers: int, seconds: float) -> Measure:
    """Each caller sends the calls in turn, the next when the last was answered, after one round of warming up."""
    rows = len(next(iter(calls[0].inputs.values())))
    durations: list[float] = []

    async def caller(first: int, end: float) -> None:
        index = first
        while (began := time.perf_counter()) < end:
            await client.infer(calls[index % len(calls)], 120)
            durations.append(time.perf_counter() - began)
            index += 1

    await asyncio.gather(*(client.infer(calls[index % len(calls)], 120) for index in range(callers)))
    began = time.perf_counter()
    await asyncio.gather(*(caller(index, began + seconds) for index in range(callers)))
    elapsed = time.perf_counter() - began
    ordered = sorted(durations)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return Measure(rows * len(durations) / elapsed, statistics.median(ordered) * 1e3, p99 * 1e3)


def calls_of(model: str, name: str, rows: Array, batch: int) -> list[InferCall]:
    return [InferCall(model, "", {name: rows[at : at + batch]}) for at in range(0, 64, batch)]


def row(cells: list[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


async def bench(url: str, models: list[str], seconds: float) -> None:
    client = TritonInferenceClient(url)
    row(["model", "callers", "rows a call", "rows/s", "against 1", "p50 ms", "p99 ms"])
    row(["---"] + ["---:"] * 6)
    for model in models:
        name, rows = inputs()[model]
        most = (await client.signature(model)).max_batch_size
        plans = [(1, batch) for batch in BATCHES if batch <= most] + [(callers, 1) for callers in CALLERS[1:]]
        base: float | None = None
        for callers, batch in plans:
            found = await measure(client, calls_of(model, name, rows, batch), callers, seconds)
            base = base or found.rows_per_second
            ratio = f"{found.rows_per_second / base:.1f}"
            times = [f"{found.p50_ms:.1f}", f"{found.p99_ms:.1f}"]
            speed = f"{found.rows_per_second:,.{0 if found.rows_per_second >= 10 else 1}f}"
            row([model, str(callers), str(batch), speed, ratio, *times])
    await client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency and throughput of the bundled models.")
    parser.add_argument("--placement", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each line is measured")
    bundled = [model for model in inputs() if model not in EXTRAS]
    parser.add_argument("--models", default=",".join(bundled), help="comma-separated; extras are served if named here")
    options = parser.parse_args()
    print(f"placement {options.placement}, {os.cpu_count()} cores, load at start {os.getloadavg()[0]:.1f}\n")
    models = options.models.split(",")
    with serving(options.placement, [name for name in EXTRAS if name in models]) as server:
        asyncio.run(bench(server.grpc, models, options.seconds))


if __name__ == "__main__":
    main()
