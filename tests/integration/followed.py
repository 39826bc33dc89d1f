"""A page of the documentation, followed to the letter: files written, commands run, what it shows seen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.docs.pages import Page

_FILE = re.compile(r"# file: (\S+)\n(.*)", re.DOTALL)
_NUMBER = re.compile(r"\d[\d,.]*")
COMMAND_SECONDS = 300


def steps(page: Page) -> Iterator[tuple[str, str]]:
    """Language and text of each fenced block, in order."""
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", page.text, re.MULTILINE | re.DOTALL):
        yield match[1], match[2]


def commands(block: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a console block, and the lines that it is said to print."""
    for piece in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, *shown = piece.splitlines()
        yield command, shown


def pattern(line: str) -> re.Pattern[str]:
    """The line with any numbers in place of its own, and any folder in place of the reader's."""
    general = _NUMBER.sub("0", re.sub(r"/srv/\S*", "FOLDER", line))
    words = [re.escape(word).replace("0", r"\d[\d,.]*").replace("FOLDER", r"/\S+") for word in general.split()]
    return re.compile(r"\s+".join(words))


class Reader:
    """Follows a page in a folder.

    Args:
        folder: where.
        changes: of the page's commands: what to write in the place of what, so that less has to be waited for.
    """

    def __init__(self, folder: Path, changes: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._changes = changes or {}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, "HEADRACE_HOME": str(folder.with_name(f"{folder.name}.state"))}
        self.seen = 0
        """Lines that were shown on the page, and printed."""

    def follow(self, page: Page) -> Iterator[tuple[str, str]]:
        """Each command as it stands on the page, and what it printed."""
        for language, block in steps(page):
            if language != "console":
                named = _FILE.fullmatch(block)
                assert named, f"a block of {language} without its file's name:\n{block}"
                (self._folder / named[1]).write_text(named[2])
                continue
            for command, shown in commands(block):
                output = self.run(command)
                self._hold_against(shown, command, output)
                yield command, output

    def _hold_against(self, shown: list[str], command: str, output: str) -> None:
        printed = [line.strip() for line in output.splitlines()]
        for line in shown:
            if line != "...":
                told = any(pattern(line).fullmatch(each) for each in printed)
                assert told, f"$ {command}\n{output}\n\nthe page shows: {line}"
                self.seen += 1

    def run(self, command: str) -> str:
        for old, new in self._changes.items():
            command = command.replace(old, new)
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_SECONDS,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}"
        return done.stdout
