"""What a demo tells people, a line at a time: what happens and when, commands, and what they print."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.text import Text

from headrace.pipeline.tables import cut

INDENT = " " * 9
"""As wide as the time before a line."""


class Narrator:
    """Writes to a console.

    Args:
        console: where.
        began: when the demo did, on the monotonic clock: what its lines are timed from.
    """

    def __init__(self, console: Console, began: float) -> None:
        self._console = console
        self._began = began

    def title(self, text: str) -> None:
        """What begins now."""
        self._console.print()
        self._print(text, "bold")

    def say(self, text: str | Text, style: str = "") -> None:
        """What happens, and when. ``style`` is rich's."""
        elapsed = time.monotonic() - self._began
        self._console.print(Text.assemble(f"{elapsed:5.1f} s  ", text), style=style, highlight=False, soft_wrap=True)

    def command(self, line: str) -> None:
        """A command that is run now, as it is typed."""
        self._print(f"{INDENT}$ {line}", "cyan")

    def printed(self, text: str) -> None:
        """What a command has printed, cut at the edge of a terminal: a table that is folded cannot be read."""
        width = self._console.width if self._console.is_terminal else sys.maxsize
        for line in text.splitlines():
            self._print(cut(f"{INDENT}{line}", width), "dim")

    def _print(self, text: str, style: str) -> None:
        self._console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)
