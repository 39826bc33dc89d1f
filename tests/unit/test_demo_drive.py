"""The drive, with servers and workers that are played: when it ends, and what it reads on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from headrace.connectors.embedded.state import Member
from headrace.connectors.embedded.workers import Workers
from headrace.connectors.kafka.producer import DeliveryReport
from headrace.pipeline.config import Settings
from headrace.pipeline.demo import drive
from headrace.pipeline.demo.check import Verdict
from headrace.pipeline.demo.drive import Drive
from headrace.pipeline.demo.events import Encoded, Kind, PlannedEvent
from headrace.pipeline.demo.view import PlainView, Scene
from headrace.pipeline.outcomes import Outcome, OutcomeDecoder
from headrace.pipeline.records import InferenceRequest, InferenceResult, Provenance, SourceRecord, Timings

EVENTS = [
    Encoded(PlannedEvent(index, Kind.TEXT, b"key", InferenceRequest(str(index), "demo.text", "test", 0, ()), ()), b"")
    for index in range(8)
]


class World:
    """The output topic and two workers. Each event is answered when it is sent, unless a test says otherwise."""

    def __init__(self) -> None:
        self.log: list[SourceRecord] = []
        self.sent = 0
        self.answers = True
        self.endless_duplicates = False
        self.late_duplicate = False
        self.members_now = [Member(f"worker {slot}", 10 + slot, "running", "", "log") for slot in (0, 1)]
        self.reads_until_all_answered = 0
        self.restarts = True
        self.worker = "headrace-0"

    def commit(self, request_offset: int, partition: int = 0) -> None:
        """A result of the event at this offset."""
        where = Provenance("results", partition, len(self.log), 0)
        self.log.append(SourceRecord(where, b"key", b"%d" % request_offset, ()))

    def tick(self) -> None:
        if self.endless_duplicates and self.sent:
            self.commit(0)
        if self.sent == len(EVENTS) and self.reads_until_all_answered:
            self.reads_until_all_answered -= 1
            if self.reads_until_all_answered == 0:
                for offset in range(self.sent):
                    self.commit(offset)

    def decode(self, records: Sequence[SourceRecord]) -> list[Outcome]:
        return [Outcome(record, self._result(int(record.value or b""))) for record in records]

    def _result(self, offset: int) -> InferenceResult:
        where = Provenance(Settings().topics.requests[0], 0, offset, 0)
        done_ms = round(time.time() * 1000)
        return InferenceResult(str(offset), "OK", (), where, Timings(0, 0, 0), 1, self.worker, done_ms)

    # the producer

    def send(self, topic: str, _value: bytes, *, on_delivery: Callable[[DeliveryReport], None], **_: object) -> None:
        on_delivery(DeliveryReport(topic, 0, self.sent, 0))
        if self.answers:
            self.commit(self.sent)
        self.sent += 1

    def poll(self) -> None:
        pass

    def flush(self) -> None:
        pass

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    # the workers

    def members(self) -> tuple[Member, ...]:
        return tuple(self.members_now)

    def process(self, slot: int) -> SimpleNamespace:
        return SimpleNamespace(pid=self.members_now[slot].pid)

    def kill(self, slot: int) -> None:
        state = "running" if self.restarts else "restarting"
        pid = 20 if self.restarts else self.members_now[slot].pid
        self.members_now[slot] = replace(self.members_now[slot], pid=pid, state=state)

    def stop(self) -> dict[int, int]:
        self.endless_duplicates, self.reads_until_all_answered = False, 0
        if self.late_duplicate:
            self.commit(0, partition=1)
        return {slot: 0 if member.state == "running" else 137 for slot, member in enumerate(self.members_now)}


class Reader:
    """Two partitions. The second is at its end from the start where it is empty; else it is asked when the first rests.

    As with a broker, an end once met is believed until a record of that partition comes.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._positions = [0, 0]
        self._idle_reads = 0
        self._ended = set() if self._waiting(1) else {1}

    @property
    def at_end(self) -> bool:
        return self._ended == {0, 1}

    def read(self, timeout_seconds: float) -> list[SourceRecord]:
        time.sleep(min(timeout_seconds, 0.001))
        self._world.tick()
        partition = 1 if self._idle_reads >= 2 else 0
        found = self._waiting(partition)
        self._positions[partition] += len(found)
        self._idle_reads = 0 if found or partition else self._idle_reads + 1
        (self._ended.discard if found else self._ended.add)(partition)
        return found

    def _waiting(self, partition: int) -> list[SourceRecord]:
        held = [record for record in self._world.log if record.provenance.partition == partition]
        return held[self._positions[partition] :]

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Notes(PlainView):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, elapsed_seconds: float, text: str, style: str = "") -> None:
        self.notes.append(text)

    def show(self, scene: Scene, *, last: bool = False) -> None:
        pass


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    played = World()
    monkeypatch.setattr(drive, "EventSender", lambda *_: played)
    monkeypatch.setattr(drive, "CommittedReader", lambda *_: Reader(played))
    monkeypatch.setattr(drive, "is_answering", lambda _: True)
    monkeypatch.setattr(drive, "STALLED_SECONDS", 0.3)
    monkeypatch.setattr(drive, "SCENE_SECONDS", 0.01)
    return played


