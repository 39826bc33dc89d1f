from __future__ import annotations

from typing import cast

import pytest
from confluent_kafka import Message

from headrace.connectors.kafka.producer import UNKNOWN_OFFSET, DeliveryReport, _delivery


class Delivered:
    """What a delivery report is about."""

    def __init__(self, offset: int | None) -> None:
        self._offset = offset

    def topic(self) -> str:
        return "requests"

    def partition(self) -> int:
        return 3

    def offset(self) -> int | None:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return 1, 99


@pytest.mark.parametrize(("offset", "told"), [(7, 7), (None, UNKNOWN_OFFSET)])
def test_report_without_an_offset_is_a_delivery_all_the_same(offset: int | None, told: int) -> None:
    """A broker that had the record already, when it was sent again, need not say where."""
    assert _delivery(cast("Message", Delivered(offset))) == DeliveryReport("requests", 3, told, 99)
