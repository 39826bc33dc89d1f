"""What the resilience demo came to, and whether that is what it had to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headrace.pipeline.breaker import BreakerState
from headrace.pipeline.demo.figures import write_figures
from headrace.pipeline.demo.resilience import scene
from headrace.pipeline.demo.resilience.account import Count
from headrace.pipeline.demo.resilience.breaker_watch import is_round


@dataclass(frozen=True, slots=True)
class Report:
    """The whole demo.

    Attributes:
        count: by the topics.
        breaker: the states that it took.
        crashes: how often a worker ended by itself, or not as it was told.
        seed: of the events.
        total_seconds: how long it took, all in all.
    """

    count: Count
    breaker: tuple[BreakerState, ...]
    crashes: int
    seed: int
    total_seconds: float

    @property
    def passed(self) -> bool:
        """Every event accounted for, and all three things were really to be seen."""
        count, models = self.count, self.count.answered_by
        return (
            count.passed
            and not self.crashes
            and is_round([*self.breaker])
            and min(models.get(scene.PHOTO_MODEL, 0), models.get(scene.FALLBACK, 0)) > 0
            and count.retried > 0
            and count.dead_letters > count.redriven > 0
        )

    @property
    def breaker_words(self) -> str:
        return ">".join(state.value for state in self.breaker)

    def last_line(self) -> str:
        """The line that scripts read."""
        count = self.count
        return (
            f"demo-resilience: sent={count.sent} results={count.results} retried={count.retried} "
            f"breaker={self.breaker_words} dead_letters={count.dead_letters} redriven={count.redriven} "
            f"missing={count.missing} duplicates={count.duplicates}"
        )

    def write(self, path: Path) -> None:
        """The last line's figures, under the same names, and more, as JSON. Raises StackError."""
        count = self.count
        figures = {
            "sent": count.sent,
            "results": count.results,
            "retried": count.retried,
            "breaker": [state.value for state in self.breaker],
            "dead_letters": count.dead_letters,
            "redriven": count.redriven,
            "missing": count.missing,
            "duplicates": count.duplicates,
            "passed": self.passed,
            "seed": self.seed,
            "total_s": round(self.total_seconds, 3),
            "worker_crashes": self.crashes,
            "answered_by": count.answered_by,
            "findings": list(count.findings),
        }
        write_figures(path, figures)
