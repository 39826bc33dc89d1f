"""The generated pages of docs/: settings, commands, exit codes, metrics, schemas, each from where it is declared.

``make docs`` writes them; a test says when one is not current.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from prometheus_client import Counter, Gauge, Histogram

from headrace.pipeline import exit_codes, metrics, settings_reference
from headrace.pipeline.cli import COMMANDS, cli
from tools import helm_page, schema_pages

DOCS = Path(__file__).resolve().parent.parent / "docs"
WIDTH = 100

Metric = Counter | Gauge | Histogram

_CLI_HEAD = """\
# The headrace command

Settings come from `pipeline.yaml` and the environment ([settings](settings.md)). This page is what `--help` prints;
`make docs` writes it.
"""

_METRICS_HEAD = """\
# Metrics

Each worker serves these at `/metrics` on its HTTP port (`worker.http_port`), beside `/livez` and `/readyz`. Durations
are in seconds. Histograms have the usual `_bucket`, `_sum` and `_count` series. `make docs` writes this page.

| metric | kind | labels | |
|---|---|---|---|
"""


def cli_page() -> str:
    """docs/cli.md: the help of every command, in the order of ``headrace --help``."""
    with click.Context(cli, info_name="headrace", terminal_width=WIDTH, **cli.context_settings) as context:
        parts = [_CLI_HEAD, _block(cli.get_help(context))]
        for name in COMMANDS:
            command = cli.get_command(context, name)
            assert command is not None
            parts += _command_parts(name, command, context, depth=2)
    return "\n".join(parts)


def _command_parts(name: str, command: click.Command, parent: click.Context, depth: int) -> Iterator[str]:
    with click.Context(command, parent, name) as context:
        yield f"{'#' * depth} {context.command_path}\n"
        yield _block(command.get_help(context))
        if isinstance(command, click.Group):
            for inner in command.list_commands(context):
                subcommand = command.get_command(context, inner)
                assert subcommand is not None
                yield from _command_parts(inner, subcommand, context, depth + 1)


def _block(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```\n"


def metrics_page() -> str:
    """docs/metrics.md: a table of every metric."""
    return _METRICS_HEAD + "".join(f"{metric_row(metric)}\n" for metric in metrics.ALL)


def metric_row(metric: Metric) -> str:
    """A metric's line in the table."""
    described = next(iter(metric.describe()))
    name = f"{described.name}_total" if described.type == "counter" else described.name
    labels = ", ".join(f"`{label}`" for label in metric._labelnames)  # prometheus_client has no public word for it
    return f"| `{name}` | {described.type} | {labels} | {inspect.cleandoc(described.documentation)} |"


GENERATED: dict[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "exit-codes.md": exit_codes.page,
    "helm.md": helm_page.page,
    "metrics.md": metrics_page,
    "pipeline.schema.json": settings_reference.schema,
    "schemas.md": schema_pages.page,
    "settings.md": settings_reference.page,
}
"""File in docs/ → what writes it."""


def main() -> None:
    """Write every generated page."""
    for name, generate in GENERATED.items():
        (DOCS / name).write_text(generate())


if __name__ == "__main__":
    main()