def driven(world: World, *, kill: bool = False, rate: float = 1000.0) -> tuple[Drive, Verdict, list[str]]:
    view = Notes()
    played: Any = world  # stands for workers and decoder too
    subject = Drive(
        Settings(), cast("Workers", played), cast("OutcomeDecoder", played), view, zero=0.0, rate=rate, kill=kill
    )
    subject.run(EVENTS)
    return subject, subject.observations.checker.verdict(), view.notes


def test_drive_ends_when_all_is_answered(world: World) -> None:
    subject, verdict, notes = driven(world)
    assert verdict.passed
    assert (subject.observations.results, subject.watch.crashes) == (len(EVENTS), 0)  # read twice, counted once
    assert notes == ["all answered: workers stop, output topics are read to their end"]


@pytest.mark.timeout(30)
def test_drive_says_that_events_are_missing_when_no_answer_comes(world: World) -> None:
    world.answers = False
    _, verdict, notes = driven(world)
    assert verdict.missing == len(EVENTS)
    assert notes[0].startswith("8 not answered, and no new answer for 0.3 s: ")


def test_drive_waits_for_answers_from_when_the_last_event_was_sent(world: World) -> None:
    world.answers = False
    world.reads_until_all_answered = 3
    _, verdict, _ = driven(world, rate=16.0)  # sending takes longer than is waited without answers
    assert verdict.missing == 0


@pytest.mark.timeout(30)
def test_drive_ends_although_duplicates_keep_coming(world: World) -> None:
    world.answers = False
    world.endless_duplicates = True
    _, verdict, _ = driven(world)
    assert verdict.missing == len(EVENTS) - 1
    assert verdict.duplicates > 0


def test_drive_finds_a_duplicate_that_was_committed_as_the_workers_stopped(world: World) -> None:
    world.late_duplicate = True
    _, verdict, _ = driven(world)
    assert (verdict.duplicates, verdict.missing) == (1, 0)


def test_drive_waits_until_the_killed_worker_is_ready_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [True, False, False]
    monkeypatch.setattr(drive, "is_answering", lambda _: answers.pop())
    subject, verdict, notes = driven(world, kill=True)
    assert verdict.passed
    assert (answers, subject.watch.crashes) == ([], 0)
    assert any("is started again" in note for note in notes)


def test_recovery_of_nothing_is_not_announced(world: World) -> None:
    world.worker = "headrace-9"  # the one that is killed owns nothing
    _, _, notes = driven(world, kill=True)
    assert not any("every partition flows again" in note for note in notes)


@pytest.mark.timeout(30)
def test_killed_worker_that_stays_away_is_found(world: World) -> None:
    world.restarts = False
    subject, _, notes = driven(world, kill=True)
    assert subject.watch.crashes == 1
    assert notes[-1] == "worker 0 was killed, and did not get ready again"
