"""The progress bar of ``headrace replay``, on the terminal that stderr is."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column


class ReplayBar:
    """How much of the range is done, what came of it, how fast, and how long it will take."""

    def __init__(self, total: int) -> None:
        def fixed(text: str) -> TextColumn:
            return TextColumn(text, table_column=Column(no_wrap=True))

        self._total = total
        self._progress = Progress(
            fixed("replaying"),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            fixed("{task.fields[count]}"),
            fixed("{task.fields[answered]}"),
            fixed("{task.fields[rate]}"),
            fixed("{task.fields[eta]}"),
            console=Console(stderr=True, highlight=False),
            redirect_stdout=False,
            redirect_stderr=False,
            expand=True,
        )
        self._task = self._progress.add_task("", total=total, count="", answered="", rate="", eta="")
        self._progress.start()

    def update(self, progress: dict[str, Any]) -> None:
        """Show this state of affairs."""
        done = self._total - progress["remaining_offsets"]
        letters = f", {progress['dead_letters']:,} dead letters" if progress["dead_letters"] else ""
        self._progress.update(
            self._task,
            completed=done,
            count=f"{done:,}/{self._total:,}",
            answered=f"{progress['results']:,} results{letters}",
            rate=f"{progress['per_second']:,.1f}/s",
            eta=_last(progress),
        )

    def stop(self) -> None:
        """The bar stays as it was last."""
        self._progress.stop()


def _last(progress: dict[str, Any]) -> str:
    if progress["waiting_for"]:
        return f"waiting for {', '.join(progress['waiting_for'])}"
    return "" if progress["eta_seconds"] is None else f"{progress['eta_seconds']:,.0f} s to go"
