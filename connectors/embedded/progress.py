"""Shows people what takes long: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, SpinnerColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as RichProgress

Advance = Callable[[int], None]


class Progress:
    """Reports downloads and long steps to a console (stderr by default, so that stdout stays the command's)."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def download(self, title: str, total_bytes: int) -> Iterator[Advance]:
        """A download; call what this yields with the bytes of each chunk, from any thread."""
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            with RichProgress(*columns, console=self._console) as bar:
                task = bar.add_task(title, total=total_bytes)
                yield lambda count: bar.advance(task, count)
            return
        began = time.monotonic()
        self._console.print(f"{title}: downloading {total_bytes / 1e6:.0f} MB")
        yield lambda _count: None
        self._console.print(f"{title}: downloaded in {time.monotonic() - began:.0f} s")

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        """A step of unknown length; call what this yields with what is going on now."""
        if self._console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"))
            with RichProgress(*columns, console=self._console, transient=True) as bar:
                task = bar.add_task(title, total=None)
                yield lambda text: bar.update(task, description=f"{title}: {text[:100]}")
            self._console.print(f"{title}: done")
            return
        began = time.monotonic()
        self._console.print(f"{title} ...")
        yield lambda _text: None
        self._console.print(f"{title}: done in {time.monotonic() - began:.0f} s")
