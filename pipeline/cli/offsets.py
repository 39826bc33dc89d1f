"""``headrace offsets``: what the group has committed, with the offset metadata decoded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from headrace.pipeline.cli.options import settings_option
from headrace.pipeline.exit_codes import ExitCode, epilog

if TYPE_CHECKING:  # not needed by --help
    from headrace.pipeline.config import Settings
    from headrace.pipeline.offset_report import PartitionReport

SHOWN_RUNS = 3


@click.group()
def command() -> None:
    """Look at what the workers' group has committed."""


@command.command(
    "show", short_help="Show committed offsets and what is done above them.", epilog=epilog("offsets show")
)
@click.option("--group", help="Another group than the settings' `name`.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, every run included.")
@settings_option
def show(settings: Settings, group: str | None, as_json: bool) -> int:
    """Show, for each partition of the request and delay topics, the committed offset and what is done above it.

    Records complete out of order. The committed offset is the lowest that is not done; those done above it are in that
    offset's metadata, and whoever has the partition next skips them. Only looks: it never joins the group.
    """
    from headrace.connectors.kafka.topic_states import TopicStates
    from headrace.pipeline.offset_report import report
    from headrace.pipeline.retrying import consumed_topics

    group = group or settings.name
    topics = TopicStates(settings.kafka.bootstrap_servers, settings.kafka.client)
    states = topics.states(consumed_topics(settings))
    reports = report(states, topics.committed(group, states))
    if as_json:
        click.echo(json.dumps({"group": group, "partitions": [_fields(each) for each in reports]}, indent=2))
    else:
        _print(group, reports)
    missing = [name for name, state in states.items() if state is None]
    for name in missing:
        click.echo(f"topic {name} does not exist: `headrace topics create` makes it", err=True)
    for each in reports:
        if told := each.problem or each.complaint:
            click.echo(f"{each.where.topic}[{each.where.partition}]: {told}", err=True)
    # A delay topic is there from when a worker first starts with it: until then nothing can be owed of it.
    bad = any(name in settings.topics.requests for name in missing) or any(each.problem for each in reports)
    return ExitCode.FAILED if bad else ExitCode.OK


def _print(group: str, reports: tuple[PartitionReport, ...]) -> None:
    from headrace.pipeline.cli.terminal import print_table

    titles = ("partition", "committed", "end", "owed", "done above", "format", "bytes", "runs done above")
    rows = [
        (
            f"{each.where.topic}[{each.where.partition}]",
            "none" if each.committed is None else str(each.committed),
            str(each.end),
            str(each.owed),
            str(each.done_above),
            each.format,
            str(len(each.metadata)) if each.metadata else "",
            _runs(each.runs),
        )
        for each in reports
    ]
    print_table(titles, rows, bad=[bool(each.problem) for each in reports], right=(1, 2, 3, 4, 6))
    click.echo(f"group {group}; bytes: of the offset metadata, at most 4,096 by Kafka's default")


def _runs(runs: tuple[tuple[int, int], ...]) -> str:
    shown = [str(first) if end == first + 1 else f"{first}-{end - 1}" for first, end in runs[:SHOWN_RUNS]]
    more = [f"and {len(runs) - SHOWN_RUNS} more"] if len(runs) > SHOWN_RUNS else []
    return ", ".join([*shown, *more])


def _fields(each: PartitionReport) -> dict[str, Any]:
    return {
        "topic": each.where.topic,
        "partition": each.where.partition,
        "start": each.start,
        "end": each.end,
        "committed": each.committed,
        "owed": each.owed,
        "done_above": each.done_above,
        "runs": [{"first": first, "last": end - 1} for first, end in each.runs],
        "format": each.format,
        "metadata": each.metadata,
        "complaint": each.complaint,
        "problem": each.problem,
    }
