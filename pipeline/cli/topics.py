"""``headrace topics``: the topics that the settings name, as they are, and making those that are missing."""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.pipeline.cli.options import config_option, json_option, settings_option
from headrace.pipeline.errors import FatalError, UnavailableError
from headrace.pipeline.exit_codes import ExitCode, epilog

if TYPE_CHECKING:  # not needed by --help
    from headrace.pipeline.config import Settings
    from headrace.pipeline.topic_check import TopicReport
    from headrace.pipeline.topic_plan import Change, Flag, TopicPlan

TOLD_SECONDS, TOLD_POLL_SECONDS = 15.0, 0.1
"""Until all brokers have heard of a change."""


@click.group(invoke_without_command=True, epilog=epilog("topics"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@config_option
@click.pass_context
def command(context: click.Context, config_file: Path | None, as_json: bool) -> None:
    """Show every topic that the settings name; plan or make changes to them.

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


def flag_options(function: Callable[..., int]) -> Callable[..., int]:
    """What changes are allowed that take something away; the command is called with ``flags``, a set of `Flag`."""

    @click.option("--add-partitions", is_flag=True, help="Add partitions: keys and ids move, and lose their order.")
    @click.option("--shrink", is_flag=True, help="Let records go sooner, be smaller or be less safe than now.")
    @functools.wraps(function)
    def command(*args: Any, add_partitions: bool, shrink: bool, **kwargs: Any) -> int:
        from headrace.pipeline.topic_plan import Flag

        given = {Flag.ADD_PARTITIONS: add_partitions, Flag.SHRINK: shrink}
        return function(*args, flags=frozenset(flag for flag, is_given in given.items() if is_given), **kwargs)

    return command


@command.command("plan", short_help="Show what apply would do.", epilog=epilog("topics plan"))
@flag_options
@json_option("Print JSON.")
@settings_option
def plan(settings: Settings, as_json: bool, flags: frozenset[Flag]) -> int:
    """Show what has to be done so that the topics are as the settings want them, and change nothing.

    Partitions, replicas, largest record, and what topics.min_insync_replicas and topics.config say; and a warning for
    each circumstance under which exactly-once does not hold. What takes something away needs an option of its own.
    """
    from headrace.pipeline.cli.topic_plans import show_plan

    return show_plan(_plan(settings), flags, as_json)


@command.command("diff", short_help="Show how the topics differ, for CI.", epilog=epilog("topics diff"))
@json_option("Print JSON.")
@settings_option
def diff(settings: Settings, as_json: bool) -> int:
    """Show how the topics differ from what the settings want, as a diff; the exit code says whether they do."""
    from headrace.pipeline.cli.topic_plans import show_diff

    return show_diff(_plan(settings), as_json)


@command.command("apply", short_help="Make the topics as the settings want them.", epilog=epilog("topics apply"))
@flag_options
@json_option("Print JSON.")
@settings_option
def apply(settings: Settings, as_json: bool, flags: frozenset[Flag]) -> int:
    """Do what `headrace topics plan` shows. Safe to repeat; what it may not do it leaves, and says so.

    It never takes partitions away, and never moves replicas: Kafka's own tools do that.
    """
    from headrace.connectors.kafka.topic_changes import TopicChanges
    from headrace.pipeline.cli.topic_plans import show_plan
    from headrace.pipeline.setup import topic_specs

    found = _plan(settings)
    kafka = settings.kafka
    changes = TopicChanges(kafka.bootstrap_servers, kafka.client, topic_specs(settings))
    done = []
    for change in found.allowed(flags):
        changes.carry_out(change)
        if not as_json:
            click.echo(f"{change}: done")
        done.append(change)
    return show_plan(_plan(settings, wait_for=done), flags, as_json, done)


def _plan(settings: Settings, wait_for: Sequence[Change] = ()) -> TopicPlan:
    """As the topics are now; after changes, as soon as brokers tell of them."""
    from headrace.connectors.kafka.topic_states import TopicStates
    from headrace.pipeline.setup import topic_specs
    from headrace.pipeline.topic_plan import INTERNAL, left_over, plan

    topics = TopicStates(settings.kafka.bootstrap_servers, settings.kafka.client)
    deadline = time.monotonic() + TOLD_SECONDS
    while True:
        try:
            states = topics.states([spec.name for spec in topic_specs(settings)])
            with contextlib.suppress(FatalError):  # without the right to look at these: no warnings
                states |= topics.states(INTERNAL)
            found = plan(settings, states, left_over(settings, topics.names()))
        except UnavailableError:  # of a topic that not all brokers have heard of
            if not wait_for or time.monotonic() > deadline:
                raise
        else:
            if not set(wait_for) & set(found.changes) or time.monotonic() > deadline:
                return found
        time.sleep(TOLD_POLL_SECONDS)


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
