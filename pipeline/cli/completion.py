"""``headrace completion``: the script that makes a shell complete commands, options, files, routes and models."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from headrace.pipeline.exit_codes import epilog

PROGRAM = "headrace"
VARIABLE = "_HEADRACE_COMPLETE"
"""The environment variable by which a shell asks: click's name for it."""
SHELLS = ("bash", "zsh", "fish")


@click.command(epilog=epilog("completion"))
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the script for a shell.

    \b
    bash  echo 'eval "$(headrace completion bash)"' >> ~/.bashrc
    zsh   echo 'eval "$(headrace completion zsh)"' >> ~/.zshrc
    fish  headrace completion fish > ~/.config/fish/completions/headrace.fish
    """  # noqa: D301 - \b is click's mark for a paragraph not to be rewrapped
    found = get_completion_class(shell)
    assert found is not None, shell
    click.echo(found(context.find_root().command, {}, PROGRAM, VARIABLE).source())
