"""The progress bar of ``headrace dlq redrive``, on the terminal that stderr is."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column


class RedriveBar:
    """How much is looked through, how many are redriven, how fast, and how long it will take."""

    def __init__(self, offsets: int) -> None:
        def fixed(text: str) -> TextColumn:
            return TextColumn(text, table_column=Column(no_wrap=True))

        self._offsets = offsets
        self._progress = Progress(
            fixed("redriving"),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            fixed("{task.fields[redriven]}"),
            fixed("{task.fields[rate]}"),
            fixed("{task.fields[eta]}"),
            console=Console(stderr=True, highlight=False),
            redirect_stdout=False,
            redirect_stderr=False,
            expand=True,
        )
        self._task = self._progress.add_task("", total=offsets, redriven="", rate="", eta="")
        self._progress.start()

    def update(self, progress: dict[str, Any]) -> None:
        """Show this state of affairs."""
        left = f", {progress['left']:,} left out" if progress["left"] else ""
        eta = progress["eta_seconds"]
        self._progress.update(
            self._task,
            completed=self._offsets - progress["remaining_offsets"],
            redriven=f"{progress['redriven']:,} redriven{left}",
            rate=f"{progress['per_second']:,.1f}/s",
            eta="" if eta is None else f"{eta:,.0f} s to go",
        )

    def stop(self) -> None:
        """The bar stays as it was last."""
        self._progress.stop()
