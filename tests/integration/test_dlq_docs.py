"""docs/dead-letters.md, followed to the letter in an empty folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.pipeline.cli.dlq_stats import TITLES
from tests.docs.pages import DOCS, read
from tests.integration.followed import Reader

PAGE = read(DOCS / "dead-letters.md")
STATS = next(PAGE.blocks("text"))
"""What stands under a command rather than beside it: its bar depends on how fast the machine is."""


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    made = Reader(tmp_path)
    yield made
    made.run("headrace down --purge")


@pytest.mark.usefixtures("stack")  # so that everything is cached
@pytest.mark.timeout(600)
def test_page_about_dead_letters_does_what_it_says(reader: Reader) -> None:
    page = replace(PAGE, text=PAGE.text.replace(f"```text\n{STATS}```\n", ""))
    printed = dict(reader.follow(page))
    assert reader.seen >= 15
    head, row, *feet = STATS.splitlines()
    assert [each.strip() for each in re.split(r"\s{2,}", head)] == list(TITLES)
    stats = printed["headrace dlq stats"].splitlines()
    assert stats[0].split() == head.split()
    assert stats[1].split()[:4] == row.split()[:4]
    assert [re.sub(r"\d+", "0", line) for line in stats[2:]] == [re.sub(r"\d+", "0", line) for line in feet]
    assert printed["headrace dlq list --max 1"].count("(redriven ") == 1
