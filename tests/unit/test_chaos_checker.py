"""The pure parts of the chaos suite's checker and load: what is counted, and what is sent."""

from __future__ import annotations

import random
import struct
from collections import Counter
from itertools import islice

import pytest

from tests.chaos.checker import position_in
from tests.chaos.load import pipeline_settings
from tests.chaos.mix import (
    KEYLESS,
    KEYS,
    POISONED,
    Fate,
    Mix,
    Storm,
    events,
    poison_storm,
    retry_storm,
    schema_variants,
)
from tests.chaos.progress import Progress, Stall
from tests.chaos.tally import DEAD, RESULT, ROUTES, SHADOW, TWIN, Asked, Said, Tally, Topics, Verdict

IN = "in"


def tally_of(inputs: int, *, route: str = "by-key", code: str = "") -> Tally:
    """So many inputs of one kind in partition 0."""
    tally = Tally(IN)
    for offset in range(inputs):
        tally.add_input(0, offset, Asked(route, code, offset))
    return tally


def said(offset: int, *, key: bytes | None = b"k", code: str = "", identity: int | None = None) -> Said:
    return Said(IN, 0, offset, code, key, offset if identity is None else identity)


def answered(tally: Tally, *offsets: int, partition: int = 0, key: bytes | None = b"k") -> Verdict:
    """After a result and a twin of each of these, in this order."""
    for place, offset in enumerate(offsets):
        for kind in (RESULT, TWIN):
            tally.add_output(kind, partition, place, said(offset, key=key))
    return tally.verdict()


def test_result_and_twin_of_each_input_are_no_error() -> None:
    verdict = answered(tally_of(3), 0, 1, 2)
    assert verdict.errors == {}
    assert (verdict.records, verdict.results, verdict.twins, verdict.dead_letters) == (3, 3, 3, 0)


def test_dead_letter_of_poison_is_no_error() -> None:
    tally = tally_of(2, code="CORRUPT")
    for offset in range(2):
        tally.add_output(DEAD, 0, offset, said(offset, code="CORRUPT"))
    verdict = tally.verdict()
    assert verdict.errors == {}
    assert (verdict.results, verdict.dead_letters) == (0, 2)


def test_input_without_output_is_missing() -> None:
    verdict = answered(tally_of(3), 0, 2)
    assert verdict.errors == {"missing": 1}
    assert verdict.examples == {"missing": ["in[0]@1 has no output"]}


def test_offset_that_no_input_has_is_not_missing_and_foreign_if_answered() -> None:
    """Markers of transactions take offsets too."""
    tally = Tally(IN)
    tally.add_input(0, 0, Asked("by-key", "", 0))
    tally.add_input(0, 2, Asked("by-key", "", 2))
    assert answered(tally, 0, 1, 2).errors == {"foreign": 2}


@pytest.mark.parametrize("position", [("other", 0, 0), (IN, 1, 0), (IN, 0, 1), (IN, 0, -1)])
def test_position_of_no_input_is_foreign(position: tuple[str, int, int]) -> None:
    tally = tally_of(1)
    tally.add_output(RESULT, 0, 5, Said(*position, "", b"k", 0))
    assert answered(tally, 0).errors == {"foreign": 1}


@pytest.mark.parametrize("kinds", [(RESULT,), (TWIN,), (DEAD, RESULT), (DEAD, TWIN), (DEAD, RESULT, TWIN)])
def test_half_of_an_answer_or_two_answers_are_torn(kinds: tuple[int, ...]) -> None:
    tally = tally_of(2)
    for kind in kinds:
        tally.add_output(kind, 0, 0, said(0))
    verdict = answered(tally, 1)
    assert verdict.errors["torn"] == 1
    assert "missing" not in verdict.errors


def test_shadow_beside_a_result_is_no_error_and_none_is_needed() -> None:
    tally = tally_of(3)
    tally.add_output(SHADOW, 0, 0, said(1))
    verdict = answered(tally, 0, 1, 2)
    assert (verdict.errors, verdict.shadows) == ({}, 1)


