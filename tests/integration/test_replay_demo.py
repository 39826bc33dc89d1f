"""``headrace replay-demo`` as a user runs it, and its page of the documentation, followed by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, read
from tests.integration.demos import DEMO_SECONDS, Demo
from tests.integration.followed import Reader

EVENTS = "400"
"""Fewer than people have; enough for each camera to have 20 photos with a label."""
LAST_LINE = re.compile(
    r"replay-demo: replayed=400 resumed=2 duplicates=0 missing=0 gate_before=fail slice=source:cameras/hall "
    r"gate_after=pass report=build/replay-demo/before/report\.html"
)
PAGE = read(DOCS / "replay-walkthrough.md")
SHORTER = {"--only-files .": f"--only-files . --events {EVENTS}", "--rate 50": "--rate 20", "KILL 30": "KILL 12"}
"""So that the replay is killed as far on as on the page."""


@pytest.mark.timeout(600)
def test_replay_demo_refuses_a_version_for_one_camera_and_takes_the_next(tmp_path: Path) -> None:
    with Demo(tmp_path, "replay-demo", "--events", EVENTS) as demo:
        assert demo.process.wait(2 * DEMO_SECONDS) == 0, demo.output
    assert LAST_LINE.fullmatch(demo.output.splitlines()[-1]), demo.output
    assert demo.output.count("SIGKILL, after") == 2
    assert demo.leftovers() == []
    out = tmp_path / "build" / "replay-demo"
    accuracy = {name: overall_and_hall(out / name / "metrics.json") for name in ("before", "after")}
    assert accuracy["before"][0] > -0.05  # on the whole hardly anything is to be seen
    assert accuracy["before"][1] < -0.2
    assert min(accuracy["after"]) > 0
    for name in accuracy:
        assert "cameras/hall" in (out / name / "report.html").read_text()
    assert not (out / "logs").exists()


def overall_and_hall(metrics: Path) -> tuple[float, float]:
    """How much better than live the photos' labels are: all of them, and the upside-down camera's."""
    hall = {"by": "source", "value": "cameras/hall"}
    found = [each for each in json.loads(metrics.read_text())["measures"] if each["name"] == "accuracy"]
    whole, slice_ = (next(each for each in found if each["slice"] == of) for of in (None, hall))
    return whole["difference"]["value"], slice_["difference"]["value"]


@pytest.mark.parametrize("moment", ["headrace send", "headrace replay --resume"])
@pytest.mark.timeout(300)
def test_interrupted_replay_demo_leaves_nothing_behind(tmp_path: Path, moment: str) -> None:
    with Demo(tmp_path, "replay-demo", "--events", EVENTS) as demo:
        demo.wait_for(moment)
        demo.interrupt()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    made = Reader(tmp_path, SHORTER)
    yield made
    made.run("headrace down --purge")


@pytest.mark.usefixtures("stack")  # so that everything is cached
@pytest.mark.timeout(600)
def test_walkthrough_does_what_it_says(reader: Reader) -> None:
    outputs = dict(reader.follow(PAGE))
    assert reader.seen > 20
    ended = [output for command, output in outputs.items() if command.startswith("headrace replay ")]
    assert [re.findall(r"results=(\d+) dead_letters=(\d+) resumed=(\d+)", output) for output in ended] == [
        [(EVENTS, "0", "1")],  # that it was killed before is why
        [(EVENTS, "0", "0")],
    ]
