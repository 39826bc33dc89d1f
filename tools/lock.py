"""Turn pip's resolution of headrace with all its extras into a version lock: names, versions, hashes, no addresses.

``make lock`` runs it with an interpreter of each supported Python version. It uses nothing but the standard library
and that interpreter's pip. The wheels must run on the oldest C library that headrace supports.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = "triton,embedded,evaluate,dev"
MAX_GLIBC_MINOR = 35


class Pin(NamedTuple):
    """One line of the lock."""

    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


def main() -> None:
    """Write requirements/lock-pyXY.txt for the Python that runs this."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if version not in ("3.11", "3.12"):
        sys.exit(f"headrace is locked for Python 3.11 and 3.12, not {version}")
    pins = pins_of(resolve())
    target = ROOT / "requirements" / f"lock-py{version.replace('.', '')}.txt"
    head = f"# headrace[{EXTRAS}] on Python {version}, Linux x86-64. Made by `make lock`; do not edit.\n"
    target.write_text(head + "".join(f"{pin}\n" for pin in pins))
    print(f"{target.relative_to(ROOT)}: {len(pins)} packages")


def resolve() -> dict[str, object]:
    """Pip's installation report, as if into an empty environment; build requirements are resolved with the rest."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--only-binary", ":all:", "--report", str(report), f"{ROOT}[{EXTRAS}]", *build]
        subprocess.run(command, check=True)
        found: dict[str, object] = json.loads(report.read_text())
    return found


def pins_of(report: dict[str, object]) -> list[Pin]:
    """The report's packages in alphabetical order, headrace itself left out."""
    installs = report["install"]
    assert isinstance(installs, list)
    pins = []
    for item in installs:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        if name == "headrace":
            continue
        wheel = item["download_info"]["url"].rsplit("/", 1)[-1]
        check_wheel(wheel)
        sha256 = item["download_info"]["archive_info"]["hashes"]["sha256"]
        pins.append(Pin(name, item["metadata"]["version"], sha256))
    return sorted(pins)


def check_wheel(filename: str) -> None:
    """End with a message unless the wheel runs on glibc 2.35."""
    minors = [int(minor) for minor in re.findall(r"manylinux_2_(\d+)_", filename)]
    if minors and min(minors) > MAX_GLIBC_MINOR:
        sys.exit(f"{filename} needs a newer glibc than 2.{MAX_GLIBC_MINOR}: bound its version in pyproject.toml")


if __name__ == "__main__":
    main()
