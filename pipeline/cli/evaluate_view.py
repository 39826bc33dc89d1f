"""What ``headrace evaluate`` shows: how far it is, on the terminal that stderr is; and what came of it, on stdout."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column

from headrace.pipeline.cli.evaluating import Wishes, Written
from headrace.pipeline.cli.gathering import Progress
from headrace.pipeline.cli.terminal import print_table, styled
from headrace.pipeline.evaluate.evaluation import Evaluation, Side
from headrace.pipeline.evaluate.measures import Measure
from headrace.pipeline.evaluate.report.summary import failed_checks
from headrace.pipeline.evaluate.report.wording import (
    interval,
    number,
    p_value,
    route_name,
    signed,
    visible,
    with_minus,
)

_TITLES = ("route", "measure", "records", "candidate", "baseline", "difference", "95 % interval", "p")
_VERDICTS = {True: "pass", False: "fail", None: "none"}


class _Silent:
    """Where there is no terminal."""

    def begin(self, what: str, total: int) -> None:
        """Nobody looks."""

    def advance(self, count: int) -> None:
        """Nobody looks."""


class _Bar:
    """One line, of what is done now."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task = bar.add_task("beginning", total=None, count="")

    def begin(self, what: str, total: int) -> None:
        self._bar.remove_task(self._task)
        self._task = self._bar.add_task(what, total=total or None, count=f"of {total:,}" if total else "")

    def advance(self, count: int) -> None:
        self._bar.advance(self._task, count)


@contextlib.contextmanager
def progress_view() -> Iterator[Progress]:
    """What is told of progress while it is open."""
    if not sys.stderr.isatty():
        yield _Silent()
        return
    with Bar(
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        TextColumn("{task.fields[count]}", table_column=Column(no_wrap=True)),
        TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False),
        redirect_stdout=False,
        redirect_stderr=False,
        transient=True,
        expand=True,
    ) as bar:
        yield _Bar(bar)


def show(wishes: Wishes, evaluation: Evaluation, written: Written, *, as_json: bool) -> None:
    """The outcome."""
    if as_json:
        click.echo(json.dumps(_fields(wishes, evaluation, written)))
        return
    measures = [measure for measure in evaluation.analysis.measures if measure.slice is None]
    if measures:
        print_table(_TITLES, [_row(measure) for measure in measures], right=range(2, len(_TITLES)))
    for check in failed_checks(evaluation.checks):
        problem = visible(with_minus(check.problem or ""))
        click.echo(styled(f"fails: {visible(check.name)}: {problem}", fg="red"))
    click.echo(
        f"evaluate: run={wishes.candidate} against={wishes.against} events={evaluation.analysis.events} "
        f"gate={_VERDICTS[evaluation.passed]} report={written.report}"
    )


def _row(measure: Measure) -> tuple[str, ...]:
    difference = measure.difference
    return (
        route_name(measure.route),
        measure.name,
        f"{measure.records:,}",
        number(measure.candidate.value),
        number(measure.baseline.value) if measure.baseline else "",
        signed(difference.value) if difference else "",
        interval(difference),
        p_value(measure.p_value),
    )


def _fields(wishes: Wishes, evaluation: Evaluation, written: Written) -> dict[str, Any]:
    analysis = evaluation.analysis
    return {
        "run": wishes.candidate,
        "against": wishes.against,
        "events": analysis.events,
        "candidate": _side(analysis.candidate),
        "baseline": _side(analysis.baseline) if analysis.baseline else None,
        "gate": _VERDICTS[evaluation.passed],
        "checks": len(evaluation.checks),
        "failed": [{"check": check.name, "problem": check.problem} for check in failed_checks(evaluation.checks)],
        "report": str(written.report),
        "markdown": str(written.markdown),
        "metrics": str(written.metrics),
        "seconds": round(evaluation.seconds, 3),
    }


def _side(side: Side) -> dict[str, int]:
    return {
        "results": side.results,
        "dead_letters": side.dead_letters,
        "missing": side.missing,
        "duplicates": side.duplicates,
    }
