from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.awaiting import Awaited, Place
from headrace.pipeline.outcomes import Outcome
from headrace.pipeline.records import InferenceResult, Provenance, SourceRecord, Timings


def outcome(offset: int, request_id: str = "id") -> Outcome:
    record = SourceRecord(Provenance("results", 0, 99, 0), None, b"", ())
    where = Provenance("requests", 0, offset, 0)
    return Outcome(record, InferenceResult(request_id, "OK", (), where, Timings(0, 0, 0), 1, "w", 0))


def place(offset: int) -> Place:
    return Place("requests", 0, offset)


def test_outcome_after_the_confirmation_settles_its_event() -> None:
    awaited = Awaited()
    awaited.sending("id")
    assert awaited.sent("id", place(3), 1.5) is None
    assert awaited.open == (place(3),)
    settled = awaited.read(outcome(3))
    assert settled is not None
    assert settled.sent_at == 1.5
    assert not awaited
    assert awaited.read(outcome(3)) is None


def test_outcome_before_the_confirmation_is_kept_for_it() -> None:
    awaited = Awaited()
    awaited.sending("id")
    assert awaited.read(outcome(3)) is None
    settled = awaited.sent("id", place(3), 1.5)
    assert settled is not None
    assert settled.outcome.content.provenance.offset == 3
    assert not awaited


def test_outcomes_of_others_settle_nothing() -> None:
    awaited = Awaited()
    awaited.sending("mine")
    assert awaited.read(outcome(3, "yours")) is None
    assert awaited.sent("mine", place(3), 0.0) is None
    assert awaited.read(outcome(4, "mine")) is None
    assert awaited.open == (place(3),)


@given(st.permutations([("sent", n) for n in range(4)] + [("read", n) for n in range(4)]))
def test_every_event_is_settled_once_in_whatever_order_things_come(order: list[tuple[str, int]]) -> None:
    """Two of the four have the same id, as an event that was sent twice has."""
    awaited, settled = Awaited(), []
    for number in range(4):
        awaited.sending(f"id-{number // 2}")
    for what, number in order:
        request_id = f"id-{number // 2}"
        found = (
            awaited.sent(request_id, place(number), float(number))
            if what == "sent"
            else awaited.read(outcome(number, request_id))
        )
        if found is not None:
            settled.append((found.outcome.content.provenance.offset, found.sent_at))
    assert sorted(settled) == [(number, float(number)) for number in range(4)]
    assert not awaited
