"""The shell's own machinery, with the script that ``headrace completion`` prints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from headrace.pipeline.cli import COMMANDS, cli

BASH = shutil.which("bash")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With ``headrace`` on the path, whether it is installed or not, and a pipeline.yaml in the current folder."""
    script = tmp_path / "bin" / "headrace"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nfrom headrace.pipeline.cli import main\nmain()\n")
    script.chmod(0o755)
    (tmp_path / "pipeline.yaml").write_text(
        "routes: [{name: captions, model: captioner}, {name: calls, model: listener}]\n"
    )
    path = os.pathsep.join([str(script.parent), os.environ["PATH"]])
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PATH": path, "PYTHONPATH": root, "HEADRACE_HOME": str(tmp_path / "home")}


def offered(environment: dict[str, str], folder: Path, *words: str) -> list[str]:
    """What bash offers for the last of the words, as it fills COMPREPLY."""
    array = " ".join(f"'{word}'" for word in words)
    script = (
        'eval "$(headrace completion bash)"\n'
        f"COMP_WORDS=({array}) COMP_CWORD={len(words) - 1}\n"
        f"_headrace_completion headrace '{words[-1]}' '{words[-2]}'\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        [str(BASH), "--norc", "-c", script],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(BASH is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("headrace", "t"), ["tail", "topics"]),
        (("headrace", "topics", ""), ["create"]),
        (("headrace", "send", "--model"), ["--model", "--model-version"]),
        (("headrace", "send", "-c", "pipeline.yaml", "--model", ""), ["captioner", "listener"]),
        (("headrace", "tail", "-c", "pipeline.yaml", "--route", "c"), ["calls", "captions"]),
        (("headrace", "models", "-c", "pipeline.yaml", "show", ""), ["captioner", "listener"]),
        (("headrace", "tail", "--modality", "V"), ["VIDEO"]),
        (("headrace", "completion", ""), ["bash", "fish", "zsh"]),
        (("headrace", "tail", "-c", "nowhere.yaml", "--route", ""), []),
    ],
)
def test_bash_completes(
    environment: dict[str, str], tmp_path: Path, words: tuple[str, ...], expected: list[str]
) -> None:
    assert sorted(offered(environment, tmp_path, *words)) == sorted(expected)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_of_a_shell_asks_the_command(shell: str) -> None:
    done = CliRunner().invoke(cli, ["completion", shell])
    assert done.exit_code == 0
    assert f"_HEADRACE_COMPLETE={shell}_complete" in done.output


def test_unknown_shell_is_refused() -> None:
    done = CliRunner().invoke(cli, ["completion", "tcsh"])
    assert done.exit_code == 2


def test_commands_are_completed_with_their_line_of_help() -> None:
    found = cli.shell_complete(cli.make_context("headrace", [], resilient_parsing=True), "se")
    assert [(item.value, item.help) for item in found] == [("send", COMMANDS["send"])]