@pytest.mark.parametrize("code", ["", "CORRUPT"])
def test_shadow_without_a_result_is_torn(code: str) -> None:
    tally = tally_of(1, code=code)
    tally.add_output(SHADOW, 0, 0, said(0, code=code))
    if code:
        tally.add_output(DEAD, 0, 0, said(0, code=code))
    assert tally.verdict().errors["torn"] == 1


def test_second_shadow_is_a_duplicate_and_one_of_another_content_wrong() -> None:
    tally = tally_of(2)
    for place, (offset, identity) in enumerate([(0, 0), (0, 0), (1, 9)]):
        tally.add_output(SHADOW, 0, place, said(offset, identity=identity))
    assert answered(tally, 0, 1).errors == {"duplicates": 1, "wrong": 1}


def test_duplicate_counts_as_that_alone() -> None:
    """Neither as out of order nor as wrong: an answer that is written again is one error."""
    tally = tally_of(3)
    answered_so_far = [0, 1, 2, 0, 0]
    for place, offset in enumerate(answered_so_far):
        tally.add_output(RESULT, 0, place, said(offset, identity=offset if place < 3 else 99))
        if place < 3:
            tally.add_output(TWIN, 0, place, said(offset))
    assert tally.verdict().errors == {"duplicates": 2}


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("", said(0, identity=7)),
        ("", said(0, code="RETRIES_EXHAUSTED")),
        ("CORRUPT", said(0)),
        ("CORRUPT", said(0, code="BAD_ID")),
        ("CORRUPT", said(0, code="CORRUPT", identity=7)),
    ],
)
def test_answer_of_another_content_or_reason_is_wrong(code: str, wrong: Said) -> None:
    tally = tally_of(1, code=code)
    tally.add_output(DEAD if wrong.code else RESULT, 0, 0, wrong)
    assert tally.verdict().errors["wrong"] == 1


@pytest.mark.parametrize(("code", "kinds"), [("", [DEAD]), ("CORRUPT", [RESULT, TWIN])])
def test_answer_in_the_topic_of_another_kind_is_wrong(code: str, kinds: list[int]) -> None:
    tally = tally_of(1, code=code)
    for kind in kinds:
        tally.add_output(kind, 0, 0, said(0, code=code))
    assert tally.verdict().errors == {"wrong": len(kinds)}


@pytest.mark.parametrize("kind", [RESULT, TWIN, DEAD])
def test_results_twins_and_dead_letters_are_each_kept_in_order(kind: int) -> None:
    code = "INVALID_INPUT" if kind == DEAD else ""
    tally = tally_of(3, code=code)
    for place, offset in enumerate([0, 2, 1]):
        tally.add_output(kind, 0, place, said(offset, code=code))
    assert tally.verdict().errors["order_violations"] == 1


@pytest.mark.parametrize(
    ("route", "violations"),
    [("by-key", {"order_violations": 2}), ("by-partition", {"order_violations": 2}), ("unordered", {})],
)
def test_order_is_asked_of_the_routes_that_promise_it(route: str, violations: dict[str, int]) -> None:
    """One swap, in results and in twins."""
    assert answered(tally_of(4, route=route), 0, 2, 1, 3).errors == violations


def test_every_output_that_comes_after_a_later_input_s_is_out_of_order() -> None:
    assert answered(tally_of(4), 0, 3, 1, 2).errors == {"order_violations": 4}


@pytest.mark.parametrize("route", ROUTES)
def test_order_by_key_is_asked_of_one_key_and_by_partition_of_all(route: str) -> None:
    tally = tally_of(2, route=route)
    for place, (offset, key) in enumerate([(1, b"a"), (0, b"b")]):
        tally.add_output(RESULT, 0, place, said(offset, key=key))
    assert tally.verdict().errors.get("order_violations", 0) == (route == "by-partition")


def test_records_without_a_key_have_no_order_by_key() -> None:
    assert answered(tally_of(3), 2, 1, 0, key=None).errors == {}


def test_order_within_a_route_is_that_of_its_own_records() -> None:
    """A slow record of another route, or of none, may come later."""
    tally = Tally(IN)
    for offset, route in enumerate(["by-key", "by-partition", "unordered", "by-key"]):
        tally.add_input(0, offset, Asked(route, "", offset))
    tally.add_input(0, 4, Asked("", "CORRUPT", 4))
    tally.add_output(DEAD, 0, 0, said(4, code="CORRUPT"))
    assert answered(tally, 1, 0, 3, 2).errors == {}


