"""The peers' environments: one each under ``build/bench-envs/``, with the pinned versions of ``requirements/``."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PINS = Path(__file__).with_name("requirements")
PLACE = ROOT / "build" / "bench-envs"
STAMP = "complete"
INSTALL_SECONDS = 900.0


def python_of(name: str | None) -> Path:
    """The interpreter of a peer's environment, which is made if it is not there or its pins have changed.

    Args:
        name: of the peer; None: this very environment.
    """
    if name is None:
        return Path(sys.executable)
    folder, pins = PLACE / name, PINS / f"{name}.txt"
    wanted = hashlib.sha256(f"{sys.version}\n{pins.read_text()}".encode()).hexdigest()
    stamp, python = folder / STAMP, folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        print(f"installing {name} into {folder.relative_to(ROOT)} (once)", file=sys.stderr, flush=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        _run([*install, "--only-binary", ":all:", "-r", str(pins)])
        stamp.write_text(wanted)  # last: an installation that was cut short is made again
    return python


def environment() -> Mapping[str, str]:
    """Of a peer's process: headrace and this package are imported from the checkout, not installed."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def versions(name: str | None, packages: tuple[str, ...]) -> dict[str, str]:
    """Of these packages in a peer's environment; an absent one is left out."""
    code = (
        "import importlib.metadata as m, sys\n"
        "known = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
        "print('\\n'.join(f'{n} {known[n]}' for n in sys.argv[1:] if n in known))"
    )
    told = subprocess.run(
        [str(python_of(name)), "-I", "-c", code, *packages], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    return dict(line.split() for line in told.splitlines())


def _run(command: list[str]) -> None:
    """Raises RuntimeError with what it said."""
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        env={**os.environ, "PIP_USER": "0"},
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
