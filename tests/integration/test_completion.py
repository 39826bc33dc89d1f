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


class Shell:
    """Bash, with ``headrace`` on the path, installed or not, and a pipeline.yaml in the current folder."""

    def __init__(self, folder: Path) -> None:
        script = folder / "bin" / "headrace"
        script.parent.mkdir()
        script.write_text(f"#!{sys.executable}\nfrom headrace.pipeline.cli import main\nmain()\n")
        script.chmod(0o755)
        (folder / "pipeline.yaml").write_text(
            "routes: [{name: captions, model: captioner}, {name: calls, model: listener}]\n"
        )
        path = os.pathsep.join([str(script.parent), os.environ["PATH"]])
        root = str(Path(__file__).resolve().parents[2])
        self._environment = {**os.environ, "PATH": path, "PYTHONPATH": root, "HEADRACE_HOME": str(folder / "home")}
        self._folder = folder
        self._completion = self._run("headrace completion bash")

    def _run(self, script: str) -> str:
        done = subprocess.run(
            [str(BASH), "--norc", "-c", script],
            capture_output=True,
            text=True,
            env=self._environment,
            cwd=self._folder,
            timeout=60,
            check=False,
        )
        assert done.stderr == ""
        return done.stdout

    def offered(self, *words: str) -> list[str]:
        """What it offers for the last of the words, as it fills COMPREPLY."""
        array = " ".join(f"'{word}'" for word in words)
        script = (
            f"{self._completion}\n"
            f"COMP_WORDS=({array}) COMP_CWORD={len(words) - 1}\n"
            f"_headrace_completion headrace '{words[-1]}' '{words[-2]}'\n"
            'printf "%s\\n" "${COMPREPLY[@]}"\n'
        )
        return self._run(script).split()


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("shell"))


@pytest.mark.skipif(BASH is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("headrace", "t"), ["tail", "topics"]),
        (("headrace", "topics", ""), ["apply", "create", "diff", "plan"]),
        (("headrace", "send", "--model"), ["--model", "--model-version"]),
        (("headrace", "send", "-c", "pipeline.yaml", "--model", ""), ["captioner", "listener"]),
        (("headrace", "tail", "-c", "pipeline.yaml", "--route", "c"), ["calls", "captions"]),
        (("headrace", "models", "-c", "pipeline.yaml", "show", ""), ["captioner", "listener"]),
        (("headrace", "tail", "--modality", "V"), ["VIDEO"]),
        (("headrace", "completion", ""), ["bash", "fish", "zsh"]),
        (("headrace", "tail", "-c", "nowhere.yaml", "--route", ""), []),
    ],
)
def test_bash_completes(shell: Shell, words: tuple[str, ...], expected: list[str]) -> None:
    assert sorted(shell.offered(*words)) == sorted(expected)


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
