"""Writes the requirements*.txt: what the .in files name, with the hash of each wheel.

Run it with any Python that has pip, after changing an .in file. It asks the configured package index, whose address
never enters a file.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PYTHONS = ("3.11", "3.12")
# Wheel tags up to the oldest supported glibc, newest first: pip wants each one named.
PLATFORMS = (*(f"manylinux_2_{minor}_x86_64" for minor in range(35, 4, -1)), "manylinux2014_x86_64")
HEADER = """\
# Written by lock.py from {source}: change that, then run `python triton_models/lock.py`.
# Install: pip install --no-deps --require-hashes -r {target}
# Wheels for Linux x86-64 (glibc 2.35 or newer) and Python 3.11 and 3.12.
"""


def pins(path: Path) -> list[str]:
    """The lines ``name==version`` of a file."""
    return [line for line in path.read_text(encoding="utf-8").splitlines() if "==" in line and not line.startswith("#")]


def wheels(requirements: Sequence[str], python: str) -> list[tuple[str, str, str]]:
    """Name, version and sha256 of the wheel of each requirement, without installing any."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", "--target=unused"]
    command += [f"--platform={platform}" for platform in PLATFORMS]
    command += ["--report=-", *requirements]
    report: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return [
        (
            re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower(),
            item["metadata"]["version"],
            item["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for item in report["install"]
    ]


def lock(requirements: Sequence[str]) -> str:
    """The requirements as lines with hashes, by name."""
    hashes: dict[tuple[str, str], set[str]] = {}
    for python in PYTHONS:
        for name, version, sha256 in wheels(requirements, python):
            hashes.setdefault((name, version), set()).add(sha256)
    lines = (
        " \\\n".join([f"{name}=={version}", *(f"    --hash=sha256:{sha256}" for sha256 in sorted(found))])
        for (name, version), found in sorted(hashes.items())
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    plain = pins(HERE / "requirements.in")
    cuda = [pin for pin in plain if not pin.startswith("onnxruntime==")] + pins(HERE / "requirements-cuda.in")
    extras = [(path.stem, pins(path)) for path in sorted(HERE.glob("requirements-*.in")) if "cuda" not in path.stem]
    for name, requirements in (("requirements", plain), ("requirements-cuda", cuda), *extras):
        header = HEADER.format(source=f"{name}.in", target=f"{name}.txt")
        (HERE / f"{name}.txt").write_text(header + "\n" + lock(requirements), encoding="utf-8")


if __name__ == "__main__":
    main()
