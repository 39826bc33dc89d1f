from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import pytest

from headrace.connectors.kafka.producer import DeliveryReport, EventSender
from headrace.pipeline.cli.deliveries import IN_FLIGHT_BYTES, IN_FLIGHT_RECORDS, Delivered, Deliveries
from headrace.pipeline.errors import UnavailableError
from headrace.pipeline.records import Headers


class SlowSender:
    """Confirms some of what it has, in any order, when it is polled; fails from a record on, if told."""

    def __init__(self, fail_at: int | None = None) -> None:
        self._random = random.Random(7)
        self._waiting: list[tuple[DeliveryReport, Callable[[DeliveryReport], None], int]] = []
        self._fail_at = fail_at
        self._count = 0
        self.most_records = 0
        self.most_bytes = 0

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        on_delivery: Callable[[DeliveryReport], None],
        key: bytes | None = None,
        headers: Headers = (),
    ) -> None:
        if self._count == self._fail_at:
            raise UnavailableError("gone")
        self._waiting.append((DeliveryReport(topic, 0, self._count, 0), on_delivery, len(value or b"")))
        self._count += 1
        self.most_records = max(self.most_records, len(self._waiting))
        self.most_bytes = max(self.most_bytes, sum(size for _, _, size in self._waiting))

    def poll(self, timeout_seconds: float = 0.0) -> None:
        self._random.shuffle(self._waiting)
        for _ in range(len(self._waiting) // 2 + 1):
            if self._waiting:
                report, confirm, _ = self._waiting.pop()
                confirm(report)


def run(sender: SlowSender, sizes: list[int]) -> tuple[list[Delivered], list[Delivered], Deliveries]:
    confirmed: list[Delivered] = []
    delivered: list[Delivered] = []
    deliveries = Deliveries(cast("EventSender", sender), "topic", confirmed.append, delivered.append)
    for number, size in enumerate(sizes):
        deliveries.send(f"id-{number}", f"file {number}", None, bytes(size), ())
    deliveries.drain()
    return confirmed, delivered, deliveries


def test_records_are_told_of_in_order_however_they_are_confirmed() -> None:
    confirmed, delivered, deliveries = run(SlowSender(), [10] * 3 * IN_FLIGHT_RECORDS)
    assert [each.report.offset for each in delivered] == list(range(3 * IN_FLIGHT_RECORDS))
    assert [each.request_id for each in delivered] == [f"id-{number}" for number in range(3 * IN_FLIGHT_RECORDS)]
    assert confirmed != delivered
    assert sorted(each.report.offset for each in confirmed) == list(range(3 * IN_FLIGHT_RECORDS))
    assert (deliveries.unconfirmed, deliveries.confirmed) == (0, 3 * IN_FLIGHT_RECORDS)
    assert sum(each.bytes for each in delivered) == 30 * IN_FLIGHT_RECORDS


def test_never_more_than_the_bounds_is_in_flight() -> None:
    many = SlowSender()
    run(many, [1] * 3 * IN_FLIGHT_RECORDS)
    assert many.most_records == IN_FLIGHT_RECORDS
    large = SlowSender()
    run(large, [IN_FLIGHT_BYTES // 5] * 40)
    assert IN_FLIGHT_BYTES // 2 < large.most_bytes <= IN_FLIGHT_BYTES


def test_record_larger_than_the_bound_goes_alone() -> None:
    sender = SlowSender()
    _, delivered, _ = run(sender, [10, 2 * IN_FLIGHT_BYTES, 10])
    assert len(delivered) == 3
    assert sender.most_bytes == 2 * IN_FLIGHT_BYTES


def test_record_that_is_not_taken_is_not_in_flight() -> None:
    deliveries = Deliveries(cast("EventSender", SlowSender(fail_at=1)), "t", lambda _: None, lambda _: None)
    deliveries.send("a", "a", None, b"x", ())
    with pytest.raises(UnavailableError):
        deliveries.send("b", "b", None, b"x", ())
    assert deliveries.unconfirmed == 1
    deliveries.drain()
    assert (deliveries.unconfirmed, deliveries.confirmed) == (0, 1)


def test_nothing_is_told_while_the_sender_calls_back() -> None:
    inside: list[bool] = []

    @contextmanager
    def held() -> Iterator[None]:
        inside.append(True)
        yield
        inside.pop()

    told: list[bool] = []
    deliveries = Deliveries(
        cast("EventSender", SlowSender()), "t", lambda _: told.append(bool(inside)), lambda _: None, held
    )
    for _ in range(2 * IN_FLIGHT_RECORDS):
        deliveries.send("a", "a", None, b"x", ())
    deliveries.drain()
    assert told == [False] * 2 * IN_FLIGHT_RECORDS


def test_waiting_for_confirmations_ends_in_time() -> None:
    class SilentSender(SlowSender):
        def poll(self, timeout_seconds: float = 0.0) -> None:
            """Nobody answers."""

    deliveries = Deliveries(cast("EventSender", SilentSender()), "t", lambda _: None, lambda _: None)
    deliveries.send("a", "a", None, b"x", ())
    deliveries.drain(0.01)
    assert deliveries.unconfirmed == 1
