"""Each call ends once, whoever is first."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, InvalidStateError
from functools import partial

import pytest

from headrace import ClosedError, FatalError, HeadraceError, InferenceResult, InferenceTimeoutError, Provenance, Timings
from headrace.connectors.kafka.producer import UNKNOWN_OFFSET, DeliveryReport
from headrace.sdk.calls import Call, Calls

WAIT_SECONDS = 10.0
LONG_SECONDS = 1000.0


def result(number: int = 0) -> InferenceResult:
    return InferenceResult(str(number), "OK", (), Provenance("in", 0, number, 1), Timings(0, 0, 0), 1, "w", 1)


def expired(call: Call) -> HeadraceError:
    return InferenceTimeoutError(f"{call.timeout_seconds:g} s are over")


@pytest.fixture
def calls() -> Iterator[Calls]:
    calls = Calls(expired)
    yield calls
    calls.fail_all(ClosedError("the test is over"))


def test_answers_reach_their_own_calls(calls: Calls) -> None:
    opened = [calls.open(LONG_SECONDS) for _ in range(100)]
    assert len({call.correlation_id for call in opened}) == 100
    for number, call in reversed([*enumerate(opened)]):
        calls.answer(call.correlation_id, result(number))
    assert [call.future.result(0).request_id for call in opened] == [str(number) for number in range(100)]
    assert (calls.in_flight, calls.late) == (0, 0)


def test_second_answer_is_dropped_and_counted(calls: Calls) -> None:
    call = calls.open(LONG_SECONDS)
    calls.answer(call.correlation_id, result(1))
    calls.answer(call.correlation_id, result(2))
    assert (call.future.result(0).request_id, calls.late) == ("1", 1)


# --- whose outcome it is --------------------------------------------------------------------------------------------

OWN = Provenance("in", 1, 7, 1)
FOREIGN = (Provenance("next", 1, 7, 1), Provenance("in", 0, 7, 1), Provenance("in", 1, 8, 1))
"""Of another topic, partition or offset: what the call's event was made into, say, with its correlation id."""


def sent(offset: int = OWN.offset) -> DeliveryReport:
    return DeliveryReport(OWN.topic, OWN.partition, offset, 1)


@pytest.mark.parametrize("place", FOREIGN)
def test_outcome_of_another_record_is_passed_over(calls: Calls, place: Provenance) -> None:
    call = calls.open(LONG_SECONDS)
    calls.delivered(call, sent())
    calls.answer(call.correlation_id, FatalError("a later stage's dead letter"), place)
    assert not call.future.done()
    calls.answer(call.correlation_id, result(1), OWN)
    assert (call.future.result(0).request_id, calls.late, calls.in_flight) == ("1", 0, 0)


@pytest.mark.parametrize("place", FOREIGN)
def test_outcome_that_overtakes_the_delivery_report_is_judged_by_it(calls: Calls, place: Provenance) -> None:
    call = calls.open(LONG_SECONDS)
    calls.answer(call.correlation_id, FatalError("a later stage's dead letter"), place)
    calls.answer(call.correlation_id, result(1), OWN)
    assert not call.future.done()
    calls.delivered(call, sent())
    assert (call.future.result(0).request_id, calls.late, calls.in_flight) == ("1", 0, 0)


def test_outcome_of_a_record_whose_offset_is_not_known_is_told_by_its_partition(calls: Calls) -> None:
    """The broker had it already when it was sent again, and does not say where."""
    call = calls.open(LONG_SECONDS)
    calls.delivered(call, sent(UNKNOWN_OFFSET))
    calls.answer(call.correlation_id, result(1), Provenance("in", 0, 7, 1))
    assert not call.future.done()
    calls.answer(call.correlation_id, result(2), OWN)
    assert call.future.result(0).request_id == "2"


def test_delivery_report_of_a_call_that_has_ended_ends_nothing(calls: Calls) -> None:
    call = calls.open(LONG_SECONDS)
    calls.answer(call.correlation_id, result(1), OWN)
    assert call.future.cancel()
    calls.delivered(call, sent())
    assert (calls.late, calls.in_flight) == (1, 0)


# --- how it may end -------------------------------------------------------------------------------------------------


def test_calls_expire_in_the_order_of_their_deadlines(calls: Calls) -> None:
    ended: list[float] = []
    last = threading.Event()
    for seconds in (0.3, LONG_SECONDS, 0.1, 0.2):
        calls.open(seconds).future.add_done_callback(partial(_note, ended, seconds, last))
    assert last.wait(WAIT_SECONDS)
    assert ended == [0.1, 0.2, 0.3]
    assert calls.in_flight == 1


