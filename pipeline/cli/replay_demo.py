"""``headrace replay-demo``: a model's next versions tried on history, judged, and checked event by event."""

from __future__ import annotations

from pathlib import Path

import click

from headrace.pipeline.cli.demo_console import demo_console
from headrace.pipeline.exit_codes import ExitCode, epilog


@click.command(epilog=epilog("replay-demo"))
@click.option("--events", type=click.IntRange(400, 5000), default=2000, show_default=True, help="Events to send.")
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True, help="The same seed, the same events.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/replay-demo"),
    show_default=True,
    help="Where the reports go (and logs, if something fails).",
)
@click.option(
    "--only-files",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write the demo's files there and end: for following it by hand (docs/replay-walkthrough.md).",
)
def command(events: int, seed: int, out: Path, only_files: Path | None) -> int:
    """Try two versions of a model on history, on an embedded stack of its own.

    Events with labels are answered live by version 1 of an image model. Version 2 answers them again, in a replay that
    is killed twice and gone on with; a gate refuses it for what it does to one camera. Version 3 is mended, and passes.
    Each event is checked by its position in the runs' topics. The last line on stdout has the figures; the exit code is
    0 only if all is as it must be.
    """
    from headrace.connectors.embedded.checks import require_extras
    from headrace.pipeline.cli.evaluate import check_extra

    require_extras()
    check_extra()
    from headrace.pipeline.demo.replay.run import Options, run, write_files

    options = Options(events, seed, out)
    if only_files is not None:
        write_files(only_files, options)
        return ExitCode.OK
    report = run(options, demo_console())
    click.echo(report.last_line())
    return ExitCode.OK if report.passed else ExitCode.FAILED
