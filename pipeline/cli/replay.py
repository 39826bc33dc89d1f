"""``headrace replay``: a range of a topic's history, answered again, into a run of its own."""

from __future__ import annotations

import contextlib
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headrace.pipeline.cli.options import settings_option
from headrace.pipeline.exit_codes import epilog

if TYPE_CHECKING:  # not needed by --help
    from collections.abc import Callable, Iterator

    from headrace.pipeline.config import Settings


OWN_CALL_SECONDS = 3600.0
"""A Triton that gives way to all else may take long: its calls must not become dead letters for that."""


@click.command(epilog=epilog("replay"))
@click.argument("topic", required=False)
@click.option("--from", "begin", metavar="WHERE", default="earliest", show_default=True, help="The first record.")
@click.option("--to", "end", metavar="WHERE", default="latest", show_default=True, help="Behind the last record.")
@click.option("--route", "routes", metavar="NAME", multiple=True, help="Answer only parts on this route; repeatable.")
@click.option(
    "--model",
    "models",
    metavar="[ROUTE=]NAME[:VERSION]",
    multiple=True,
    help="Answer with this version of the model, or on that route with this model; repeatable.",
)
@click.option(
    "--filter",
    "filters",
    metavar="NAME=VALUE",
    multiple=True,
    help="Only events with this modality, type, source, key or header.NAME (* and ? are wildcards), or sample=5%: "
    "a share of them, always the same ones. Repeatable: any of one name's values, all names.",
)
@click.option("--limit", type=click.IntRange(1), help="The first so many of the events, by time.")
@click.option("--rate", metavar="RATE", help="Events a second (200), times live speed (x2), or unlimited.")
@click.option("--max-concurrency", type=click.IntRange(1, 256), help="Infer calls in flight on each route.")
@click.option("--max-batch", type=click.IntRange(1, 4096), help="Records in one infer call, at most the route's own.")
@click.option(
    "--own-triton", is_flag=True, help="Start a Triton for this replay, which gives way to all else on this machine."
)
@click.option(
    "--model-repository",
    "repositories",
    metavar="DIRECTORY",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="With --own-triton: a model repository of your own, served beside the bundled models. Repeatable.",
)
@click.option("--run", "run_id", metavar="ID", help="The run's id; by default made of time and models.")
@click.option("--resume", metavar="ID", help="Go on with a run that was stopped or killed; the range is its own.")
@click.option("--json", "as_json", is_flag=True, help="Progress as JSON, a line a second; the last one is the outcome.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="error", help="On stderr."
)
@settings_option
def command(
    settings: Settings,
    topic: str | None,
    begin: str,
    end: str,
    routes: tuple[str, ...],
    models: tuple[str, ...],
    filters: tuple[str, ...],
    limit: int | None,
    rate: str | None,
    max_concurrency: int | None,
    max_batch: int | None,
    own_triton: bool,
    repositories: tuple[Path, ...],
    run_id: str | None,
    resume: str | None,
    as_json: bool,
    log_level: str,
) -> int:
    """Answer a range of a topic's history again, each event once, without touching anything live.

    WHERE is earliest, latest, a time (2026-11-27T09:00, UTC unless it says otherwise), a time ago (-2h; s, m, h, d, w)
    or offsets by partition (0:1200,1:1180). What there is at the beginning is what is replayed: nothing that comes
    later. Results and dead letters go to topics of the run; reply topics, second records and emitted ones are not
    written, deadlines do not count, and no group is joined. A run that was broken off, however, is gone on with by
    --resume: each event has one outcome in it.
    """
    from headrace.pipeline.cli.replaying import Wishes, begin_run, perform, planned, require_served, resume_run
    from headrace.pipeline.log import configure_logging
    from headrace.pipeline.replay.manifest import Plan, Run
    from headrace.pipeline.replay.pacing import rate as wanted_rate
    from headrace.pipeline.replay.settings import CallLimits

    configure_logging(settings.worker.log_format, log_level)
    speed = wanted_rate(rate)
    if repositories and not own_triton:
        raise click.UsageError("--model-repository is for a Triton of the replay's own: give --own-triton, too")
    if own_triton:
        from headrace.connectors.embedded.checks import require_extras

        require_extras()
    found: Plan | Run  # before a Triton is started: what is wrong with the arguments is told at once
    if resume is not None:
        _refuse_with_resume(topic)
        found = resume_run(settings, resume)
    elif topic is None:
        raise click.UsageError("name the topic to replay, or a run to --resume")
    else:
        found = planned(settings, Wishes(topic, begin, end, routes, models, filters, limit, run_id))
    with _served(settings, repositories) if own_triton else contextlib.nullcontext((settings, _nothing)) as there:
        settings, check = there
        run = found if isinstance(found, Run) else begin_run(settings, found, models)
        own = ""
        if own_triton:
            require_served(settings, run)
            own = "".join(
                [" --own-triton", *(f" --model-repository {shlex.quote(str(each))}" for each in repositories)]
            )
        limits = CallLimits(max_concurrency, max_batch, OWN_CALL_SECONDS if own_triton else None)
        return perform(settings, run, speed, limits, as_json=as_json, resume=resume is not None, own=own, check=check)


def _nothing() -> None:
    """Where there is nothing to check."""


@contextlib.contextmanager
def _served(settings: Settings, repositories: tuple[Path, ...]) -> Iterator[tuple[Settings, Callable[[], None]]]:
    """The settings with a Triton that is there meanwhile, and what raises StackError if it no longer is."""
    from headrace.connectors.embedded.own_triton import check_running, own_triton
    from headrace.pipeline.cli.interrupts import PatientInterrupts

    with PatientInterrupts(), own_triton(repositories) as server:
        there = settings.triton.model_copy(update={"url": server.grpc})
        yield settings.model_copy(update={"triton": there}), partial(check_running, server)


_OF_THE_PLAN = ("begin", "end", "routes", "models", "filters", "limit", "run_id")


def _refuse_with_resume(topic: str | None) -> None:
    """What a run is to do was fixed when it began."""
    context = click.get_current_context()
    given = [
        name for name in _OF_THE_PLAN if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    if topic is not None or given:
        raise click.UsageError("--resume goes on with a run as it was planned: give neither a topic nor a range")
