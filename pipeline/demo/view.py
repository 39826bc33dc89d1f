"""What people see while the demo runs: a live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from headrace.pipeline.demo.observe import Figures

PLAIN_SECONDS = 5.0
NOTES_SHOWN = 6
WIDEST = 100


_STATE_STYLES = {"running": "green", "stopped": "dim"}


@dataclass(frozen=True, slots=True)
class WorkerLine:
    """One worker process, as its supervisor sees it."""

    name: str
    state: str
    pid: int


@dataclass(frozen=True, slots=True)
class Scene:
    """All that is shown at one moment."""

    elapsed_seconds: float
    total: int
    figures: Figures
    workers: tuple[WorkerLine, ...]


class View(Protocol):
    """Shows scenes, a few each second. ``note`` marks a moment for good: the kill, the recovery."""

    def note(self, elapsed_seconds: float, text: str, style: str = "") -> None:
        """Mark a moment. ``style`` is rich's, for views that have colours."""

    def show(self, scene: Scene, *, last: bool = False) -> None:
        """Draw a scene. Not every view draws every one, but each the last."""

    def __enter__(self) -> View: ...

    def __exit__(self, *_: object) -> None: ...


class PlainView:
    """One line every few seconds, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown_at = -math.inf

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def note(self, elapsed_seconds: float, text: str, style: str = "") -> None:
        self._console.print(f"{elapsed_seconds:5.1f} s  {text}", highlight=False, markup=False, soft_wrap=True)

    def show(self, scene: Scene, *, last: bool = False) -> None:
        if not last and scene.elapsed_seconds - self._shown_at < PLAIN_SECONDS:
            return
        self._shown_at = scene.elapsed_seconds
        figures = scene.figures
        line = (
            f"sent {figures.sent}/{scene.total}  results {figures.results}  dead letters {figures.dead_letters}  "
            f"p50 {_ms(figures.latency.p50_ms)}  p99 {_ms(figures.latency.p99_ms)}"
        )
        for model in figures.models:
            line += f"  {model.name} {model.rate:.1f}/s x{model.mean_batch_size:.1f}"
        self.note(scene.elapsed_seconds, line)


class LiveView:
    """The picture: bars, models, latency, workers, and what happened."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._notes: list[Text] = []
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def note(self, elapsed_seconds: float, text: str, style: str = "") -> None:
        self._notes.append(Text(f"{elapsed_seconds:5.1f} s  {text}", style, overflow="ellipsis", no_wrap=True))

    def show(self, scene: Scene, *, last: bool = False) -> None:
        self._live.update(self._picture(scene), refresh=True)

    def _picture(self, scene: Scene) -> RenderableType:
        width = min(self._console.width, WIDEST)
        return Group(
            Text(),
            _bars(scene, width),
            Text(),
            _models(scene.figures, width),
            Text(),
            _latency(scene),
            _workers(scene),
            Text(),
            *self._notes[-NOTES_SHOWN:],
        )


def _bars(scene: Scene, width: int) -> Table:
    figures = scene.figures
    grid = Table.grid(padding=(0, 2), expand=False)
    grid.add_column(justify="left", width=12)
    grid.add_column(width=width - 32)
    grid.add_column(justify="right", width=14)
    rows = (
        ("sent", figures.sent, "cyan"),
        ("results", figures.results, "green"),
        ("dead letters", figures.dead_letters, "magenta"),
    )
    for name, count, style in rows:
        bar = ProgressBar(total=scene.total, completed=count, complete_style=style, finished_style=style)
        grid.add_row(name, bar, f"{count}/{scene.total}" if name == "sent" else str(count))
    return grid


def _models(figures: Figures, width: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), width=width, header_style="dim", pad_edge=False)
    table.add_column("model", ratio=1)
    for name in ("outputs", "rate", "mean batch"):
        table.add_column(name, justify="right", width=12)
    for model in figures.models:
        table.add_row(model.name, str(model.outputs), f"{model.rate:.1f}/s", f"{model.mean_batch_size:.2f}")
    return table


def _latency(scene: Scene) -> Text:
    latency, recovery = scene.figures.latency, scene.figures.recovery
    text = Text("end to end    ")
    text.append(f"p50 {_ms(latency.p50_ms)}   p99 {_ms(latency.p99_ms)}", style="bold")
    if recovery is None or not recovery.partitions:
        return text
    if recovery.seconds is None:
        return text.append("   recovering…", style="bold red")
    return text.append(f"   recovery {recovery.seconds:.1f} s (told apart)", style="bold green")


def _workers(scene: Scene) -> Text:
    text = Text("workers       ", overflow="ellipsis", no_wrap=True)
    for worker in scene.workers:
        style = _STATE_STYLES.get(worker.state, "bold red")
        text.append(f"{worker.name} ").append(worker.state, style).append(f" (pid {worker.pid})   ", "dim")
    return text


def _ms(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0f} ms"