def test_order_by_partition_is_asked_within_an_output_partition() -> None:
    """A reader sees no order between partitions, so none is promised there."""
    tally = tally_of(2, route="by-partition")
    tally.add_output(RESULT, 0, 0, said(1))
    tally.add_output(RESULT, 1, 0, said(0))
    assert tally.verdict().errors == {"torn": 2}


@pytest.mark.parametrize("partitions", [(0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 0, 1)])
def test_key_in_two_partitions_of_an_output_topic_is_out_of_order_once(partitions: tuple[int, ...]) -> None:
    """In whichever order the partitions are read."""
    tally = tally_of(3)
    for offset, partition in enumerate(partitions):
        tally.add_output(RESULT, partition, offset, said(offset))
    assert tally.verdict().errors == {"torn": 3, "order_violations": 1}


def test_verdict_has_the_names_of_the_report_and_bounded_examples() -> None:
    verdict = tally_of(50).verdict()
    found = verdict.to_json()
    assert (found["records"], found["missing"], len(found["examples"]["missing"])) == (50, 50, 20)
    assert {"results", "dead_letters", "duplicates", "torn", "order_violations", "longest_stall_s"} < found.keys()
    assert "missing=50" in verdict.explain()
    assert "missing: in[0]@19 has no output" in verdict.explain()


def test_position_in_headers_is_the_request_s() -> None:
    headers = [("ce_specversion", b"1.0"), ("ce_id", b"chaos-1.in-11-1234567"), ("ce_type", b"x")]
    assert position_in(headers) == ("chaos-1.in", 11, 1234567)
    assert position_in(None) is None


# --- progress


def test_stall_is_the_longest_time_with_unanswered_inputs_and_no_answer() -> None:
    progress = Progress()
    progress.add_input(3, 0, 1.0)
    progress.add_input(3, 1, 2.0)
    progress.add_output(DEAD, 3, 0, 9.0)
    progress.add_output(DEAD, 3, 1, 12.0)
    progress.add_input(3, 2, 13.0)
    progress.add_output(DEAD, 3, 2, 14.0)
    assert progress.longest_stall == Stall(8.0, 3, 1.0)
    assert (progress.inputs, progress.answered, progress.slowest_seconds) == (3, 3, 10.0)


def test_time_without_inputs_is_no_stall() -> None:
    progress = Progress()
    progress.add_input(0, 0, 1.0)
    progress.add_output(DEAD, 0, 0, 2.0)
    progress.look(50.0)
    progress.add_input(0, 1, 60.0)
    progress.add_output(DEAD, 0, 1, 63.0)
    assert progress.longest_stall == Stall(3.0, 0, 60.0)


def test_stall_that_has_not_ended_is_seen_in_its_partition_alone() -> None:
    progress = Progress()
    for partition in (0, 1):
        progress.add_input(partition, 0, 1.0)
    progress.add_output(DEAD, 0, 0, 2.0)
    progress.look(31.0)
    assert progress.stalls == {0: Stall(1.0, 0, 1.0), 1: Stall(30.0, 1, 1.0)}


def test_input_is_answered_by_its_result_and_twin_together() -> None:
    progress = Progress()
    progress.add_input(0, 0, 1.0)
    progress.add_output(RESULT, 0, 0, 2.0)
    progress.add_output(SHADOW, 0, 0, 3.0)
    assert progress.answered == 0
    progress.add_output(TWIN, 0, 0, 4.0)
    progress.add_output(TWIN, 0, 0, 9.0)
    assert progress.answered == 1
    assert progress.longest_stall == Stall(3.0, 0, 1.0)


def test_output_seen_before_its_input_leaves_no_stall() -> None:
    progress = Progress()
    progress.add_output(DEAD, 0, 0, 1.0)
    progress.add_input(0, 0, 2.0)
    progress.look(90.0)
    assert progress.longest_stall.seconds == 0


# --- load


