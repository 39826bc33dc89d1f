"""``headrace topics``: the topics that the settings name, as they are, and making those that are missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.pipeline.cli.options import config_option, json_option, settings_option
from headrace.pipeline.exit_codes import ExitCode, epilog

if TYPE_CHECKING:  # not needed by --help
    from headrace.pipeline.config import Settings
    from headrace.pipeline.topic_check import TopicReport


@click.group(invoke_without_command=True, epilog=epilog("topics"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@config_option
@click.pass_context
def command(context: click.Context, config_file: Path | None, as_json: bool) -> None:
    """Show every topic that the settings name, or create those that are missing.

    What each is for, its partitions, replicas and largest record, how many offsets it retains (markers of transactions
    take some), and how far the group has committed the request topics. Only looks: it never joins the group.
    """
    if context.invoked_subcommand is None:
        from headrace.connectors.discovery import settings_in_force

        settings = settings_in_force(config_file)
        context.exit(_show(settings, _reports(settings), as_json))


@command.command("create", short_help="Create the topics that are missing.", epilog=epilog("topics create"))
@json_option("Print JSON.")
@settings_option
def create(settings: Settings, as_json: bool) -> int:
    """Create the topics that are missing, as the settings want them, and say what is wrong with the others.

    Topics that exist are left as they are. Safe to repeat; a worker does the same when it starts.
    """
    from headrace.connectors.kafka.admin import ensure_topics

    missing = [report.spec for report in _reports(settings) if report.state is None]
    made = set(ensure_topics(settings.kafka.bootstrap_servers, missing, settings.kafka.client))
    reports = _reports(settings)
    if as_json:
        return _show(settings, reports, True, made)
    for report in reports:
        if report.spec.name in made:
            click.echo(f"created {report.spec.name} with {report.spec.partitions} partitions")
    if not made:
        click.echo("no topic was missing")
    return _problems(reports)


def _reports(settings: Settings) -> tuple[TopicReport, ...]:
    from headrace.connectors.kafka.topic_states import TopicStates
    from headrace.pipeline.retrying import consumed_topics
    from headrace.pipeline.setup import topic_specs
    from headrace.pipeline.topic_check import report

    topics = TopicStates(settings.kafka.bootstrap_servers, settings.kafka.client)
    states = topics.states([spec.name for spec in topic_specs(settings)])
    consumed = {name: states[name] for name in consumed_topics(settings)}
    return report(settings, states, topics.progress(settings.name, consumed))


def _show(
    settings: Settings, reports: tuple[TopicReport, ...], as_json: bool, made: frozenset[str] | set[str] = frozenset()
) -> int:
    if as_json:
        topics = [_fields(report, report.spec.name in made) for report in reports]
        click.echo(json.dumps({"group": settings.name, "topics": topics}, indent=2))
        return ExitCode.FAILED if any(report.problems for report in reports) else ExitCode.OK
    from headrace.pipeline.cli.terminal import print_table

    titles = ("topic", "for", "partitions", "replicas", "max bytes", "retained", "committed", "lag")
    rows = [_row(report) for report in reports]
    print_table(titles, rows, bad=[bool(report.problems) for report in reports], right=range(2, len(titles)))
    click.echo(f"committed offsets and lag: group {settings.name}, all partitions together")
    return _problems(reports)


def _problems(reports: tuple[TopicReport, ...]) -> int:
    problems = [problem for report in reports for problem in report.problems]
    for problem in problems:
        click.echo(problem, err=True)
    return ExitCode.FAILED if problems else ExitCode.OK


def _row(report: TopicReport) -> tuple[str, ...]:
    state, progress = report.state, report.progress
    name, roles = report.spec.name, ", ".join(report.roles)
    if state is None:
        return (name, roles, "missing", "", "", "", "", "")
    committed = "" if progress is None else f"{sum(progress.committed.values()):,}/{sum(state.ends.values()):,}"
    return (
        name,
        roles,
        str(state.partitions),
        str(state.replication_factor),
        f"{state.max_message_bytes:,}",
        f"{state.offsets_retained:,}",
        committed,
        "" if progress is None else f"{progress.lag:,}",
    )


def _fields(report: TopicReport, created: bool) -> dict[str, Any]:
    state, progress = report.state, report.progress
    fields: dict[str, Any] = {
        "topic": report.spec.name,
        "roles": list(report.roles),
        "exists": state is not None,
        "created": created,
        "wanted": {
            "partitions": report.spec.partitions,
            "replication_factor": report.spec.replication_factor,
            "max_message_bytes": report.needed_bytes,
        },
        "problems": list(report.problems),
    }
    if state is not None:
        fields |= {
            "partitions": state.partitions,
            "replication_factor": state.replication_factor,
            "max_message_bytes": state.max_message_bytes,
            "offsets_retained": state.offsets_retained,
        }
    if state is not None and progress is not None:
        fields["lag"] = progress.lag
        fields["offsets"] = [
            {
                "partition": partition,
                "start": state.starts[partition],
                "end": end,
                "committed": progress.committed.get(partition),
            }
            for partition, end in sorted(state.ends.items())
        ]
    return fields
