"""Triton's own load generator: how fast a model answers whoever does nothing but ask it.

NVIDIA ships it in the wheel of tritonclient (the last one whose binary runs with the C library of common systems), and
the two libraries that it lacks there are in Triton's own wheel.
"""

from __future__ import annotations

import base64
import json
import struct
import subprocess
import tempfile
import time
from pathlib import Path

import tritonclient.grpc as grpc

from headrace.connectors.embedded.paths import cache_dir
from headrace.connectors.embedded.progress import Progress
from headrace.connectors.embedded.triton_env import ensure_interpreter
from tests.bench.inference.arms import Workload
from tests.bench.passthrough.environments import python_of

ENVIRONMENT = "perf_analyzer"
LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}
WARM_SECONDS, SECONDS = 3.0, 5.0
FOREVER_MS = 600_000
"""It is ended when enough has been seen."""


def rows_per_second(grpc_url: str, workload: Workload) -> float:
    """Of a model that has a workload's calls in flight all the time, by Triton's own count.

    Its load generator's own leaves out what is under way when a window begins or ends.
    """
    rows, input_name = workload.rows, workload.input_name
    python = python_of(ENVIRONMENT)
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        folder = Path(name)
        package = ensure_interpreter(cache_dir(), Progress(), "cpu").package
        for wanted, pattern in LIBRARIES.items():
            (found,) = package.with_name("nvidia_pytriton.libs").glob(pattern)
            (folder / wanted).symlink_to(found)
        data, said = folder / "data.json", folder / "said.txt"
        data.write_text(json.dumps({"data": [{input_name: _value(row)} for row in rows]}))
        command = [
            *(str(python.with_name("perf_analyzer")), "-m", workload.model, "-u", grpc_url, "-i", "grpc"),
            *("-b", str(workload.batch), "--concurrency-range", str(workload.concurrency), "--input-data", str(data)),
            *("--measurement-interval", str(FOREVER_MS)),
            *("--shape", f"{input_name}:{len(rows[0]) if isinstance(rows[0], list) else 1}"),
        ]
        with said.open("w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env={"LD_LIBRARY_PATH": name})
        try:
            time.sleep(WARM_SECONDS)
            (began, before), (ended, after) = (
                _counted(grpc_url, workload.model, seconds) for seconds in (0.0, SECONDS)
            )
            if process.poll() is not None or after == before:
                raise RuntimeError(f"perf_analyzer failed:\n{said.read_text()}")
        finally:
            process.kill()
            process.wait()
        return (after - before) / (ended - began)


def _counted(grpc_url: str, model: str, after_seconds: float) -> tuple[float, int]:
    """When, in monotonic seconds, and how many rows the model has answered by then."""
    time.sleep(after_seconds)
    with grpc.InferenceServerClient(grpc_url) as client:
        (found,) = client.get_inference_statistics(model).model_stats
        return time.monotonic(), int(found.inference_count)


def _value(row: bytes | list[float]) -> object:
    """Bytes as they go over the wire: its b64 is not given the length that Triton wants before each string."""
    if isinstance(row, bytes):
        return {"b64": base64.b64encode(struct.pack("<I", len(row)) + row).decode()}
    return row