def test_mix_is_seeded_and_has_its_share_of_poison_and_of_each_route() -> None:
    mix = Mix(7, next(schema_variants()), 400)
    drawn = mix.draw(random.Random(5), 50_000)
    assert drawn == mix.draw(random.Random(5), 50_000)
    poison = Counter(template for template in drawn if template in mix.poison)
    assert poison.keys() == set(mix.poison)
    assert sum(poison.values()) / len(drawn) == pytest.approx(POISONED, rel=0.2)
    for route in ROUTES:
        share = sum(route.encode() in (template.middle or b"") for template in drawn) / len(drawn)
        assert share == pytest.approx(1 / len(ROUTES), abs=0.02)


def test_events_are_seeded_and_their_variants_join_one_after_the_other() -> None:
    mixes = [Mix(100 + number, schema, 400) for number, schema in enumerate(schema_variants())]
    assert list(islice(events(mixes, random.Random(9), 1000), 500)) == list(
        islice(events(mixes, random.Random(9), 1000), 500)
    )
    drawn = list(islice(events(mixes, random.Random(9), 1000), 20_000))
    readable = [event.value for event in drawn if event.value and event.fate is not Fate.POISON]
    ids = [struct.unpack_from(">I", value, 1)[0] for value in readable]
    assert set(ids[:900]) == {100}
    assert set(ids) == set(range(100, 108))
    values = [event.value for event in drawn if event.value]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize(
    ("storm", "fates"),
    [(poison_storm, {Fate.POISON}), (retry_storm, {Fate.EXHAUSTED, Fate.PUT_OFF})],
)
def test_storm_takes_every_second_record_and_changes_no_other(storm: Storm, fates: set[Fate]) -> None:
    mixes = [Mix(1, next(schema_variants()), 400)]
    storms: list[Storm] = []
    calm = list(islice(events(mixes, random.Random(9), 1000), 3000))
    stormy = events(mixes, random.Random(9), 1000, storms)
    before = list(islice(stormy, 1000))
    storms.append(storm)
    meanwhile = list(islice(stormy, 1000))
    storms.clear()
    after = list(islice(stormy, 1000))
    assert before == calm[:1000]
    assert meanwhile[::2] == calm[1000:2000:2]
    assert after == calm[2000:]
    assert {event.fate for event in meanwhile[1::2]} == fates
    assert [event.key for event in meanwhile] == [event.key for event in calm[1000:2000]]


def test_storms_that_meet_share_their_half() -> None:
    mixes = [Mix(1, next(schema_variants()), 400)]
    drawn = list(islice(events(mixes, random.Random(9), 1000, [poison_storm, retry_storm]), 4000))
    counts = Counter(event.fate for event in drawn[1::2])
    assert counts[Fate.POISON] == pytest.approx(1000, rel=0.2)
    assert counts[Fate.EXHAUSTED] == pytest.approx(500, rel=0.2)
    assert counts[Fate.PUT_OFF] == pytest.approx(500, rel=0.2)


def test_poison_storm_has_all_kinds_of_poison() -> None:
    mixes = [Mix(1, next(schema_variants()), 400)]
    assert poison_storm(mixes[0]) == mixes[0].poison


def test_keys_are_skewed_and_some_records_have_none() -> None:
    mixes = [Mix(1, next(schema_variants()), 400)]
    keys = Counter(event.key for event in islice(events(mixes, random.Random(9), 1000), 20_000))
    assert keys.pop(None) / 20_000 == pytest.approx(KEYLESS, rel=0.1)
    assert len(keys) > KEYS / 2
    assert keys[b"k0"] > 200


def test_settings_have_a_route_for_each_type_of_event_with_a_twin() -> None:
    settings = pipeline_settings(Topics.of("run"), "run", replication_factor=3)
    assert {route["match"]["type"][0]: route["ordering"] for route in settings["routes"]} == ROUTES
    assert {also["topic"] for route in settings["routes"] for also in route["also_to"]} == {"run.twin"}
    assert settings["topics"]["shadow"] == "run.shadow"
    assert settings["topics"]["retry"] == "run.retry"
    (retried,) = (route for route in settings["routes"] if "delays" in route["retries"])
    assert tuple(f"run.retry.{delay}" for delay in retried["retries"]["delays"]) == Topics.of("run").delays
    assert all(route["shadow"] for route in settings["routes"])
