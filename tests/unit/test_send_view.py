from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.connectors.kafka.producer import DeliveryReport
from headrace.pipeline.cli import send_view
from headrace.pipeline.cli.deliveries import Delivered
from headrace.pipeline.cli.send_view import View, size
from headrace.pipeline.outcomes import Outcome
from headrace.pipeline.records import DeadLetter, InferenceResult, Provenance, SourceRecord, Timings

WHERE = Provenance("requests", 0, 7, 0)
RECORD = SourceRecord(Provenance("out", 1, 3, 0), None, b"", ())
RESULT = Outcome(RECORD, InferenceResult("id", "OK", (), WHERE, Timings(0, 0, 0), 1, "w", 0))
LETTER = Outcome(RECORD, DeadLetter(None, b"", (), WHERE, "route", "NO_ROUTE", "none", 1, 0, 0, "w", "id"))


class KeptBar:
    """Keeps what it is told to show."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.complaints: list[str] = []
        self.shown: tuple[Any, ...] = ()

    def update(self, sent: int, sent_bytes: int, total: int | None, rate: float | None, note: str) -> None:
        self.shown = (sent, sent_bytes, total, note)

    def say(self, line: str) -> None:
        self.lines.append(line)

    def complain(self, line: str) -> None:
        self.complaints.append(line)

    def stop(self) -> None:
        """Nothing to stop."""


class SteppingClock:
    """A tenth of a second goes by with each look at it."""

    def __init__(self) -> None:
        self._now = 100.0

    def monotonic(self) -> float:
        self._now += 0.1
        return self._now


@pytest.fixture
def bar(monkeypatch: pytest.MonkeyPatch) -> KeptBar:
    monkeypatch.setattr(send_view, "time", SteppingClock())
    return KeptBar()


def delivered(number: int) -> Delivered:
    return Delivered(f"id-{number}", "a.jpg", b"k\xff", 1500, 0.0, DeliveryReport("requests", 0, number, 9))


def view(bar: KeptBar, *, as_json: bool = False, positions: bool = False, total: int | None = None) -> View:
    return View("requests", as_json=as_json, positions=positions, bar=bar, total=total)


def test_positions_are_told_if_so_wished(bar: KeptBar) -> None:
    view(bar, positions=True).delivered(delivered(7))
    view(bar).delivered(delivered(8))
    assert bar.lines == ["sent to requests:0:7"]


def test_json_has_an_object_for_each_event_and_outcome(bar: KeptBar) -> None:
    shown = view(bar, as_json=True)
    shown.delivered(delivered(7))
    shown.settled(RESULT, 0.5)
    shown.settled(LETTER, 0.5)
    sent, result, letter = map(json.loads, bar.lines)
    assert sent == {
        "kind": "sent", "id": "id-7", "topic": "requests", "partition": 0, "offset": 7, "timestamp_ms": 9,
        "key": "k\\xff", "origin": "a.jpg",
    }  # fmt: skip
    assert (result["kind"], letter["kind"]) == ("result", "dead_letter")


def test_summary_says_how_many_how_fast_and_what_was_left_out(bar: KeptBar) -> None:
    shown = view(bar, total=9)
    for number in range(4):
        shown.delivered(delivered(number))
    for name in ("notes.txt", "more.txt"):
        shown.skipped(name, "neither this nor that")
    shown.left_out("line 3: wrong")
    shown.settled(RESULT, 0.1)
    shown.settled(LETTER, 0.1)
    assert shown.summary(waited=True, unconfirmed=2) == [
        "sent 4 events (6.0 kB) to requests in 0.4 s, 10.0/s",
        "2 more were on their way: the broker may have them",
        "skipped 2 files: neither this nor that (the first: notes.txt)",
        "left out 1 that could not be sent",
        "answered: 1 results, 1 dead letters",
    ]
    assert bar.complaints == ["left out: line 3: wrong"]
    assert bar.shown == (4, 6000, 6, "2 answered")
    assert (shown.bad, shown.dead_letters) == (1, 1)


def test_summary_of_a_moment_claims_no_rate(bar: KeptBar) -> None:
    shown = view(bar)
    shown.delivered(delivered(0))
    assert shown.summary(waited=False) == ["sent 1 event (1.5 kB) to requests in 0.1 s"]


def test_dead_letter_says_how_to_look_at_it(bar: KeptBar) -> None:
    view(bar).settled(LETTER, 0.1)
    assert bar.lines == ["dead letter of requests:0:7: route/NO_ROUTE: none", "  headrace dlq show out:1:3"]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_500_000, "2.5 MB"), (12_345_678_901, "12,345.7 MB")],
)
def test_sizes_are_told_in_decimal_units(count: int, expected: str) -> None:
    assert size(count) == expected
