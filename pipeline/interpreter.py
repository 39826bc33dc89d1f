"""How the interpreter is set in processes that hold many records."""

from __future__ import annotations

import gc
import sys

NEW_OBJECTS = 50_000
"""Between two looks for garbage in cycles, of which such a process makes next to none. With Python's own 700, all that
is in flight was looked through again and again: a fifth of a worker's time."""
SWITCH_SECONDS = 0.001
"""How long a thread that has the interpreter's lock keeps it from others that wait. The event loop has it nearly
always; the consumer's and the transactions' threads need it for a moment only, and what they wait for it the loop waits
for them later. Python's own is 5 ms."""


def look_for_garbage_seldom() -> None:
    gc.set_threshold(NEW_OBJECTS)


def set_for_a_worker() -> None:
    """Both. For the whole process: to be called by who owns it."""
    look_for_garbage_seldom()
    sys.setswitchinterval(SWITCH_SECONDS)
