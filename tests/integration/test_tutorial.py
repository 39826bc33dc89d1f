"""docs/tutorial.md, followed to the letter in an empty folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, read
from tests.integration.followed import Reader

PAGE = read(DOCS / "tutorial.md")


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    made = Reader(tmp_path)
    yield made
    made.run("headrace down --purge")


@pytest.mark.usefixtures("stack")  # so that everything is cached
@pytest.mark.timeout(600)
def test_tutorial_does_what_it_says(reader: Reader) -> None:
    calls = [
        int(re.findall(r"count ([\d,]+)", output)[0].replace(",", ""))
        for command, output in reader.follow(PAGE)
        if command == "headrace metrics batch_records"
    ]
    assert reader.seen > 20
    one_by_one, in_batches = calls  # the page draws its conclusion from these
    assert one_by_one >= 400
    assert in_batches < 100
