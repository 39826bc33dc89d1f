"""User code of the workers under test: lets the test stall one of them from inside, through a file."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

from headrace import InferenceApp

LOOK_SECONDS = 0.1
FILE = "CHAOS_STALL_FILE"
"""Names the file whose content is ``loop`` or ``poll`` and how many seconds."""


def setup(app: InferenceApp) -> None:
    file = Path(os.environ[FILE])

    @app.timer(LOOK_SECONDS)  # type: ignore[untyped-decorator]  # Faust declares no types
    async def look() -> None:
        stall_as_asked(file)


def stall_as_asked(file: Path) -> None:
    """``loop`` holds up the event loop; ``poll`` holds the interpreter, and with it the consumer's thread too."""
    try:
        what, seconds = file.read_text().split()
        file.unlink()
    except (FileNotFoundError, ValueError):  # not asked, or the file is not written to its end
        return
    if what == "loop":
        time.sleep(float(seconds))
    else:
        ctypes.PyDLL(None).usleep(int(float(seconds) * 1_000_000))
