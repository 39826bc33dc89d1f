"""What ``headrace topics plan``, ``diff`` and ``apply`` print."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any

import click

from headrace.pipeline.exit_codes import ExitCode
from headrace.pipeline.topic_plan import Change, Flag, Kind, TopicPlan


def show_plan(plan: TopicPlan, flags: Collection[Flag], as_json: bool, done: Sequence[Change] | None = None) -> int:
    """What is to be done, or, with what was ``done``, what is left. The exit code."""
    allowed = plan.allowed(flags)
    left = bool(plan.problems) or (done is not None and bool(plan.changes))
    code = ExitCode.FAILED if left else ExitCode.OK
    if as_json:
        told = {"changes": [_fields(each, each in allowed) for each in plan.changes]}
        if done is not None:
            told = {"done": [_fields(each, True) for each in done], "left": told["changes"]}
        click.echo(json.dumps({**told, "problems": plan.problems, "warnings": plan.warnings}, indent=2))
        return code
    for change in plan.changes:
        click.echo(str(change) if change in allowed else f"{change}  (not without {change.needs})")
    if not plan.changes and not done:
        click.echo("nothing is to be done")
    _tell(plan)
    return code


def show_diff(plan: TopicPlan, as_json: bool) -> int:
    """The exit code: whether they differ."""
    code = ExitCode.FAILED if plan.changes or plan.problems else ExitCode.OK
    if as_json:
        changes = [_fields(each, each.needs is None) for each in plan.changes]
        click.echo(json.dumps({"changes": changes, "problems": plan.problems, "warnings": plan.warnings}, indent=2))
        return code
    for topic, some in groupby(plan.changes, key=lambda change: change.topic):
        click.echo(f"--- {topic}, as it is")
        click.echo(f"+++ {topic}, as the settings want it")
        for change in some:
            key = change.key or ("partitions" if change.kind is Kind.PARTITIONS else "")
            for sign, value in (("-", change.before), ("+", change.after)):
                if value:
                    click.echo(f"{sign}{key}={value}" if key else f"{sign}{value}")
    _tell(plan)
    return code


def _tell(plan: TopicPlan) -> None:
    for problem in plan.problems:
        click.echo(problem, err=True)
    for warning in plan.warnings:
        click.echo(f"warning: {warning}", err=True)


def _fields(change: Change, allowed: bool) -> dict[str, Any]:
    return {
        "topic": change.topic,
        "kind": change.kind.value,
        "key": change.key,
        "before": change.before,
        "after": change.after,
        "needs": change.needs and change.needs.value,
        "allowed": allowed,
    }
