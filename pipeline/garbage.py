"""When Python looks for garbage in cycles."""

from __future__ import annotations

import gc

NEW_OBJECTS = 50_000
"""Between two looks. A process that holds many records is looked through again and again for cycles, of which it makes
next to none: with Python's own 700 that was a fifth of a worker's time."""


def look_seldom() -> None:
    """For processes that hold many records."""
    gc.set_threshold(NEW_OBJECTS)
