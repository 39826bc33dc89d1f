"""``headrace runs``: the replays there are."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from headrace.pipeline.cli.options import settings_option
from headrace.pipeline.exit_codes import ExitCode, epilog

if TYPE_CHECKING:  # not needed by --help
    from headrace.connectors.kafka.runs import RunStore
    from headrace.pipeline.config import Settings
    from headrace.pipeline.replay.manifest import Run

UNDER_WAY_SECONDS = 60.0
"""A run that was written to so lately may have a process at it."""


@click.group()
def command() -> None:
    """List, show and remove replays (`headrace replay`)."""


@command.command("list", short_help="List the runs.", epilog=epilog("runs list"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_option
def list_runs(settings: Settings, as_json: bool) -> int:
    """List the runs, the oldest first: what they replay, with which models, and how far they are."""
    from headrace.pipeline.cli.terminal import print_table
    from headrace.pipeline.replay.ranges import total

    runs = _store(settings).all()
    if as_json:
        click.echo(json.dumps([_fields(run) for run in runs], indent=2))
        return ExitCode.OK
    rows = [
        (
            run.plan.run,
            run.state.value.lower(),
            run.plan.topic,
            f"{total(run.plan.ranges):,}",
            f"{run.results:,}",
            f"{run.dead_letters:,}",
            _time(run.updated_ms),
            ", ".join(f"{pin.model}:{pin.version}" for pin in run.plan.models if pin.forced),
        )
        for run in runs
    ]
    titles = ("run", "state", "topic", "offsets", "results", "dead letters", "updated", "models")
    print_table(titles, rows, right=(3, 4, 5))
    return ExitCode.OK


@command.command("show", short_help="Show one run.", epilog=epilog("runs show"))
@click.argument("run_id", metavar="RUN")
@settings_option
def show(settings: Settings, run_id: str) -> int:
    """Show all there is to know of a run, as JSON."""
    click.echo(json.dumps(_fields(_store(settings).named(run_id)), indent=2))
    return ExitCode.OK


@command.command("rm", short_help="Remove runs.", epilog=epilog("runs rm"))
@click.argument("run_ids", metavar="RUN...", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Also one that may be under way: its process will fail.")
@settings_option
def remove(settings: Settings, run_ids: tuple[str, ...], force: bool) -> int:
    """Remove runs: their results, their dead letters, and that they were."""
    from headrace.connectors.kafka.runs import unknown_run
    from headrace.pipeline.errors import ConfigError
    from headrace.pipeline.replay.manifest import RunState, check_run_id

    store = _store(settings)
    for run_id in dict.fromkeys(run_ids):
        run = store.find(check_run_id(run_id))
        if run is not None and run.state is RunState.RUNNING and not force:
            age_seconds = time.time() - run.updated_ms / 1000
            if age_seconds < UNDER_WAY_SECONDS:
                raise ConfigError(
                    f"run {run_id} was written to {age_seconds:.0f} s ago and may be under way: stop it, or --force"
                )
        if not store.remove(run_id) and run is None:  # of one that was broken off as it began only topics are there
            raise unknown_run(run_id)
        click.echo(f"removed {run_id}")
    return ExitCode.OK


def _store(settings: Settings) -> RunStore:
    from headrace.connectors.kafka.runs import RunStore
    from headrace.connectors.registry import ConfluentRegistry

    return RunStore(settings, ConfluentRegistry.of(settings.registry))


def _time(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _fields(run: Run) -> dict[str, Any]:
    from headrace.pipeline.replay.manifest import run_fields

    fields = run_fields(run)
    return {
        **fields,
        "state": run.state.value.lower(),
        "created": _time(run.plan.created_ms),
        "updated": _time(run.updated_ms),
        "active_seconds": round(run.active_seconds, 3),
    }