def _note(ended: list[float], seconds: float, last: threading.Event, _: object) -> None:
    ended.append(seconds)
    if seconds == 0.3:
        last.set()


def test_answer_after_the_time_out_is_dropped_and_counted(calls: Calls) -> None:
    call, other = calls.open(0.01), calls.open(LONG_SECONDS)
    with pytest.raises(InferenceTimeoutError, match=r"0\.01 s are over"):
        call.future.result(WAIT_SECONDS)
    calls.answer(call.correlation_id, result())
    assert calls.late == 1
    assert not other.future.done()
    assert calls.in_flight == 1


def test_shorter_call_is_not_held_up_by_longer_ones(calls: Calls) -> None:
    longer = [calls.open(LONG_SECONDS) for _ in range(3)]
    short = calls.open(0.01)
    with pytest.raises(InferenceTimeoutError):
        short.future.result(WAIT_SECONDS)
    assert not any(call.future.done() for call in longer)


def test_cancelled_call_is_forgotten(calls: Calls) -> None:
    call = calls.open(LONG_SECONDS)
    assert call.future.cancel()
    assert calls.in_flight == 0
    calls.answer(call.correlation_id, result())
    assert calls.late == 1
    with pytest.raises(CancelledError):
        call.future.result(0)


def test_answer_that_meets_a_cancelled_call_is_counted(calls: Calls) -> None:
    """The caller gives up as the answer has been matched with its call, and before the call is ended."""

    class Overtaken(Future[InferenceResult]):
        def set_running_or_notify_cancel(self) -> bool:
            self.cancel()
            return super().set_running_or_notify_cancel()

    call = calls.open(LONG_SECONDS)
    call.future = Overtaken()
    calls.answer(call.correlation_id, result())
    assert calls.late == 1


def test_calls_that_have_ended_leave_nothing_behind_until_their_time(calls: Calls) -> None:
    tracemalloc.start()
    try:
        for _ in range(10_000):
            calls.answer(calls.open(LONG_SECONDS).correlation_id, result())
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()


def test_error_ends_its_call_and_no_other(calls: Calls) -> None:
    call, other = calls.open(LONG_SECONDS), calls.open(LONG_SECONDS)
    calls.fail(call, FatalError("refused"))
    calls.fail(call, FatalError("again"))
    with pytest.raises(FatalError, match="refused"):
        call.future.result(0)
    assert not other.future.done()
    assert calls.late == 0


def test_failure_of_the_reader_ends_all_calls_and_later_ones(calls: Calls) -> None:
    opened = [calls.open(LONG_SECONDS) for _ in range(3)]
    calls.fail_all(FatalError("topic gone"))
    calls.fail_all(ClosedError("too late to matter"))
    seen = []
    for call in opened:
        with pytest.raises(FatalError, match="topic gone") as caught:
            call.future.result(0)
        seen.append(caught.value)
    for _ in range(2):
        with pytest.raises(FatalError, match="topic gone") as caught:
            calls.open(1)
        seen.append(caught.value)
    assert len({id(error) for error in seen}) == len(seen), "one exception raised in several threads"


def test_ids_of_other_clients_are_not_ours(calls: Calls) -> None:
    other = Calls(expired)
    theirs = other.open(LONG_SECONDS)
    assert not calls.is_ours(theirs.correlation_id)
    assert calls.is_ours(calls.open(LONG_SECONDS).correlation_id)
    other.fail_all(ClosedError("over"))


def test_answers_time_outs_and_cancels_at_once_end_each_call_once(calls: Calls) -> None:
    """All three race for each call; a future that was ended twice would raise in one of the threads."""
    opened = [calls.open(0.02 + number % 7 / 1000) for number in range(3000)]
    troubles: list[InvalidStateError] = []

    def answer() -> None:
        try:
            for call in opened:
                calls.answer(call.correlation_id, result())
        except InvalidStateError as error:
            troubles.append(error)

    def cancel() -> None:
        for call in reversed(opened):
            call.future.cancel()

    threads = [threading.Thread(target=each) for each in (answer, cancel, answer)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    for call in opened:
        try:
            call.future.result(WAIT_SECONDS)
        except (CancelledError, InferenceTimeoutError):
            continue
    assert troubles == []
    assert calls.in_flight == 0


def test_answer_of_a_record_that_no_broker_confirms_is_taken_in_the_end(calls: Calls) -> None:
    slow, failed = calls.open(0.05), calls.open(LONG_SECONDS)
    for number, call in enumerate((slow, failed)):
        calls.answer(call.correlation_id, result(number), result(number).provenance)
        assert not call.future.done()
    calls.fail(failed, FatalError("not delivered"))
    assert (slow.future.result(WAIT_SECONDS), failed.future.result(WAIT_SECONDS)) == (result(0), result(1))
