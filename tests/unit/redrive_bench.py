"""Processes that redrive the same dead letters, on a fake coordinator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

from confluent_kafka import Producer

from headrace.connectors.kafka.redrive import KafkaRedrives
from headrace.pipeline.config import Settings
from headrace.pipeline.letters import Letter
from headrace.pipeline.records import DeadLetter, Headers, OutputRecord, Provenance, SourceRecord
from headrace.pipeline.redrive_course import Read
from headrace.pipeline.redriving import SEAL_KEY, DeadLetters, Marks, Redriving, marks_topic
from tests.unit.fake_coordinator import FakeCoordinator

SETTINGS = Settings.model_validate({"routes": [{"name": "text", "model": "echo", "retries": {"delays": ["5s"]}}]})
DEAD = SETTINGS.topics.dead_letters
LETTERS = DeadLetters(DEAD, "first")
NOW_MS = 1_800_000_000_000
OWN: Headers = (("ce_source", b"headrace"),)


def letter(offset: int, partition: int = 0, *, headers: Headers = OWN, **changed: Any) -> Letter:
    """The dead letter at an offset, of the event at the hundredfold."""
    content = DeadLetter(
        key=b"k",
        value=b"v%d" % offset,
        headers=(("a", b"1"), ("a", None)),
        provenance=Provenance("inference.requests", 3, 100 * offset, NOW_MS - 9000),
        stage="infer",
        code="RETRIES_EXHAUSTED",
        message="4 attempts failed",
        attempts=4,
        first_failed_ms=NOW_MS - 8000,
        last_failed_ms=NOW_MS - 7000,
        worker="headrace-0",
    )
    record = SourceRecord(Provenance(DEAD, partition, offset, NOW_MS - 7000), b"k", b"", headers)
    return Letter(record, replace(content, **changed))


def reads(letters: Sequence[Letter]) -> list[Read]:
    return [(each.record, each) for each in letters]


class RedriveBench:
    """What is committed, and the dead letters."""

    def __init__(self, count: int) -> None:
        self.letters = [letter(offset) for offset in range(count)]
        self.coordinator = FakeCoordinator()

    @property
    def redriven(self) -> Counter[int]:
        """How often each was redriven, by the offset of the dead letter."""
        return Counter(self._offsets())

    def _offsets(self) -> Iterator[int]:
        for message in self.coordinator.committed:
            if message.topic() == SETTINGS.redriven_topic:
                yield int((message.value() or b"")[1:])

    @property
    def marks(self) -> list[SourceRecord]:
        """The topic of marks."""
        topic = marks_topic(SETTINGS)
        found = enumerate(each for each in self.coordinator.committed if each.topic() == topic)
        return [SourceRecord(Provenance(topic, 0, at, 0), each.key(), each.value(), ()) for at, each in found]

    def newest(self) -> bytes | None:
        marks = self.marks
        assert not marks or marks[-1].key == SEAL_KEY
        return marks[-1].value if marks else None


class RedriveProcess:
    """``headrace dlq redrive``, a transaction at a time."""

    def __init__(self, bench: RedriveBench, unit_letters: int) -> None:
        self._bench = bench
        self._unit_letters = unit_letters
        self._redrives = KafkaRedrives(
            SETTINGS,
            make_producer=cast("Callable[..., Producer]", bench.coordinator.producer),
            newest=bench.newest,
        )
        self._left: list[Letter] = []
        self.redriving: Redriving | None = None

    async def start(self) -> None:
        await self._redrives.start()
        marks = Marks(LETTERS)
        for record in self._bench.marks:
            marks.take(record)
        self.redriving = Redriving(SETTINGS, marks)
        self._left = [each for each in self._bench.letters if self.redriving.left(each) is None]

    async def step(self) -> bool:
        """Redrive the next. False if there are no more. Raises FencedError if another process has begun."""
        assert self.redriving is not None
        unit, self._left = self._left[: self._unit_letters], self._left[self._unit_letters :]
        if not unit:
            return False
        await self._redrives.commit([output for each in unit for output in self.redriving.records(each, NOW_MS)])
        return True

    async def write(self, outputs: Sequence[OutputRecord]) -> None:
        await self._redrives.commit(outputs)

    async def close(self) -> None:
        await self._redrives.close()
