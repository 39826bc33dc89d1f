"""``headrace evaluate``: a run's answers, or a shadow's, compared with others, and judged."""

from __future__ import annotations

import functools
import importlib.util
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from headrace.pipeline.cli.completion_values import files
from headrace.pipeline.cli.options import settings_option
from headrace.pipeline.errors import ConfigError, HeadraceError
from headrace.pipeline.exit_codes import ExitCode, epilog
from headrace.pipeline.secrets import masked

if TYPE_CHECKING:  # not needed by --help
    from headrace.pipeline.config import Settings

NEEDED = ("cv2", "duckdb", "jinja2", "matplotlib", "pyarrow", "scipy")
"""Packages that come with the extra ``evaluate`` only."""


def _errors_are_no_verdict(function: Callable[..., int]) -> Callable[..., int]:
    """Code 1 says that the gate does not hold: whatever keeps us from knowing must have another."""

    @functools.wraps(function)
    def command(*args: Any, **kwargs: Any) -> int:
        try:
            return function(*args, **kwargs)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except (HeadraceError, OSError) as error:
            click.echo(masked(f"headrace: {error}"), err=True)
        except Exception:  # noqa: BLE001 - told in full; a traceback's own exit code would be the gate's
            click.echo(masked(traceback.format_exc()), err=True)
        return ExitCode.WRONG_INPUT

    return command


@click.command(epilog=epilog("evaluate"))
@click.argument("candidate")
@click.option("--against", metavar="live|none|RUN", default="live", show_default=True, help="What to compare with.")
@click.option(
    "--labels",
    metavar="FILE|topic:NAME",
    shell_complete=files,
    help="What should have been answered: .csv, JSON lines, or a topic of JSON with the events' ids as keys.",
)
@click.option(
    "--gate",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Thresholds (gate.yaml): exit code 1 if one does not hold.",
)
@click.option("--slice", "slices", metavar="header.NAME", multiple=True, help="Also by this header; repeatable.")
@click.option(
    "--measure",
    "comparators",
    metavar="MODULE:FUNCTION",
    multiple=True,
    help="Also by your own function (docs/evaluate.md); repeatable.",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Default: evaluations/CANDIDATE.")
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="The gate's checks as JUnit XML.")
@click.option("--json", "as_json", is_flag=True, help="The outcome as one JSON object.")
@click.option("--partial", is_flag=True, help="Also a run that is not complete: what it has not answered is missing.")
@click.option("--topic", metavar="NAME", help="Of shadow: whose events; default: the first of topics.requests.")
@click.option("--from", "begin", metavar="WHERE", default="earliest", help="Of shadow: the first event, as in replay.")
@click.option("--to", "end", metavar="WHERE", default="latest", help="Of shadow: behind the last event.")
@click.option(
    "--filter", "filters", metavar="NAME=VALUE", multiple=True, help="Of shadow: only these events, as in replay."
)
@_errors_are_no_verdict
@settings_option
def command(
    settings: Settings,
    candidate: str,
    gate: Path | None,
    out: Path | None,
    junit: Path | None,
    as_json: bool,
    **more: Any,
) -> int:
    """Compare a replay's answers with live's, another run's or none, and with what should have been answered.

    CANDIDATE is a run's id, or shadow: the answers of the models in live's shadow. Each event of the range is joined
    with its outcomes by its original position. Writes report.html, which needs nothing else to be looked at, report.md
    for a pull request, and metrics.json. Nothing is written to Kafka, and no group is joined.
    """
    check_extra()
    from headrace.pipeline.cli.evaluate_view import progress_view, show
    from headrace.pipeline.cli.evaluating import Wishes, evaluate, write
    from headrace.pipeline.evaluate.answer_topics import SHADOW

    if candidate != SHADOW:
        _refuse_range()
    if junit is not None and gate is None:
        raise click.UsageError("--junit holds the checks of a gate: give a --gate")
    wishes = Wishes(candidate, gate=gate, out=out or Path("evaluations", candidate), junit=junit, **more)
    with progress_view() as progress:
        evaluated = evaluate(settings, wishes, progress)
        progress.begin("writing", 0)
        written = write(evaluated.evaluation, wishes)
    for note in evaluated.notes:
        click.echo(note, err=True)
    show(wishes, evaluated.evaluation, written, as_json=as_json)
    return ExitCode.FAILED if evaluated.evaluation.passed is False else ExitCode.OK


_OF_SHADOW = {"topic": "--topic", "begin": "--from", "end": "--to", "filters": "--filter"}


def _refuse_range() -> None:
    """A run's events were fixed when it began."""
    source = click.get_current_context().get_parameter_source
    given = [option for name, option in _OF_SHADOW.items() if source(name) is ParameterSource.COMMANDLINE]
    if given:
        raise click.UsageError(f"{', '.join(given)}: a run's events are its own; only shadow takes a range")


def check_extra() -> None:
    """Raises ConfigError, saying what to install, if a package of the extra is missing."""
    missing = [package for package in NEEDED if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(f'{", ".join(missing)} missing: pip install "headrace[evaluate]"')
