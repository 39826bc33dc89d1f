"""``headrace evaluate`` has no verdict where it has found none: code 1 is the gate's alone."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from headrace.pipeline.cli import cli
from headrace.pipeline.cli import evaluate as module
from headrace.pipeline.errors import FatalError, UnavailableError
from headrace.pipeline.exit_codes import ExitCode


def invoke(*arguments: str) -> Result:
    """As the console entry point does it: what a command returns is its exit code."""
    return CliRunner().invoke(cli, ["evaluate", *arguments], standalone_mode=False)


def test_missing_extra_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEEDED", ("click", "no_such_package"))
    done = invoke("r")
    assert done.return_value == ExitCode.WRONG_INPUT
    assert done.output == 'headrace: no_such_package missing: pip install "headrace[evaluate]"\n'


@pytest.mark.parametrize(
    "error", [UnavailableError("Kafka is away"), FatalError("gone"), OSError("no space left"), ValueError("a mistake")]
)
def test_every_error_has_the_code_of_an_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing() -> None:
        raise error

    monkeypatch.setattr(module, "check_extra", failing)
    done = invoke("r")
    assert done.return_value == ExitCode.WRONG_INPUT
    assert str(error) in done.output
    assert ("Traceback" in done.output) is isinstance(error, ValueError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("r", "--junit", "x.xml"), "give a --gate"),
        (("r", "--from", "-2h", "--filter", "type=x"), "--from, --filter: a run's events are its own"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments: tuple[str, ...], message: str) -> None:
    done: Any = invoke(*arguments).exception
    assert isinstance(done, click.UsageError)
    assert message in done.message
    assert done.exit_code == ExitCode.WRONG_INPUT
