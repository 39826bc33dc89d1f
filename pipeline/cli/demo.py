"""``headrace demo``: the main job end to end, checked event by event."""

from __future__ import annotations

from pathlib import Path

import click

from headrace.pipeline.cli.demo_console import demo_console


@click.command()
@click.option("--events", type=click.IntRange(40, 5000), default=480, show_default=True, help="Events to send.")
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True, help="The same seed, the same events.")
@click.option(
    "--seconds",
    type=click.FloatRange(1, 600),
    default=28.0,
    show_default=True,
    help="How long sending takes, at least.",
)
@click.option("--no-kill", is_flag=True, help="Let both workers live.")
@click.option("--keep", is_flag=True, help="Keep data and logs in build/demo-data (replaced each time).")
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("build/demo.json"),
    show_default=True,
    help="Where the figures go.",
)
@click.pass_context
def command(
    context: click.Context, events: int, seed: int, seconds: float, no_kill: bool, keep: bool, json_path: Path
) -> None:
    """Run the main job on an embedded stack of its own: two workers, one of them killed halfway.

    Every event is checked by its position: exactly one result, or exactly one dead letter if it was planted as bad.
    The last line on stdout has the figures; the exit code is 0 only if all is as it must be.
    """
    from headrace.connectors.embedded.checks import require_extras

    require_extras()
    from headrace.pipeline.demo.run import Options, run

    keep_in = Path("build/demo-data") if keep else None
    report = run(Options(events, seed, seconds, kill=not no_kill, keep=keep_in, json_path=json_path), demo_console())
    click.echo(report.last_line())
    report.write(json_path)
    context.exit(report.exit_code)
