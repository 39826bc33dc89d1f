"""The end of the demo: results for people, the verdict, the last line, and the figures as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from headrace.pipeline.demo.check import Verdict
from headrace.pipeline.demo.figures import write_figures
from headrace.pipeline.demo.observe import Figures
from headrace.pipeline.demo.showcase import Shown
from headrace.pipeline.demo.stats import Recovery

FINDINGS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Report:
    """What a run came to. ``crashes``: workers that ended unasked, or not as told, or did not come back."""

    verdict: Verdict
    figures: Figures
    seed: int
    crashes: int
    unreadable: int
    total_seconds: float

    @property
    def passed(self) -> bool:
        return self.verdict.passed and not self.crashes and not self.unreadable

    @property
    def exit_code(self) -> int:
        return 0 if self.passed else 1

    @property
    def recovery_seconds(self) -> float | None:
        """None if there was nothing to measure: nobody was killed, or no partition of the killed worker went on."""
        recovery = self.figures.recovery
        return recovery.seconds if recovery and recovery.partitions else None

    def last_line(self) -> str:
        """The line that scripts read."""
        verdict, latency = self.verdict, self.figures.latency
        return (
            f"demo: sent={verdict.sent} results={verdict.results} dead_letters={verdict.dead_letters} "
            f"duplicates={verdict.duplicates} missing={verdict.missing} "
            f"p50_ms={_number(latency.p50_ms)} p99_ms={_number(latency.p99_ms)} "
            f"recovery_s={_number(self.recovery_seconds)}"
        )

    def write(self, path: Path) -> None:
        """The last line's figures, under the same names, and more, as JSON.

        Raises:
            StackError: it cannot be written.
        """
        verdict, latency, recovery = self.verdict, self.figures.latency, self.figures.recovery
        touched = recovery.touched if recovery else None
        figures = {
            "sent": verdict.sent,
            "results": verdict.results,
            "dead_letters": verdict.dead_letters,
            "duplicates": verdict.duplicates,
            "missing": verdict.missing,
            "p50_ms": _rounded(latency.p50_ms),
            "p99_ms": _rounded(latency.p99_ms),
            "recovery_s": _rounded(self.recovery_seconds),
            "max_ms": _rounded(latency.max_ms),
            "passed": self.passed,
            "seed": self.seed,
            "total_s": _rounded(self.total_seconds),
            "worker_crashes": self.crashes,
            "unreadable_records": self.unreadable,
            "recovery_partitions": list(recovery.partitions) if recovery else [],
            "recovery_settled_s": _rounded(recovery.settled_seconds) if recovery and recovery.partitions else None,
            "recovery_events": touched.count if touched else 0,
            "recovery_p50_ms": _rounded(touched.p50_ms) if touched else None,
            "recovery_max_ms": _rounded(touched.max_ms) if touched else None,
            "models": {
                model.name: {"outputs": model.outputs, "mean_batch_size": _rounded(model.mean_batch_size)}
                for model in self.figures.models
            },
            "findings": [str(finding) for finding in verdict.findings],
        }
        write_figures(path, figures)


def show_results(console: Console, results: Sequence[Shown], letters: Sequence[Shown]) -> None:
    """A few results and dead letters."""
    for title, rows in (("Some results", results), ("Dead letters, one of each kind planted", letters)):
        console.print()
        console.print(Text(title, style="bold"))
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, style="dim")
        table.add_column(max_width=40)
        table.add_column()
        for row in rows:
            table.add_row(Text(row.kind), Text(row.subject), Text(row.finding))
        console.print(table)


def show_verdict(console: Console, report: Report, next_steps: Sequence[tuple[str, str]]) -> None:
    """Whether every event has its one outcome; what is wrong if not; where to look next."""
    verdict, recovery = report.verdict, report.figures.recovery
    console.print()
    if report.passed:
        console.print(Text("Every event has exactly one outcome, and the one it had to have.", style="bold green"))
    else:
        console.print(Text("Not as it must be:", style="bold red"))
        for finding in verdict.findings[:FINDINGS_SHOWN]:
            console.print(f"  {finding}", markup=False, highlight=False)
        if (more := len(verdict.findings) - FINDINGS_SHOWN) > 0:
            console.print(f"  and {more} more: see the JSON file")
        if report.crashes:
            console.print(f"  {report.crashes} worker(s) ended unasked or not as told: the notes above say which")
        if report.unreadable:
            console.print(f"  {report.unreadable} record(s) in the output topics could not be read")
    if recovery is not None:
        console.print(_recovery_words(recovery), highlight=False)
    console.print()
    console.print(Text("Where to look next", style="bold"))
    steps = Table.grid(padding=(0, 2, 0, 0))
    steps.add_column(no_wrap=True, style="cyan")
    for what, why in next_steps:
        steps.add_row(Text(what), Text(why))
    console.print(steps)
    console.print()


def _recovery_words(recovery: Recovery) -> str:
    if not recovery.partitions:
        return "The killed worker had no partition with events after its end, so there was no recovery to measure."
    if recovery.seconds is None or recovery.settled_seconds is None:
        return f"A worker was killed, and not all of its {len(recovery.partitions)} partitions came back."
    words = f"The killed worker's {len(recovery.partitions)} partitions flowed again after {recovery.seconds:.1f} s"
    if not recovery.touched.count:
        return f"{words}."
    touched = recovery.touched
    return (
        f"{words}, and what had piled up was answered after {recovery.settled_seconds:.1f} s. "
        f"The {touched.count} events of that time are told apart from p50 and p99: "
        f"they took {touched.p50_ms / 1000:.2f} s (median), at most {touched.max_ms / 1000:.2f} s."
    )


def _number(value: float | None) -> str:
    return "nan" if value is None or math.isnan(value) else f"{value:.1f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, 3)
