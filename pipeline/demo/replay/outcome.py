"""What the replay demo came to, and whether that is what it had to be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.pipeline.demo.check import Verdict
from headrace.pipeline.demo.replay.cameras import UPSIDE_DOWN

KILLS = 2


@dataclass(frozen=True, slots=True)
class Judged:
    """What a gate said: which of its checks do not hold, by the slices that they are of (``all`` for all records)."""

    passed: bool
    failed_slices: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def word(self) -> str:
        return "pass" if self.passed else "fail"


def read_judged(metrics: Path) -> Judged:
    """From the metrics file of ``headrace evaluate``."""
    gate = json.loads(metrics.read_text("utf-8"))["gate"]
    failed = [check for check in gate["checks"] if check["problem"] is not None]
    slices = dict.fromkeys(_slice(check) for check in failed)
    return Judged(gate["passed"], tuple(slices), tuple(f"{check['name']}: {check['problem']}" for check in failed))


def _slice(check: dict[str, Any]) -> str:
    of = (check["measure"] or {}).get("slice")
    return f"{of['by']}:{of['value']}" if of else "all"


@dataclass(frozen=True, slots=True)
class Report:
    """The whole demo.

    Attributes:
        counts: of each run, by its topics.
        resumed: how often the first run was gone on with.
        before, after: what the gate said of the two versions.
        report: where the first of their reports is.
    """

    counts: tuple[Verdict, ...]
    resumed: int
    before: Judged
    after: Judged
    report: Path

    @property
    def passed(self) -> bool:
        """Exactly once in both runs; the one camera found, and nothing else; and mended."""
        return (
            all(verdict.passed for verdict in self.counts)
            and self.resumed == KILLS
            and not self.before.passed
            and self.before.failed_slices == (f"source:{UPSIDE_DOWN}",)
            and self.after.passed
        )

    def last_line(self) -> str:
        """The line that scripts read. Duplicates and missing are those of both runs."""
        return (
            f"replay-demo: replayed={self.counts[0].sent} resumed={self.resumed} "
            f"duplicates={sum(verdict.duplicates for verdict in self.counts)} "
            f"missing={sum(verdict.missing for verdict in self.counts)} "
            f"gate_before={self.before.word} slice={','.join(self.before.failed_slices) or 'none'} "
            f"gate_after={self.after.word} report={self.report}"
        )
