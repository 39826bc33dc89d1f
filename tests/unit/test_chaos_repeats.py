"""The chaos suite's events that are sent again: which of them are dropped, and that the checker sees it."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import pytest

from tests.chaos.load import pipeline_settings
from tests.chaos.mix import (
    AFTER_SECONDS,
    MENDED,
    REPEATED,
    TIMES,
    Event,
    Fate,
    Mix,
    events,
    poison_storm,
    schema_variants,
    with_repeats,
)
from tests.chaos.tally import (
    DEAD,
    ONCE,
    RESULT,
    ROUTES,
    SHADOW,
    TWIN,
    WINDOW_SECONDS,
    Again,
    Answered,
    Asked,
    Said,
    Tally,
    Topics,
    Verdict,
)

IN = "in"
RATE = 350.0
WINDOW_MS = 1000 * WINDOW_SECONDS
BAD = "INVALID_INPUT"
ANSWER = (RESULT, TWIN)


def verdict_of(inputs: list[tuple[str, str, int]], outputs: dict[int, tuple[int, ...]]) -> Verdict:
    """Of inputs (id, code, timestamp) in one partition, and the kinds of their outputs by offset."""
    tally = Tally(IN)
    for offset, (once_id, code, sent_ms) in enumerate(inputs):
        tally.add_input(0, offset, Asked(ONCE, code, offset, once_id), sent_ms)
    for place, (offset, kinds) in enumerate(outputs.items()):
        for kind in kinds:
            tally.add_output(kind, 0, place, Said(IN, 0, offset, inputs[offset][1], b"k", offset))
    return tally.verdict()


def test_repeats_inside_the_window_without_an_outcome_are_no_error() -> None:
    inputs = [("a", "", 0), ("b", "", 5), ("a", "", 5), ("a", "", WINDOW_MS)]
    verdict = verdict_of(inputs, {0: ANSWER, 1: ANSWER})
    assert (verdict.errors, verdict.repeats, verdict.dropped) == ({}, 2, 2)


@pytest.mark.parametrize("kinds", [ANSWER, (RESULT,), (SHADOW,), (*ANSWER, SHADOW)])
def test_duplicate_that_is_answered_is_an_error(kinds: tuple[int, ...]) -> None:
    verdict = verdict_of([("a", "", 0), ("a", "", 5)], {0: ANSWER, 1: kinds})
    assert (verdict.errors, verdict.repeats, verdict.dropped) == ({"duplicates_answered": 1}, 1, 0)
    assert verdict.examples["duplicates_answered"][0].startswith("in[0]@1 has ")


def test_first_that_is_dropped_for_its_repeat_is_missing() -> None:
    verdict = verdict_of([("a", "", 0), ("a", "", 5)], {1: ANSWER})
    assert verdict.errors == {"missing": 1, "duplicates_answered": 1}


def test_event_without_any_outcome_is_missing_once() -> None:
    assert verdict_of([("a", "", 0), ("a", "", 5)], {}).errors == {"missing": 1}


@pytest.mark.parametrize(
    "inputs",
    [[("a", "", 0), ("a", "", WINDOW_MS + 1)], [("a", "", WINDOW_MS + 1), ("a", "", 0)], [("a", BAD, 0), ("a", "", 5)]],
)
def test_repeat_of_no_result_in_the_window_is_owed_an_outcome(inputs: list[tuple[str, str, int]]) -> None:
    """It is too late, or the first is a dead letter."""
    first: tuple[int, ...] = (DEAD,) if inputs[0][1] else ANSWER
    verdict = verdict_of(inputs, {0: first, 1: ANSWER})
    assert (verdict.errors, verdict.repeats, verdict.dropped) == ({}, 1, 0)
    assert verdict_of(inputs, {0: first}).errors == {"wrongly_dropped": 1}


def test_dead_letter_makes_no_duplicates_and_what_mends_it_does() -> None:
    inputs = [("a", BAD, 0), ("a", BAD, 1), ("a", "", 2), ("a", BAD, 3), ("a", "", 4)]
    verdict = verdict_of(inputs, {0: (DEAD,), 1: (DEAD,), 2: ANSWER})
    assert (verdict.errors, verdict.repeats, verdict.dropped) == ({}, 4, 2)


def test_the_last_result_counts() -> None:
    answered = Answered()
    times = [0, WINDOW_MS + 1, 2 * WINDOW_MS, 2 * WINDOW_MS + 1, 2 * WINDOW_MS + 2]
    found = [answered.take("a", each, result=True) for each in times]
    assert found == [Again.FIRST, Again.OWED, Again.DUPLICATE, Again.DUPLICATE, Again.OWED]


def test_dead_letter_after_the_window_leaves_the_last_result() -> None:
    answered = Answered()
    assert answered.take("a", 0, result=True) is Again.FIRST
    assert answered.take("a", WINDOW_MS + 1, result=False) is Again.OWED
    assert answered.take("a", WINDOW_MS, result=True) is Again.DUPLICATE


def test_other_partitions_and_routes_know_nothing_of_an_id() -> None:
    tally = Tally(IN)
    for offset, (partition, route, once_id) in enumerate([(0, ONCE, "a"), (1, ONCE, "a"), (0, "unordered", "")] * 2):
        tally.add_input(partition, offset, Asked(route, "", offset, once_id))
    assert (tally.verdict().errors, tally.verdict().repeats) == ({"missing": 4}, 2)


# --- what is sent


MIXES = [Mix(1, next(schema_variants()), RATE)]


def drawn(count: int, seed: int = 9) -> list[Event]:
    return list(islice(with_repeats(events(MIXES, random.Random(seed), 1000), random.Random(seed), RATE), count))


def test_repeats_are_seeded_and_change_nothing_else() -> None:
    found = drawn(30_000)
    assert found == drawn(30_000)
    seen: set[bytes] = set()
    firsts = [each for each in found if not each.once_id or not (each.once_id in seen or seen.add(each.once_id))]  # type: ignore[func-returns-value]
    assert firsts == list(islice(events(MIXES, random.Random(9), 1000), len(firsts)))


def test_repeats_have_their_share_and_come_at_once_and_when_the_window_has_passed() -> None:
    found = drawn(60_000)
    places: dict[bytes, list[int]] = {}
    for place, each in enumerate(found):
        if each.once_id:
            places.setdefault(each.once_id, []).append(place)
    settled = [some for some in places.values() if some[0] < 60_000 - 2 * RATE * max(AFTER_SECONDS)]  # all have come
    repeated = [some for some in settled if len(some) > 1]
    assert len(repeated) / len(settled) == pytest.approx(REPEATED, rel=0.1)
    assert {len(some) - 1 for some in repeated} == set(TIMES)
    after = Counter(
        "at once" if gap < 5 else "late" if gap > RATE * WINDOW_SECONDS else "soon"
        for some in repeated
        for gap in (place - some[0] for place in some[1:])
    )
    assert min(after[each] for each in ("at once", "soon", "late")) > sum(after.values()) / 10


def test_only_events_of_the_route_with_a_key_are_repeated_and_poison_may_be_mended() -> None:
    source = events(MIXES, random.Random(9), 1000, [poison_storm])
    found = list(islice(with_repeats(source, random.Random(9), RATE), 60_000))
    ids = Counter(each.once_id for each in found)
    del ids[b""]
    for each in found:
        assert not each.once_id or (each.key is not None and each.value is not None and ONCE.encode() in each.value)
    fates: dict[bytes, list[Fate]] = {}
    for each in found:
        if each.once_id:
            fates.setdefault(each.once_id, []).append(each.fate)
    again = Counter(fate for some in fates.values() if some[0] is Fate.POISON for fate in some[1:])
    assert again[Fate.ANSWERED] / again.total() == pytest.approx(MENDED, rel=0.2)
    assert {fate for some in fates.values() if some[0] is Fate.ANSWERED for fate in some} == {Fate.ANSWERED}


def test_settings_give_one_route_idempotency() -> None:
    settings = pipeline_settings(Topics.of("run"), "run")
    windows = {route["name"]: (route["idempotency"] or {}).get("window_seconds") for route in settings["routes"]}
    assert windows == {**dict.fromkeys(ROUTES), ONCE: WINDOW_SECONDS}
