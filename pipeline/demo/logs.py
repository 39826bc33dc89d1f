"""Keeps the logs of a demo that failed: its folder is about to be removed."""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.console import Console


def keep_logs(data_dir: Path, kept: Path, console: Console) -> bool:
    """Copy a stack's logs, in place of an earlier run's; True if there were any.

    If that fails too, why the demo failed matters more.
    """
    logs = [*data_dir.glob("*/*.log"), *data_dir.glob("*/*.log.1")]
    try:
        shutil.rmtree(kept, ignore_errors=True)
        for log in logs:
            copy = kept / log.relative_to(data_dir)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(log, copy)
    except OSError as error:
        console.print(f"logs could not be kept in {kept}/: {error}", highlight=False, markup=False, soft_wrap=True)
        return False
    if logs:
        console.print(f"logs of servers and workers are kept in {kept}/", highlight=False, markup=False, soft_wrap=True)
    return bool(logs)
