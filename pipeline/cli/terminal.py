"""What stdout is, lines on it in colour if it is a terminal, and questions."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Collection, Sequence

import click

from headrace.pipeline.tables import table


def width() -> int | None:
    """Characters a line of the terminal that stdout is; None if it is none: nothing is to be cut then."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def confirmed(question: str) -> bool:
    """Whether the user says yes; asked on stderr.

    Raises:
        click.UsageError: nobody is there to be asked.
    """
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on: give --yes, or --dry-run to see what would be done")
    return click.confirm(question, err=True)


def styled(text: str, **style: bool | str) -> str:
    """In colour where colour is wanted (see no-color.org)."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **style)  # type: ignore[arg-type]


def print_table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], *, bad: Sequence[bool] = (), right: Collection[int] = ()
) -> None:
    """A whole table, its titles dim, the rows that are bad in red; ``right`` are the columns of numbers."""
    head, *lines = table(titles, rows, width=width(), right=right)
    click.echo(styled(head, dim=True))
    for number, line in enumerate(lines):
        click.echo(styled(line, fg="red") if number < len(bad) and bad[number] else line)
