from __future__ import annotations

import pytest

from headrace.pipeline.demo.check import Checker, Expected, Fault, Position

BAD = Expected(frozenset({"CORRUPT_IMAGE", "BAD_IMAGE"}))


def at(offset: int) -> Position:
    return Position("requests", 0, offset)


def faults(checker: Checker) -> list[Fault]:
    return [finding.fault for finding in checker.verdict().findings]


@pytest.fixture
def checker() -> Checker:
    """Two good events and a bad one, delivered."""
    checker = Checker()
    checker.delivered(at(0), Expected())
    checker.delivered(at(1), Expected())
    checker.delivered(at(2), BAD)
    return checker


def test_checker_passes_when_every_event_has_its_one_outcome(checker: Checker) -> None:
    checker.result(at(1))
    checker.result(at(0))
    checker.dead_letter(at(2), "BAD_IMAGE")
    verdict = checker.verdict()
    assert verdict.passed
    assert (verdict.sent, verdict.results, verdict.dead_letters) == (3, 2, 1)
    assert (verdict.duplicates, verdict.missing) == (0, 0)


def test_checker_accepts_an_outcome_seen_before_its_delivery_report() -> None:
    checker = Checker()
    checker.result(at(0))
    assert faults(checker) == [Fault.UNKNOWN]
    checker.delivered(at(0), Expected())
    assert checker.verdict().passed


def test_checker_finds_a_missing_event(checker: Checker) -> None:
    checker.result(at(0))
    checker.dead_letter(at(2), "BAD_IMAGE")
    verdict = checker.verdict()
    assert (verdict.missing, verdict.exactly_once) == (1, False)
    assert [(finding.fault, finding.position) for finding in verdict.findings] == [(Fault.MISSING, at(1))]


def test_checker_finds_a_doubled_result(checker: Checker) -> None:
    checker.result(at(0))
    checker.result(at(0))
    checker.result(at(1))
    checker.dead_letter(at(2), "BAD_IMAGE")
    verdict = checker.verdict()
    assert (verdict.results, verdict.duplicates, verdict.missing) == (2, 1, 0)
    assert not verdict.exactly_once
    assert faults(checker) == [Fault.DUPLICATE]


def test_checker_finds_a_result_beside_a_dead_letter(checker: Checker) -> None:
    checker.result(at(0))
    checker.result(at(1))
    checker.dead_letter(at(2), "BAD_IMAGE")
    checker.result(at(2))
    verdict = checker.verdict()
    assert (verdict.duplicates, verdict.dead_letters, verdict.results) == (1, 1, 2)
    assert faults(checker) == [Fault.DUPLICATE]


def test_checker_finds_a_result_for_a_bad_event(checker: Checker) -> None:
    for offset in range(3):
        checker.result(at(offset))
    verdict = checker.verdict()
    assert verdict.exactly_once
    assert not verdict.passed
    assert faults(checker) == [Fault.WRONG_KIND]


def test_checker_finds_a_dead_letter_for_a_good_event(checker: Checker) -> None:
    checker.dead_letter(at(0), "BAD_IMAGE")
    checker.result(at(1))
    checker.dead_letter(at(2), "BAD_IMAGE")
    assert faults(checker) == [Fault.WRONG_KIND]


def test_checker_finds_a_dead_letter_with_another_reason(checker: Checker) -> None:
    checker.result(at(0))
    checker.result(at(1))
    checker.dead_letter(at(2), "NO_ROUTE")
    assert not checker.verdict().passed
    assert faults(checker) == [Fault.WRONG_CODE]


def test_checker_counts_an_outcome_of_a_position_never_sent_as_duplicate(checker: Checker) -> None:
    checker.result(at(0))
    checker.result(at(1))
    checker.dead_letter(at(2), "BAD_IMAGE")
    checker.result(Position("requests", 3, 0))
    verdict = checker.verdict()
    assert verdict.duplicates == 1
    assert not verdict.exactly_once
    assert faults(checker) == [Fault.UNKNOWN]


def test_checker_tells_partitions_and_topics_apart(checker: Checker) -> None:
    checker.result(Position("requests", 1, 0))
    checker.result(Position("other", 0, 1))
    assert checker.verdict().missing == 3


def test_checker_refuses_two_events_at_one_position(checker: Checker) -> None:
    with pytest.raises(ValueError, match="requests:0:0"):
        checker.delivered(at(0), Expected())


def test_findings_name_position_and_reason(checker: Checker) -> None:
    checker.result(at(0))
    checker.result(at(1))
    checker.result(at(1))
    assert [str(finding) for finding in checker.verdict().findings] == [
        "requests:0:1: more than one outcome (result, result)",
        "requests:0:2: no result and no dead letter (dead letter BAD_IMAGE or CORRUPT_IMAGE was due)",
    ]
