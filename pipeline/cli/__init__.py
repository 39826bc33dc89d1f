"""The ``headrace`` command: one file a subcommand, imported only when it is called."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headrace import __version__
from headrace.pipeline.errors import HeadraceError
from headrace.pipeline.secrets import masked

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS: dict[str, str] = {
    "demo": "Run the main job end to end on the embedded stack, with a worker killed on the way.",
    "replay-demo": "Try a model's next version on history, and see a gate refuse it, on the embedded stack.",
    "demo-resilience": "See retries, a breaker, and dead letters redriven, on the embedded stack.",
    "up": "Start the embedded stack: Kafka, schema registry, Triton, topics and workers.",
    "status": "Show what of the embedded stack is running.",
    "down": "Stop the embedded stack.",
    "doctor": "Check this machine and say how to mend what is missing.",
    "worker": "Run one worker.",
    "send": "Send events and, with --wait, print their results.",
    "tail": "Print results as they are committed.",
    "dlq": "Look at dead letters, count them by reason, try them again, delete them.",
    "routes": "List the routes, and say which of them an event would take, and why.",
    "models": "Show what Triton serves, and whether routes can use it.",
    "topics": "Show the topics that the settings name; plan or make changes to them.",
    "acls": "Print the rights on Kafka that a worker, or another, needs; or give them.",
    "offsets": "Show what the group has committed, and what is done above that.",
    "replay": "Answer a range of history again, into a run of its own.",
    "evaluate": "Compare a replay's answers with live's and with labels; report, and judge by a gate.",
    "runs": "List, show and remove replays.",
    "metrics": "Print what workers measure.",
    "completion": "Print the script that makes bash, zsh or fish complete commands and names.",
    "config": "Check a pipeline.yaml, print the settings in force or their JSON Schema.",
}
"""Subcommand → its line in ``headrace --help``. Each lives in ``headrace.pipeline.cli.<name>`` (``_`` for ``-``)
as ``command``."""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"headrace.pipeline.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """As click's, without importing every command for its line of help."""
        from click.shell_completion import CompletionItem

        found = [CompletionItem(name, help=line) for name, line in COMMANDS.items() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="headrace")
def cli() -> None:
    """Kafka-native streaming inference: Avro events in, Triton results out, exactly once."""


def main() -> None:
    """Console entry point. A HeadraceError is one line on stderr and its exit code, never a traceback.

    So is what the system refuses: a folder that cannot be written, a full disk.
    """
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except HeadraceError as error:
        click.echo(f"headrace: {masked(str(error))}", err=True)
        sys.exit(getattr(error, "exit_code", 1))
    except OSError as error:
        click.echo(f"headrace: {_refusal(error)}", err=True)
        sys.exit(1)
    except Exception:  # noqa: BLE001 - as Python itself would, but for secrets
        click.echo(masked(traceback.format_exc()), err=True, nl=False)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _refusal(error: OSError) -> str:
    if not isinstance(error.filename, str):
        return str(error)
    from headrace.connectors.embedded.paths import folder_variable  # not needed when all goes well

    variable = folder_variable(Path(error.filename))
    hint = f" (mend that, or set {variable} to another folder)" if variable else ""
    return f"{error.filename}: {error.strerror}{hint}"
