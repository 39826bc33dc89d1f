"""Writes requirements.txt: requirements.in with the hash of each wheel for every supported Python.

Run it with any Python that has pip, after changing requirements.in. It asks the configured package index, whose
address never enters the file.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PYTHONS = ("3.11", "3.12")
# Wheel tags up to the oldest supported glibc, newest first: pip wants each one named.
PLATFORMS = (*(f"manylinux_2_{minor}_x86_64" for minor in range(35, 4, -1)), "manylinux2014_x86_64")
HEADER = """\
# Written by lock.py from requirements.in: change that, then run `python triton_models/lock.py`.
# Install: pip install --no-deps --require-hashes -r requirements.txt
# Wheels for Linux x86-64 (glibc 2.35 or newer) and Python 3.11 and 3.12.
"""


def wheels(requirements: Path, python: str) -> list[tuple[str, str, str]]:
    """Name, version and sha256 of the wheel of each requirement, without installing any."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", "--target=unused"]
    command += [f"--platform={platform}" for platform in PLATFORMS]
    command += ["--report=-", "-r", str(requirements)]
    report: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return [
        (
            re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower(),
            item["metadata"]["version"],
            item["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for item in report["install"]
    ]


def lock(requirements: Path) -> str:
    """The text of requirements.txt."""
    hashes: dict[tuple[str, str], set[str]] = {}
    for python in PYTHONS:
        for name, version, sha256 in wheels(requirements, python):
            hashes.setdefault((name, version), set()).add(sha256)
    lines = [HEADER]
    for (name, version), found in sorted(hashes.items()):
        lines.append(" \\\n".join([f"{name}=={version}", *(f"    --hash=sha256:{sha256}" for sha256 in sorted(found))]))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (HERE / "requirements.txt").write_text(lock(HERE / "requirements.in"), encoding="utf-8")
