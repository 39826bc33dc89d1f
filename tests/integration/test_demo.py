"""``headrace demo`` as a user runs it: what it says, and that it leaves nothing behind."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.integration.demos import DEMO_SECONDS, Demo

LAST_LINE = re.compile(
    r"demo: sent=(\d+) results=(\d+) dead_letters=(\d+) duplicates=(\d+) missing=(\d+) "
    r"p50_ms=(\d+\.\d) p99_ms=(\d+\.\d) recovery_s=(\d+\.\d)"
)


@pytest.mark.timeout(300)
def test_demo_with_a_killed_worker_accounts_for_every_event(tmp_path: Path) -> None:
    with Demo(tmp_path, "demo", "--events", "160", "--seconds", "8", "--seed", "3") as demo:
        assert demo.process.wait(DEMO_SECONDS) == 0, demo.output
    found = LAST_LINE.fullmatch(demo.output.splitlines()[-1])
    assert found is not None, demo.output
    sent, results, dead_letters, duplicates, missing = (int(number) for number in found.groups()[:5])
    assert (sent, results + dead_letters, duplicates, missing) == (160, 160, 0, 0)
    assert dead_letters == 7
    assert float(found[8]) > 0
    figures = json.loads((tmp_path / "build" / "demo.json").read_text())
    assert (figures["sent"], figures["results"], figures["dead_letters"]) == (sent, results, dead_letters)
    shown_ms = (float(found[6]), float(found[7]))  # one decimal, the file has three
    assert shown_ms == pytest.approx((figures["p50_ms"], figures["p99_ms"]), abs=0.051)
    assert (figures["passed"], figures["findings"], figures["worker_crashes"]) == (True, [], 0)
    assert figures["recovery_partitions"]
    for expected in (
        "SIGKILL to worker",
        "every partition flows again",
        "espresso",
        "nearest: ",
        "speech ",
        "no speech",
    ):
        assert expected in demo.output
    assert demo.leftovers() == []


@pytest.mark.parametrize("moment", ["starting Kafka", "starting two workers", "SIGKILL to worker", "all answered"])
@pytest.mark.timeout(300)
def test_interrupted_demo_leaves_nothing_behind(tmp_path: Path, moment: str) -> None:
    with Demo(tmp_path, "demo", "--events", "60", "--seconds", "3") as demo:
        demo.wait_for(moment)
        demo.interrupt()
