"""``headrace demo-resilience`` as a user runs it: what it says, and that it leaves nothing behind."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, Page, read
from tests.integration.demos import DEMO_SECONDS, Demo

LAST_LINE = re.compile(
    r"demo-resilience: sent=(\d+) results=(\d+) retried=14 breaker=(closed>open>half_open>(?:open>half_open>)*closed) "
    r"dead_letters=12 redriven=10 missing=0 duplicates=0"
)

SHOWN = Page(DOCS / "resilience.md", read(DOCS / "resilience.md").text.partition("\n## By hand")[0])
VARYING = (
    (r"(?<=MODEL_REJECTED) +infer +photos +\w+", " infer photos MODEL"),  # its fallback's, if the breaker is open again
    (r"(open>half_open>)+", "open>half_open>"),
    (r"[^\x00-\x7f]+", "BAR"),
    (r"\d+(\.\d+)?", "0"),
    (r"\s+", " "),
)
"""What depends on the time and on how quick the machine is, and what stands for it: times, counts, bars, columns."""


def shape(line: str) -> str:
    """A line of the demo's without what varies from run to run."""
    for pattern, general in VARYING:
        line = re.sub(pattern, general, line)
    return line.strip()


def shapes(text: str) -> set[str]:
    return {shape(line) for line in text.splitlines()}


@pytest.mark.timeout(300)
def test_demo_of_resilience_shows_all_three_and_accounts_for_every_event(tmp_path: Path) -> None:
    with Demo(tmp_path, "demo-resilience", "--seed", "3") as demo:
        assert demo.process.wait(DEMO_SECONDS) == 0, demo.output
    found = LAST_LINE.fullmatch(demo.output.splitlines()[-1])
    assert found is not None, demo.output
    sent, results = int(found[1]), int(found[2])
    assert sent == results + 2  # the broken photos
    for expected in (
        r"\d+ put off to resilience-demo\.retry\.2s",
        r"\d+ put off to resilience-demo\.retry\.8s",
        r"\d+ answered, at attempt \d",
        r"breaker of photo_labels: open",
        r"breaker of photo_labels: half_open",
        r"breaker of photo_labels: closed",
        r"NO_ROUTE +route +6 +0 ",  # before the redrive
        r"NO_ROUTE +route +6 +6 ",  # and after it
        r"RETRIES_EXHAUSTED +infer +amounts +exchange +4 +4 ",
        r"MODEL_REJECTED +infer +photos +\w+ +2 +0 ",
        r"redrive: state=complete redriven=10",
    ):
        assert re.search(expected, demo.output), (expected, demo.output)
    blocks = "".join(SHOWN.blocks("console"))
    assert "$ headrace dlq stats" in blocks
    assert shapes(blocks) - shapes(demo.output) == set(), "docs/resilience.md shows what the demo no longer prints"
    figures = json.loads((tmp_path / "build" / "demo-resilience.json").read_text())
    assert (figures["sent"], figures["results"], figures["retried"]) == (sent, results, 14)
    assert (figures["passed"], figures["findings"], figures["worker_crashes"]) == (True, [], 0)
    assert figures["breaker"] == found[3].split(">")
    by = figures["answered_by"]
    assert sum(by.values()) == results
    assert (by["exchange"], by["audio_vad"]) == (14, 6)
    assert min(by["photo_labels"], by["image_jpeg"]) >= 6
    assert not (tmp_path / "build" / "demo-resilience-logs").exists()
    assert demo.leftovers() == []


@pytest.mark.timeout(300)
def test_interrupted_demo_of_resilience_leaves_nothing_behind(tmp_path: Path) -> None:
    with Demo(tmp_path, "demo-resilience") as demo:
        demo.wait_for("put off to")
        demo.interrupt()
