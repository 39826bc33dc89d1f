"""Triton's own load generator: how fast a model answers whoever does nothing but ask it.

NVIDIA ships it in the wheel of tritonclient (the last one whose binary runs with the C library of common systems), and
the two libraries that it lacks there are in Triton's own wheel.
"""

from __future__ import annotations

import base64
import csv
import json
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from headrace.connectors.embedded.paths import cache_dir
from headrace.connectors.embedded.progress import Progress
from headrace.connectors.embedded.triton_env import ensure_interpreter
from tests.bench.passthrough.environments import python_of

ENVIRONMENT = "perf_analyzer"
LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}
WINDOW_MS, WINDOWS = 1500, 10
"""It measures windows until three in a row are alike; here any three are."""
LIMIT_SECONDS = 120.0


def rows_per_second(
    grpc_url: str, model: str, input_name: str, rows: Sequence[bytes | list[float]], batch: int, concurrency: int
) -> float:
    """Of a model that has so many calls of so many rows in flight all the time.

    Args:
        grpc_url: Triton's.
        model: its name.
        input_name: of its one input.
        rows: what is sent, in turn: bytes, or numbers.
        batch: rows of a call.
        concurrency: calls in flight.
    """
    python = python_of(ENVIRONMENT)
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        folder = Path(name)
        package = ensure_interpreter(cache_dir(), Progress(), "cpu").package
        for wanted, pattern in LIBRARIES.items():
            (found,) = package.with_name("nvidia_pytriton.libs").glob(pattern)
            (folder / wanted).symlink_to(found)
        data, told = folder / "data.json", folder / "told.csv"
        data.write_text(json.dumps({"data": [{input_name: _value(row)} for row in rows]}))
        command = [
            *(str(python.with_name("perf_analyzer")), "-m", model, "-u", grpc_url, "-i", "grpc"),
            *("-b", str(batch), "--concurrency-range", str(concurrency), "--input-data", str(data)),
            *("--measurement-interval", str(WINDOW_MS), "--max-trials", str(WINDOWS)),
            *("--stability-percentage", "999", "-f", str(told)),
            *("--shape", f"{input_name}:{len(rows[0]) if isinstance(rows[0], list) else 1}"),
        ]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=LIMIT_SECONDS, env={"LD_LIBRARY_PATH": name}
        )
        if not told.exists():
            raise RuntimeError(f"perf_analyzer failed:\n{done.stdout}{done.stderr}")
        (row,) = csv.DictReader(told.read_text().splitlines())
        return float(row["Inferences/Second"])


def _value(row: bytes | list[float]) -> object:
    """Bytes as they go over the wire: its b64 is not given the length that Triton wants before each string."""
    if isinstance(row, bytes):
        return {"b64": base64.b64encode(struct.pack("<I", len(row)) + row).decode()}
    return row
