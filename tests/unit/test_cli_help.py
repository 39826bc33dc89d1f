"""``--help`` reads well at any width, and costs no more than it shows."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from headrace.pipeline.cli import COMMANDS, cli
from tests.unit.test_exit_codes import leaves

PATHS = sorted(path for path, _ in leaves(cli, click.Context(cli)))
HEAVY = {
    *("confluent_kafka", "cv2", "duckdb", "fastavro", "grpc", "matplotlib", "numpy", "pyarrow", "pydantic"),
    *("rich.progress", "scipy", "tritonclient", "yaml"),
}
MINE = ("send", "tail", "topics", "models", "routes", "replay", "evaluate", "completion")


def help_text(path: str, width: int) -> str:
    """As ``headrace PATH --help`` prints it on a terminal of that width."""
    context = click.Context(cli, info_name="headrace", terminal_width=width, **cli.context_settings)
    command: click.Command = cli
    for name in path.split():
        assert isinstance(command, click.Group)
        inner = command.get_command(context, name)
        assert inner is not None
        context, command = click.Context(inner, context, name), inner
    return command.get_help(context)


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("path", PATHS)
def test_help_fits_the_terminal(path: str, width: int) -> None:
    long = [line for line in help_text(path, width).splitlines() if len(line) > width]
    assert long == []


@pytest.mark.parametrize("path", PATHS)
def test_every_option_and_command_says_what_it_is_for(path: str) -> None:
    command: click.Command = cli
    for name in path.split():
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), name) or command
    assert command.help
    assert [option.name for option in command.params if isinstance(option, click.Option) and not option.help] == []


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in MINE)], ids=" ".join)
def test_help_imports_no_client_and_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys\nfrom headrace.pipeline.cli import cli\n"
        f"cli.main({arguments!r}, standalone_mode=False)\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert "Usage: " in done.stdout
    assert HEAVY & set(done.stderr.split()) == set()


def test_help_of_the_whole_lists_every_command() -> None:
    shown = help_text("", 80)
    assert [name for name in COMMANDS if f"\n  {name} " not in shown] == []


def test_json_of_a_group_is_that_of_its_commands() -> None:
    done = CliRunner().invoke(cli, ["routes", "--json", "try", "words"])
    assert json.loads(done.stdout)
    assert done.stdout == CliRunner().invoke(cli, ["routes", "try", "--json", "words"]).stdout
