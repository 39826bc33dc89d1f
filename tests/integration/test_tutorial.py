"""docs/tutorial.md, followed to the letter in an empty folder: files written, commands run, what it shows seen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, read

PAGE = read(DOCS / "tutorial.md")
_FILE = re.compile(r"# file: (\S+)\n(.*)", re.DOTALL)
_NUMBER = re.compile(r"\d[\d,.]*")
COMMAND_SECONDS = 240


def steps() -> Iterator[tuple[str, str]]:
    """Language and text of each fenced block, in order."""
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", PAGE.text, re.MULTILINE | re.DOTALL):
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
    """Follows the page in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, "HEADRACE_HOME": str(folder / "state")}

    def write(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text)

    def run(self, command: str) -> str:
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


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    made = Reader(tmp_path)
    yield made
    made.run("headrace down --purge")


@pytest.mark.usefixtures("stack")  # so that everything is cached
@pytest.mark.timeout(600)
def test_tutorial_does_what_it_says(reader: Reader) -> None:
    seen, calls = 0, []
    for language, block in steps():
        if language != "console":
            named = _FILE.fullmatch(block)
            assert named, f"a block of {language} without its file's name:\n{block}"
            reader.write(named[1], named[2])
            continue
        for command, shown in commands(block):
            output = reader.run(command)
            printed = [line.strip() for line in output.splitlines()]
            for line in shown:
                if line != "...":
                    told = any(pattern(line).fullmatch(each) for each in printed)
                    assert told, f"$ {command}\n{output}\n\nthe page shows: {line}"
                    seen += 1
            if command == "headrace metrics batch_records":
                calls.append(int(re.findall(r"count ([\d,]+)", output)[0].replace(",", "")))
    assert seen > 20
    one_by_one, in_batches = calls  # the page draws its conclusion from these
    assert one_by_one >= 400
    assert in_batches < 100
