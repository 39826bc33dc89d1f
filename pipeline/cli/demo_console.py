"""The console that demos write to."""

from __future__ import annotations

from rich.console import Console

PLAIN_WIDTH = 120
"""Characters a line where no terminal says how wide it is."""


def demo_console() -> Console:
    """On stdout."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console
