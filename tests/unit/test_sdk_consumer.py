"""Iterating over a consumer, with a reader by hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from headrace import Provenance, ResultConsumer, SourceRecord, UnavailableError


class FakeReader:
    """Hands over what lies in ``arrivals``, or raises it once."""

    def __init__(self) -> None:
        self.arrivals: deque[int | Exception] = deque()
        self.closed = False

    def read(self, timeout_seconds: float) -> SourceRecord | None:
        if not self.arrivals:
            return None
        arrival = self.arrivals[0]
        if isinstance(arrival, Exception):
            self.arrivals.popleft()
            raise arrival
        return SourceRecord(Provenance("results", 0, arrival, 1), None, b"not ours", ())

    def take(self) -> None:
        self.arrivals.popleft()

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> FakeReader:
    reader = FakeReader()
    monkeypatch.setattr("headrace.sdk.consumer.GroupReader", lambda *_, **__: reader)
    return reader


@pytest.fixture
def consumer(reader: FakeReader) -> Iterator[ResultConsumer]:
    with ResultConsumer(bootstrap_servers="nowhere:9092", group="g") as consumer:
        yield consumer
    assert reader.closed


def test_error_of_one_step_does_not_end_the_iteration(reader: FakeReader, consumer: ResultConsumer) -> None:
    reader.arrivals.extend([1, UnavailableError("away"), 2])
    records = iter(consumer)
    assert next(records).position.offset == 1
    with pytest.raises(UnavailableError):
        next(records)
    assert next(records).position.offset == 2
    consumer.close()
    assert list(records) == []


async def test_error_of_one_step_does_not_end_the_asynchronous_iteration(
    reader: FakeReader, consumer: ResultConsumer
) -> None:
    reader.arrivals.extend([1, UnavailableError("away"), 2])
    records = aiter(consumer)
    assert (await anext(records)).position.offset == 1
    with pytest.raises(UnavailableError):
        await anext(records)
    assert (await anext(records)).position.offset == 2
    consumer.close()
    assert [received async for received in records] == []


def test_registry_that_cannot_be_opened_leaves_no_reader_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FakeReader] = []

    def make(*_: Any, **__: Any) -> FakeReader:
        made.append(FakeReader())
        return made[-1]

    def refuse(_: object) -> None:
        raise ValueError("invalid url")

    monkeypatch.setattr("headrace.sdk.consumer.GroupReader", make)
    monkeypatch.setattr("headrace.sdk.consumer.open_registry", refuse)
    with pytest.raises(ValueError, match="invalid url"):
        ResultConsumer(bootstrap_servers="nowhere:9092", group="g")
    assert all(reader.closed for reader in made)
