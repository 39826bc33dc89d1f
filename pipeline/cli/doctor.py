"""``headrace doctor``."""

from __future__ import annotations

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from headrace.connectors.embedded.checks import Check, Outcome, run_checks

_STYLES = {Outcome.OK: "green", Outcome.WARN: "yellow", Outcome.FAIL: "bold red"}


@click.command()
def command() -> int:
    """Check this machine and say how to mend what is missing.

    Ends with 1 if anything fails; a warning is not a failure.
    """
    checks = run_checks()
    console = Console(highlight=False, soft_wrap=True)
    console.print(checks_table(checks))
    for check in checks:
        if check.mend:
            console.print(f"{check.outcome}: {check.name}: {check.found}", markup=False)
            console.print(f"      {check.mend}", markup=False)
    failed = sum(check.outcome is Outcome.FAIL for check in checks)
    console.print(f"{failed} of {len(checks)} checks failed" if failed else "headrace can run here")
    return 1 if failed else 0


def checks_table(checks: tuple[Check, ...]) -> Table:
    """Each check's outcome and what it found."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for check in checks:
        style = _STYLES[check.outcome]
        table.add_row(f"[{style}]{check.outcome}[/]", escape(check.name), escape(check.found))
    return table
