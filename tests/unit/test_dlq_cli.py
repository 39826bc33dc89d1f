"""What ``headrace dlq`` is asked, before any server is."""

from __future__ import annotations

import signal
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from headrace.pipeline.cli import cli, terminal
from headrace.pipeline.cli.dlq_options import letter_filters
from headrace.pipeline.cli.interrupts import PatientInterrupts
from headrace.pipeline.exit_codes import ExitCode
from headrace.pipeline.letters import Wanted
from tests.unit.test_cli_help import HEAVY


def chosen(*arguments: str) -> Wanted:
    """What the filters make of a command line."""
    found: list[Wanted] = []

    @click.command()
    @letter_filters
    def command(wanted: Wanted) -> None:
        found.append(wanted)

    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    return found[0]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ((), Wanted()),
        (("--from", "-2h", "--to", "latest"), Wanted(begin="-2h")),
        (("--code", "A", "--code", "B*", "--stage", "infer"), Wanted(codes=("A", "B*"), stages=("infer",))),
        (("--route", "r", "--model", "m", "--id", "i"), Wanted(routes=("r",), models=("m",), ids=("i",))),
        (("--topic", "t", "--pipeline", "p"), Wanted(topics=("t",), pipelines=("p",))),
        (("--position", "a.b-c:3:17"), Wanted(positions=(("a.b-c", 3, 17),))),
    ],
)
def test_filters_are_what_is_wanted(arguments: tuple[str, ...], wanted: Wanted) -> None:
    assert chosen(*arguments) == wanted
    assert wanted.chooses is bool(arguments)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("list", "--position", "a:b"), "say TOPIC:PARTITION:OFFSET"),
        (("show", "a"), "say TOPIC:PARTITION:OFFSET"),
        (("show", "--raw", "--max", "2"), "--raw writes the bytes of one"),
        (("stats", "--follow", "--to", "-1h"), "give no --to"),
        (("redrive", "--rate", "0"), "--rate"),
        (("redrive", "--max", "0"), "--max"),
        (("purge",), "--before"),
        (("purge", "--before", "-1d", "--code", "X"), "deletes from the beginning of a partition"),
        (("purge", "--before", "-1d", "--position", "a:1:2"), "deletes from the beginning of a partition"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(arguments: tuple[str, ...], reason: str) -> None:
    done = CliRunner().invoke(cli, ["dlq", *arguments])
    assert done.exit_code == ExitCode.WRONG_INPUT
    assert reason in " ".join(done.output.split())


@pytest.mark.parametrize("name", ["list", "show", "stats", "redrive", "purge"])
def test_help_imports_no_client_and_nothing_heavy(name: str) -> None:
    script = (
        "import sys\nfrom headrace.pipeline.cli import cli\n"
        f"cli.main(['dlq', {name!r}, '--help'], standalone_mode=False)\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert "Usage: " in done.stdout
    assert HEAVY & set(done.stderr.split()) == set()


def test_where_nobody_can_be_asked_nothing_is_done() -> None:
    answers: list[bool] = []

    @click.command()
    def command() -> None:
        answers.append(terminal.confirmed("sure?"))

    done = CliRunner().invoke(command, input="y\n")
    assert (done.exit_code, answers) == (ExitCode.WRONG_INPUT, [])
    assert "give --yes, or --dry-run" in " ".join(done.output.split())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_waits_for_the_transaction_and_a_second_one_does_not(number: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGTERM)
    done: list[str] = []
    with PatientInterrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt), interrupts.held():  # noqa: PT012 - it is raised at the block's end
            signal.raise_signal(number)
            done.append("the transaction")
        with pytest.raises(KeyboardInterrupt), interrupts.held():  # noqa: PT012 - by the second signal
            signal.raise_signal(number)
            signal.raise_signal(number)
            done.append("what nobody waits for")
    assert done == ["the transaction"]
    assert signal.getsignal(signal.SIGTERM) == before
