"""The file of a demo's figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.pipeline.errors import ConfigError, StackError


def check_writable(path: Path) -> None:
    """Before the run, because after it it would be a pity.

    Raises:
        ConfigError: a file cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        path.open("a").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror}): run the demo in a folder of your own, or name another "
            "file with --json"
        ) from error


def write_figures(path: Path, figures: Mapping[str, Any]) -> None:
    """Write them as JSON.

    Raises:
        StackError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise StackError(f"the figures could not be written to {path}: {error.strerror}") from error
