from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from headrace.pipeline.cli import cli
from headrace.pipeline.demo import run
from headrace.pipeline.demo.check import Verdict
from headrace.pipeline.demo.observe import Figures
from headrace.pipeline.demo.report import Report, show_verdict
from headrace.pipeline.demo.stats import Latency, Recovery
from headrace.pipeline.demo.view import LiveView, Scene
from headrace.pipeline.errors import StackError

NOTHING = Latency(0, math.nan, math.nan, math.nan)
NOBODY_KILLED = None
OWNED_NOTHING = Recovery(0.0, 0.0, (), NOTHING)
RECOVERED = Recovery(2.5, 3.0, (1, 2), Latency(2, 40.0, 900.0, 900.0))


def report(recovery: Recovery | None, crashes: int = 0) -> Report:
    figures = Figures(1, 1, 0, Latency(1, 20.0, 99.9, 120.0), recovery, ())
    return Report(Verdict(1, 1, 0, 0, 0, ()), figures, seed=7, crashes=crashes, unreadable=0, total_seconds=1.0)


def written(subject: Report, folder: Path) -> dict[str, Any]:
    subject.write(folder / "demo.json")
    figures: dict[str, Any] = json.loads((folder / "demo.json").read_text())
    return figures


def shown(subject: Report) -> str:
    console = Console(file=io.StringIO(), width=120)
    show_verdict(console, subject, [])
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_recovery_is_written_on_the_last_line_and_in_the_figures(tmp_path: Path) -> None:
    assert report(RECOVERED).last_line().endswith(" recovery_s=2.5")
    figures = written(report(RECOVERED), tmp_path)
    assert (figures["recovery_s"], figures["recovery_settled_s"], figures["recovery_partitions"]) == (2.5, 3.0, [1, 2])


@pytest.mark.parametrize("recovery", [NOBODY_KILLED, OWNED_NOTHING])
def test_recovery_that_was_not_measured_is_no_number(tmp_path: Path, recovery: Recovery | None) -> None:
    assert report(recovery).last_line() == (
        "demo: sent=1 results=1 dead_letters=0 duplicates=0 missing=0 p50_ms=20.0 p99_ms=99.9 recovery_s=nan"
    )
    figures = written(report(recovery), tmp_path)
    assert (figures["recovery_s"], figures["recovery_settled_s"], figures["recovery_partitions"]) == (None, None, [])
    assert report(recovery).passed


def test_recovery_of_a_worker_that_owned_nothing_is_said_to_be_none() -> None:
    assert "no recovery to measure" in shown(report(OWNED_NOTHING))
    assert "recovery" not in shown(report(NOBODY_KILLED))


def test_live_view_shows_a_recovery_only_if_there_was_one() -> None:
    for recovery, is_shown in ((NOBODY_KILLED, False), (OWNED_NOTHING, False), (RECOVERED, True)):
        console = Console(file=io.StringIO(), width=120, force_terminal=True)
        with LiveView(console) as view:
            view.show(Scene(1.0, 1, report(recovery).figures, ()), last=True)
        assert isinstance(console.file, io.StringIO)
        assert ("recovery" in console.file.getvalue()) == is_shown


def test_crash_is_part_of_the_verdict(tmp_path: Path) -> None:
    assert "1 worker(s) ended unasked or not as told" in shown(report(RECOVERED, crashes=1))
    assert written(report(RECOVERED, crashes=1), tmp_path)["passed"] is False


def test_figures_that_cannot_be_written_are_one_clear_error() -> None:
    with pytest.raises(StackError, match="could not be written to /dev/full: No space left"):
        report(RECOVERED).write(Path("/dev/full"))


def test_last_line_comes_even_if_the_figures_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "run", lambda *_: report(RECOVERED))
    result = CliRunner().invoke(cli, ["demo", "--json", "/dev/full"])
    assert isinstance(result.exception, StackError)
    assert result.output.splitlines()[-1] == report(RECOVERED).last_line()
