"""``headrace demo-resilience``: a model that fails, a breaker, dead letters redriven; event by event."""

from __future__ import annotations

from pathlib import Path

import click

from headrace.pipeline.cli.demo_console import demo_console
from headrace.pipeline.exit_codes import ExitCode, epilog


@click.command(epilog=epilog("demo-resilience"))
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True, help="The same seed, the same events.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("build/demo-resilience.json"),
    show_default=True,
    help="Where the figures go.",
)
@click.option(
    "--only-files",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write the demo's files there and end: for following it by hand (docs/resilience.md).",
)
def command(seed: int, json_path: Path, only_files: Path | None) -> int:
    """Show what happens when things go wrong, on an embedded stack of its own.

    A model fails for a while: its events wait in delay topics, and are answered later. A model is taken away: its
    breaker opens, another model answers, and it closes again. Events that nobody can answer are dead letters; what is
    wrong is mended, and they are redriven. Texts flow all the time.

    Each event is counted by its position in the topics. The last line on stdout has the figures; the exit code is 0
    only if all is as it must be.
    """
    from headrace.connectors.embedded.checks import require_extras

    require_extras()
    from headrace.pipeline.demo.resilience.run import Options, run, write_files

    if only_files is not None:
        write_files(only_files)
        return ExitCode.OK
    report = run(Options(seed, json_path), demo_console())
    click.echo(report.last_line())
    report.write(json_path)
    return ExitCode.OK if report.passed else ExitCode.FAILED
