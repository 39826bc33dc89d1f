"""The resilience demo's files, events and accounts: what counts as passed, and what does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.pipeline.breaker import BreakerState
from headrace.pipeline.demo import assets
from headrace.pipeline.demo.check import Position
from headrace.pipeline.demo.resilience import scene
from headrace.pipeline.demo.resilience.account import Account, Count, Sent
from headrace.pipeline.demo.resilience.breaker_watch import BreakerWatch, is_round
from headrace.pipeline.demo.resilience.events import FATES, Kind, Planned, Planner
from headrace.pipeline.demo.resilience.outcome import Report
from headrace.pipeline.envelope import check_request
from headrace.pipeline.records import InferenceResult, Modality, PartOutput, Provenance, Timings
from headrace.pipeline.settings_file import load_settings

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN

# --- the breaker


def served(counts: Mapping[str, int], route: str = scene.PHOTOS) -> str:
    head = (
        "# HELP headrace_breaker_changes_total Breakers.\n"
        "# TYPE headrace_breaker_changes_total counter\n"
        'headrace_breaker_state{model="photo_labels",route="photos"} 0.0\n'
    )
    labels = 'headrace_breaker_changes_total{{model="photo_labels",route="{}",state="{}"}} {}.0\n'
    return head + "".join(labels.format(route, state, count) for state, count in counts.items())


def watch() -> BreakerWatch:
    return BreakerWatch(scene.PHOTOS, scene.PHOTO_MODEL)


def test_breaker_is_followed_by_the_changes_that_are_counted() -> None:
    breaker = watch()
    assert breaker.look("") == []
    assert breaker.look(served({"open": 1})) == [OPEN]
    assert breaker.look(served({"open": 1})) == []
    assert breaker.look(served({"open": 1, "half_open": 1})) == [HALF_OPEN]
    assert breaker.look(served({"open": 1, "half_open": 1, "closed": 1})) == [CLOSED]
    assert breaker.states == [CLOSED, OPEN, HALF_OPEN, CLOSED]


@pytest.mark.parametrize(
    ("counts", "taken"),
    [
        ({"open": 1, "half_open": 1, "closed": 1}, [OPEN, HALF_OPEN, CLOSED]),
        ({"open": 2, "half_open": 2, "closed": 1}, [OPEN, HALF_OPEN, OPEN, HALF_OPEN, CLOSED]),
        ({"open": 2, "half_open": 1}, [OPEN, HALF_OPEN, OPEN]),
        ({"open": 2, "half_open": 1, "closed": 1}, [OPEN, HALF_OPEN, CLOSED, OPEN]),
    ],
)
def test_several_changes_between_two_looks_are_put_in_an_order_that_is_possible(
    counts: dict[str, int], taken: list[BreakerState]
) -> None:
    assert watch().look(served(counts)) == taken


def test_other_routes_breakers_are_no_matter() -> None:
    assert watch().look(served({"open": 1}, "others")) == []


def test_changes_that_no_breaker_makes_are_refused() -> None:
    with pytest.raises(ValueError, match="a breaker that is closed cannot become half_open"):
        watch().look(served({"half_open": 1}))


@pytest.mark.parametrize(
    ("states", "so"),
    [
        ([CLOSED, OPEN, HALF_OPEN, CLOSED], True),
        ([CLOSED, OPEN, HALF_OPEN, OPEN, HALF_OPEN, CLOSED], True),
        ([CLOSED], False),
        ([CLOSED, OPEN, HALF_OPEN], False),
        ([CLOSED, OPEN, CLOSED], False),
        ([OPEN, HALF_OPEN, CLOSED], False),
    ],
)
def test_breaker_went_round(states: list[BreakerState], so: bool) -> None:
    assert is_round(states) is so


# --- files and events


def test_scene_has_a_route_for_all_but_sounds_until_the_missing_one_is_added(tmp_path: Path) -> None:
    config = tmp_path / scene.CONFIG
    config.write_text(scene.PIPELINE)
    matched = {modality for route in load_settings(config, {}).routes for modality in route.match.modality}
    assert matched == {Modality.TEXT, Modality.TENSOR, Modality.IMAGE}
    config.write_text(scene.PIPELINE + scene.ROUTE)
    assert load_settings(config, {}).routes[-1].model == scene.SOUND_MODEL


def planned(seed: int) -> list[Planned]:
    planner = Planner(seed, assets.load())
    return [
        planner.text(1),
        planner.photo(1),
        planner.broken_photo(1),
        planner.sound(1),
        planner.amount(Kind.AMOUNT, 1),
        planner.amount(Kind.STUCK, 1),
    ]


def test_same_seed_makes_the_same_events_of_every_kind() -> None:
    assert planned(3) == planned(3)
    assert planned(3) != planned(4)
    assert {event.kind for event in planned(3)} == set(Kind) == set(FATES)
    for event in planned(3):
        check_request(event.request)


# --- account


def position(kind: Kind) -> Position:
    return Position("requests", 0, [*Kind].index(kind))


def result(kind: Kind, model: str | None = None) -> InferenceResult:
    output = PartOutput("part", "route", model or min(FATES[kind].models), "1")
    at = Provenance(*position(kind), 0)
    return InferenceResult(kind.name, "OK", (output,), at, Timings(0, 0, 0), 1, "worker", 0)


def one_of_each() -> Account:
    """As it has to be."""
    account = Account()
    for kind, fate in FATES.items():
        account.sent(Sent(position(kind), kind, kind.name))
        for _ in range(fate.put_off):
            account.put_off(position(kind))
        if fate.code:
            account.dead_letter(position(kind), fate.code)
        if fate.redriven:
            account.redriven(position(kind))
        if fate.models:
            account.result(position(kind), result(kind))
    return account


def test_every_event_with_its_fate_passes() -> None:
    count = one_of_each().count()
    assert count.passed, count.findings
    assert (count.sent, count.results, count.retried) == (6, 5, 2)
    assert (count.dead_letters, count.redriven, count.missing, count.duplicates) == (3, 2, 0, 0)


@pytest.mark.parametrize(
    ("spoil", "missing", "duplicates"),
    [
        (lambda account: account.sent(Sent(Position("requests", 1, 0), Kind.TEXT, "lost")), 1, 0),
        (lambda account: account.result(position(Kind.SOUND), result(Kind.SOUND)), 0, 1),
        (lambda account: account.dead_letter(position(Kind.STUCK), "RETRIES_EXHAUSTED"), 0, 1),
        (lambda account: account.dead_letter(position(Kind.BROKEN), "MODEL_REJECTED"), 0, 1),
        (lambda account: account.dead_letter(position(Kind.TEXT), "NO_ROUTE"), 0, 1),
        (lambda account: account.result(Position("requests", 9, 9), result(Kind.TEXT)), 0, 1),
        (lambda account: account.redriven(position(Kind.SOUND)), 0, 0),
        (lambda account: account.redriven(position(Kind.BROKEN)), 1, 0),
        (lambda account: account.put_off(position(Kind.PHOTO)), 0, 0),
        (lambda account: account.put_off(Position("requests", 9, 9)), 0, 0),
    ],
)
def test_whatever_is_amiss_is_found(spoil: Callable[[Account], None], missing: int, duplicates: int) -> None:
    account = one_of_each()
    spoil(account)
    count = account.count()
    assert not count.passed
    assert (count.missing, count.duplicates) == (missing, duplicates)
    assert count.findings


@pytest.mark.parametrize("kind", [Kind.SOUND, Kind.STUCK])
def test_event_that_was_redriven_and_not_answered_is_missing(kind: Kind) -> None:
    account = Account()
    account.sent(Sent(position(kind), kind, kind.name))
    account.dead_letter(position(kind), FATES[kind].code)
    account.redriven(position(kind))
    assert account.count().missing == 1


def test_dead_letter_that_was_not_redriven_is_told_although_the_event_was_answered() -> None:
    account = Account()
    account.sent(Sent(position(Kind.SOUND), Kind.SOUND, Kind.SOUND.name))
    account.dead_letter(position(Kind.SOUND), "NO_ROUTE")
    count = account.count()
    assert any("redriven 0 times, not 1" in finding for finding in count.findings)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (result(Kind.TEXT, "image_jpeg"), "answered by image_jpeg"),
        (replace(result(Kind.TEXT), request_id="other"), "its result is of request other, not TEXT"),
        (replace(result(Kind.TEXT), outputs=()), "answered by nobody"),
    ],
)
def test_result_that_is_not_the_events_is_found(wrong: InferenceResult, said: str) -> None:
    account = Account()
    account.sent(Sent(position(Kind.TEXT), Kind.TEXT, Kind.TEXT.name))
    account.result(position(Kind.TEXT), wrong)
    count = account.count()
    assert [finding for finding in count.findings if said in finding]
    assert not count.passed


# --- verdict

COUNT = Count(
    sent=300,
    results=298,
    retried=12,
    dead_letters=12,
    redriven=10,
    missing=0,
    duplicates=0,
    answered_by={scene.PHOTO_MODEL: 30, scene.FALLBACK: 12},
    findings=(),
)
GOOD = Report(COUNT, (CLOSED, OPEN, HALF_OPEN, CLOSED), 0, 7, 60.0)


def test_last_line_has_the_figures() -> None:
    assert GOOD.passed
    assert GOOD.last_line() == (
        "demo-resilience: sent=300 results=298 retried=12 breaker=closed>open>half_open>closed dead_letters=12 "
        "redriven=10 missing=0 duplicates=0"
    )


@pytest.mark.parametrize(
    "bad",
    [
        replace(GOOD, count=replace(COUNT, missing=1)),
        replace(GOOD, count=replace(COUNT, duplicates=1)),
        replace(GOOD, count=replace(COUNT, findings=("something",))),
        replace(GOOD, count=replace(COUNT, retried=0)),
        replace(GOOD, count=replace(COUNT, redriven=0)),
        replace(GOOD, count=replace(COUNT, redriven=12)),
        replace(GOOD, count=replace(COUNT, answered_by={scene.PHOTO_MODEL: 42})),
        replace(GOOD, breaker=(CLOSED, OPEN, HALF_OPEN)),
        replace(GOOD, crashes=1),
    ],
)
def test_whatever_is_not_as_it_must_be_fails_the_demo(bad: Report) -> None:
    assert not bad.passed
