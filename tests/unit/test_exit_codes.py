"""Every command and every code is in the one table."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import click
import pytest

from headrace.pipeline import cli as commands
from headrace.pipeline.cli import cli
from headrace.pipeline.errors import ConfigError, HeadraceError, SlotTakenError
from headrace.pipeline.exit_codes import GENERAL, OWN, ExitCode, epilog, page


def leaves(command: click.Command, context: click.Context, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """The commands that do something, by the words that call them."""
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from leaves(inner, context, f"{path} {name}".strip())


COMMANDS = dict(leaves(cli, click.Context(cli)))


def errors(kind: type[HeadraceError]) -> Iterator[type[HeadraceError]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from errors(inner)


def test_table_has_every_command_and_no_other() -> None:
    assert set(OWN) == set(COMMANDS)


@pytest.mark.parametrize("code", ExitCode)
def test_code_has_a_general_meaning_and_is_on_the_page(code: ExitCode) -> None:
    assert f"| {code.value} | {GENERAL[code]} |" in page().splitlines()


def test_errors_end_with_codes_of_the_table() -> None:
    for module in pkgutil.iter_modules(commands.__path__):
        importlib.import_module(f"{commands.__name__}.{module.name}")
    codes = {kind: kind.__dict__["exit_code"] for kind in errors(HeadraceError) if "exit_code" in kind.__dict__}
    assert codes[ConfigError] == ExitCode.WRONG_INPUT
    assert codes[SlotTakenError] == ExitCode.SLOT_TAKEN
    own = {kind: code for kind, code in codes.items() if isinstance(code, int)}
    assert set(own.values()) <= set(ExitCode)


@pytest.mark.parametrize("name", ["send", "tail", "topics", "topics create", "models", "models show", "routes try"])
def test_help_ends_with_the_codes_of_the_table(name: str) -> None:
    assert epilog(name)
    assert COMMANDS[name].epilog == epilog(name)
