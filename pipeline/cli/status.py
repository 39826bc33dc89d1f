"""``headrace status``."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from headrace.connectors.embedded.state import ModelState, StackState, read_state


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> int:
    """Show what of the embedded stack is running.

    Ends with 0 if it is ready, every process of it runs and every model of 'headrace up --models' is served as its
    files are now; with 1 if not.
    """
    state = read_state()
    if as_json:
        running = state is not None and state.healthy
        click.echo(json.dumps({"running": running, **(asdict(state) if state else {})}, indent=2))
        return 0 if running else 1
    if state is None:
        click.echo("the embedded stack is not running: 'headrace up' starts it")
        return 1
    if not state.ready:
        click.echo(f"the embedded stack is starting (pid {state.owner_pid})")
        return 1
    console = Console(highlight=False, soft_wrap=True)
    console.print(members_table(state))
    for line in trouble_lines(state):
        console.print(line, markup=False)
    console.print(f"logs and data in {state.data_dir}")
    return 0 if state.healthy else 1


def members_table(state: StackState) -> Table:
    """Each process with its pid, state and address, and each of the user's models with its folder."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for member in state.members:
        colour = {"running": "green", "restarting": "yellow"}.get(member.state, "bold red")
        table.add_row(member.name, f"pid {member.pid}", f"[{colour}]{member.state}[/]", member.endpoint)
    for model in state.models:
        table.add_row(f"model {escape(model.name)}", "", _shown(model), escape(model.folder))
    return table


def _shown(model: ModelState) -> str:
    if model.loading:
        return "[yellow]loading[/]"
    if not model.trouble:
        return "[green]serving[/]"
    return "[yellow]outdated[/]" if model.serving else "[bold red]failed[/]"


def trouble_lines(state: StackState) -> list[str]:
    """What is wrong with processes and models, and why."""
    processes = [f"{member.name} {member.trouble}" for member in state.members if member.trouble]
    models = [
        f"model {model.name} cannot be loaded{' as it is now' if model.serving else ''}: {model.trouble}"
        for model in state.models
        if model.trouble
    ]
    return [*processes, *models]
