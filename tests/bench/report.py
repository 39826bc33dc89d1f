"""Where a benchmark's figures go: ``build/bench.json``, and a table between marks in docs/benchmarks.md."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import libversion

from headrace.connectors.embedded.artifacts import KAFKA_VERSION

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
JSON = ROOT / "build" / "bench.json"
SMOKE_JSON = ROOT / "build" / "bench-smoke.json"


def begin(name: str) -> str:
    return f"<!-- {name}: written by make bench -->"


def end(name: str) -> str:
    return f"<!-- end of {name} -->"


def put(page: str, name: str, lines: Sequence[str]) -> str:
    """The page with these lines between the marks of this name.

    Raises:
        ValueError: it has no such marks.
    """
    before, opened, rest = page.partition(begin(name))
    _, closed, after = rest.partition(end(name))
    if not opened or not closed:
        raise ValueError(f"there is no place for {name}")
    return "\n".join([before + opened, *lines, closed + after])


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "load_average": os.getloadavg()[0],
    }


def versions() -> dict[str, str]:
    """Of what all arms share, or ours runs on."""
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "librdkafka": libversion()[0],
        "confluent-kafka": version("confluent-kafka"),
        "fastavro": version("fastavro"),
        "kafka": KAFKA_VERSION,
    }


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
