"""Redriving: which dead letters, what is written of them, and each once, whoever else is at it and whatever fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from confluent_kafka import KafkaError
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.connectors.kafka import run_transactions, transaction
from headrace.pipeline.config import Settings
from headrace.pipeline.errors import ExhaustedError, FatalError, FencedError, OutputRefusedError
from headrace.pipeline.headers import dead_letter_headers, redrives_of
from headrace.pipeline.letters import Letter
from headrace.pipeline.records import Headers, OutputRecord, Provenance, SourceRecord
from headrace.pipeline.redrive_course import UNIT_BYTES, UNIT_LETTERS, Course
from headrace.pipeline.redriving import (
    Left,
    Marks,
    Redriving,
    deadline_passed,
    mark,
    marks_topic,
    unmark,
)
from headrace.pipeline.retrying import Retry, put_off, resumed
from tests.unit.fake_coordinator import error
from tests.unit.redrive_bench import LETTERS, NOW_MS, SETTINGS, RedriveBench, RedriveProcess, letter, reads
from tests.unit.strategies import examples

MARKS = marks_topic(SETTINGS)
TIMED_OUT = error(KafkaError._TIMED_OUT)
ABORTABLE = error(KafkaError.NOT_ENOUGH_REPLICAS, "abortable")


def in_topic(output: OutputRecord) -> SourceRecord:
    return SourceRecord(Provenance(output.topic, 0, 7, NOW_MS), output.key, output.value, output.headers)


def marked(*records: OutputRecord) -> Marks:
    marks = Marks(LETTERS)
    for each in records:
        marks.take(in_topic(each))
    return marks


# --- which, and as what


def test_redriven_record_is_the_event_as_it_was_with_all_its_delays_before_it() -> None:
    found = letter(4, headers=(("ce_source", b"headrace"), ("dead_letter_redrives", b"2")))
    record, _ = Redriving(SETTINGS, marked()).records(found, NOW_MS)
    assert (record.topic, record.key, record.value) == ("headrace.redriven", b"k", b"v4")
    event, retry = resumed(in_topic(record))
    assert (event.headers, event.provenance) == (found.content.headers, found.content.provenance)
    assert retry == Retry(
        *("inference.requests", 3, 400, NOW_MS - 9000),
        number=0,
        attempts=4,
        first_failed_ms=NOW_MS - 8000,
        due_ms=NOW_MS,
        stage="infer",
        code="RETRIES_EXHAUSTED",
        redrives=3,
    )


def test_redrives_travel_through_delays_and_into_the_next_dead_letter() -> None:
    record, _ = Redriving(SETTINGS, marked()).records(letter(4), NOW_MS)
    event, retry = resumed(in_topic(record))
    failed = ExhaustedError("infer", "RETRIES_EXHAUSTED", "4 attempts failed")
    later = put_off(
        *(event, failed, SETTINGS.routes[0], SETTINGS),
        before=retry,
        attempts=2,
        deadline_ms=None,
        now_ms=NOW_MS,
        chance=0.0,
    )
    assert later is not None
    _, again = resumed(in_topic(later))
    assert (later.topic, again.number, again.attempts, again.redrives) == ("headrace.retry.5s", 1, 6, 1)
    headers = dead_letter_headers(event.headers, "infer", "X", event.provenance, NOW_MS, "headrace", redrives=1)
    assert redrives_of(headers) == 1


@pytest.mark.parametrize(
    ("headers", "redrives"),
    [((), 0), ((("dead_letter_redrives", b"7"),), 7), ((("dead_letter_redrives", b"-1"),), 0)],
)
def test_redrives_are_none_if_a_dead_letter_does_not_say(headers: Headers, redrives: int) -> None:
    assert redrives_of(headers) == redrives
    assert redrives_of(dead_letter_headers((), "infer", "X", letter(1).content.provenance, NOW_MS, "headrace")) == 0


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (letter(1), None),
        (letter(1, value=None), None),
        (letter(1, headers=()), None),
        (letter(1, code="BAD_HEADER", stage="decode"), None),
        (letter(1, omitted_bytes=9), Left.OMITTED),
        (letter(1, headers=(("ce_source", b"other"),)), Left.OTHER_PIPELINE),
        (letter(2), Left.REDRIVEN),
    ],
)
def test_dead_letter_is_redriven_unless_there_is_a_reason_not_to(found: Letter, why: Left | None) -> None:
    marks = marked(mark(LETTERS, letter(2).record.provenance, MARKS, NOW_MS))
    assert Redriving(SETTINGS, marks).left(found) is why


@pytest.mark.parametrize("topic", ["headrace.redriven", "headrace.retry.5s", "headrace.retry.9h"])
def test_what_a_stranger_wrote_to_a_delay_topic_is_not_redriven(topic: str) -> None:
    found = letter(1, provenance=Provenance(topic, 0, 1, NOW_MS), code="BAD_HEADER")
    assert Redriving(SETTINGS, marked()).left(found) is Left.NO_REQUEST


@pytest.mark.parametrize(
    ("topic", "why"),
    [
        ("media.requests", None),  # another that begins so
        ("media.5s", None),  # once a delay's name, and now of requests
        ("media.5s.eu", None),
        ("media.9h", Left.NO_REQUEST),
        ("media.1m", Left.NO_REQUEST),
    ],
)
def test_request_topic_whose_name_begins_like_a_delay_topic_is_none(topic: str, why: Left | None) -> None:
    route = {"name": "text", "model": "echo", "retries": {"delays": ["1m"]}}
    topics = {"requests": ["media.requests", "media.5s"], "retry": "media"}
    found = letter(1, provenance=Provenance(topic, 0, 1, NOW_MS))
    assert Redriving(Settings.model_validate({"routes": [route], "topics": topics}), marked()).left(found) is why


def test_dead_letter_whose_headers_could_not_be_read_is_not_redriven_without_them() -> None:
    found = letter(1, code="BAD_HEADER")
    bare = Letter(found.record, replace(found.content, headers=()))
    assert Redriving(SETTINGS, marked()).left(bare) is Left.HEADERS


def test_again_redrives_what_is_marked_and_pipelines_say_whose() -> None:
    marks = marked(mark(LETTERS, letter(2).record.provenance, MARKS, NOW_MS))
    assert Redriving(SETTINGS, marks, again=True).left(letter(2)) is None
    foreign = letter(1, headers=(("ce_source", b"other"),))
    assert Redriving(SETTINGS, marks, ["other"]).left(foreign) is None


@pytest.mark.parametrize(
    ("headers", "passed"),
    [
        ((), False),
        ((("deadline", b"%d" % (NOW_MS - 1)),), True),
        ((("deadline", b"%d" % (NOW_MS + 1)),), False),
        ((("deadline", b"soon"),), False),
        ((("deadline", b"9" * 5000),), False),
    ],
)
def test_deadline_that_has_passed_is_noticed(headers: Headers, passed: bool) -> None:
    assert deadline_passed(headers, NOW_MS) is passed


# --- the course


class Commits:
    """What is committed, and when."""

    def __init__(self, refused: Sequence[bytes] = ()) -> None:
        self.now = 0.0
        self.units: list[tuple[float, list[bytes | None]]] = []
        self._refused = refused

    def commit(self, outputs: Sequence[OutputRecord]) -> None:
        for index, output in enumerate(outputs):
            if output.value in self._refused:
                raise OutputRefusedError(index, "too large")
        self.now += 0.01
        self.units.append((self.now, [each.value for each in outputs[::2]]))

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def course(self, limit: int | None = None, rate: float | None = None) -> Course:
        return Course(
            Redriving(SETTINGS, marked()),
            self.commit,
            limit=limit,
            rate=rate,
            monotonic=lambda: self.now,
            epoch_ms=lambda: NOW_MS,
            wait=self.wait,
        )

    @property
    def values(self) -> list[bytes | None]:
        return [value for _, values in self.units for value in values]


def anything(_: Letter) -> bool:
    return True


def test_course_puts_many_into_a_transaction_and_all_in_order() -> None:
    commits = Commits()
    course = commits.course()
    course.perform(reads([letter(each) for each in range(UNIT_LETTERS + 3)]), anything)
    assert [len(values) for _, values in commits.units] == [UNIT_LETTERS, 3]
    assert commits.values == [b"v%d" % each for each in range(UNIT_LETTERS + 3)]
    assert course.tally.redriven == {("RETRIES_EXHAUSTED", "infer"): UNIT_LETTERS + 3}


def test_course_bounds_the_bytes_of_a_transaction() -> None:
    commits = Commits()
    half = [Letter(replace(each.record, value=bytes(UNIT_BYTES // 2)), each.content) for each in map(letter, range(4))]
    commits.course().perform(reads(half), anything)
    assert [len(values) for _, values in commits.units] == [1, 1, 1, 1]


def test_course_ends_at_its_limit() -> None:
    commits = Commits(refused=[b"v1"])
    course = commits.course(limit=2)
    course.perform(reads([letter(each) for each in range(9)]), anything)
    assert commits.values == [b"v0", b"v2"]
    assert course.tally.left == {Left.TOO_LARGE: 1}


def test_course_keeps_to_its_rate() -> None:
    commits = Commits()
    commits.course(rate=4).perform(reads([letter(each) for each in range(9)]), anything)
    assert commits.values == [b"v%d" % each for each in range(9)]
    times = [at for at, values in commits.units for _ in values]
    assert times == pytest.approx([0.25 * each + 0.01 for each in range(9)], abs=0.02)


def test_course_counts_what_it_leaves_and_what_is_no_dead_letter() -> None:
    commits = Commits()
    course = commits.course()
    found = [letter(0), letter(1, omitted_bytes=5), letter(2, code="OTHER")]
    unread = (letter(3).record, None)
    course.perform([*reads(found), unread], lambda each: each.content.code != "OTHER")
    assert commits.values == [b"v0"]
    assert (course.tally.left, course.tally.unreadable, course.tally.late) == ({Left.OMITTED: 1}, 1, 0)


# --- exactly once


async def all_of(process: RedriveProcess) -> None:
    while await process.step():
        pass


def once(count: int) -> Counter[int]:
    return Counter(range(count))


async def test_run_again_redrives_what_is_left() -> None:
    bench = RedriveBench(7)
    first = RedriveProcess(bench, 2)
    await first.start()
    assert await first.step()
    second = RedriveProcess(bench, 2)
    await second.start()
    await all_of(second)
    assert bench.redriven == once(7)
    third = RedriveProcess(bench, 2)
    await third.start()
    assert not await third.step()


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_transactions, "GIVE_WAY_SECONDS", 0.01)


@pytest.mark.usefixtures("short_waits")
async def test_process_that_is_followed_by_another_ends() -> None:
    bench = RedriveBench(6)
    first, second = RedriveProcess(bench, 2), RedriveProcess(bench, 2)
    await first.start()
    await second.start()
    assert await second.step()
    with pytest.raises(FencedError, match="another `headrace dlq redrive` or `purge`"):
        await first.step()
    await all_of(second)
    assert bench.redriven == once(6)


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("applied", [True, False])
async def test_transaction_of_unknown_outcome_is_there_once(applied: bool) -> None:
    bench = RedriveBench(4)
    process = RedriveProcess(bench, 2)
    await process.start()
    bench.coordinator.answer("commit", TIMED_OUT, applied=applied)
    await all_of(process)
    assert bench.redriven == once(4)


@pytest.mark.usefixtures("short_waits")
async def test_marks_taken_away_end_a_process_that_has_read_them() -> None:
    bench = RedriveBench(4)
    first, purge = RedriveProcess(bench, 2), RedriveProcess(bench, 2)
    await first.start()
    assert await first.step()
    await purge.start()
    await purge.write([unmark(LETTERS, (0, 0), MARKS)])
    with pytest.raises(FencedError):
        await first.step()
    assert bench.redriven == once(2)


Fault = tuple[str, KafkaError, bool]
"""The call that fails, how, and whether it has done what it should."""
CALLS = st.sampled_from(["begin", "produce", "commit", "abort", "init"])
FAULTS = st.tuples(CALLS, st.sampled_from([TIMED_OUT, ABORTABLE]), st.booleans())
ACTS = st.lists(
    st.one_of(st.tuples(st.just("start"), st.none()), st.tuples(st.just("step"), FAULTS | st.none())), max_size=25
)


@settings(max_examples=examples(60), deadline=None)
@given(acts=ACTS, choices=st.lists(st.integers(0, 3), min_size=25, max_size=25), unit_letters=st.integers(1, 3))
def test_any_course_of_processes_redrives_each_once(
    acts: list[tuple[str, Fault | None]], choices: list[int], unit_letters: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transaction, "MAX_BACKOFF_SECONDS", 0.0)
        patch.setattr(run_transactions, "GIVE_WAY_SECONDS", 0.0, raising=False)
        asyncio.run(_live(acts, choices, unit_letters))


async def _live(acts: list[tuple[str, Fault | None]], choices: list[int], unit_letters: int) -> None:
    bench = RedriveBench(9)
    processes: list[RedriveProcess] = []
    for (act, fault), choice in zip(acts, choices, strict=False):
        if act == "start" or not processes:
            processes.append(RedriveProcess(bench, unit_letters))
            await processes[-1].start()
            continue
        process = processes[choice % len(processes)]
        if fault is not None:
            call, problem, applied = fault
            if not (call == "init" and problem is ABORTABLE):
                bench.coordinator.answer(call, problem, applied=applied)
        try:
            await process.step()
        except FatalError:
            processes.remove(process)
        bench.coordinator.faults.clear()
        assert max(bench.redriven.values(), default=1) == 1
    last = RedriveProcess(bench, unit_letters)
    await last.start()
    await all_of(last)
    assert bench.redriven == once(9)
    for each in (*processes, last):
        await each.close()
