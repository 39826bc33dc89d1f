"""How far fixed ranges are read: by what the client hands over, and by nothing else."""

from __future__ import annotations

import re
from typing import cast

import pytest
from confluent_kafka import KafkaError, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.connectors.kafka import ranges
from headrace.connectors.kafka.ranges import RangeCursor, range_consumer_config
from headrace.pipeline.errors import FatalError
from headrace.pipeline.replay.ranges import PartitionRange
from tests.unit.fake_group_client import TOPIC, FakeMessage

EOF = KafkaError._PARTITION_EOF


class FailedMessage(FakeMessage):
    def __init__(self, partition: int, offset: int, error: KafkaError) -> None:
        super().__init__(partition, offset)
        self._error = error

    def error(self) -> KafkaError:
        return self._error


def cursor_of(*told: tuple[int, int, int]) -> RangeCursor:
    return RangeCursor(TOPIC, [PartitionRange(*each) for each in told])


def take(cursor: RangeCursor, partition: int, offset: int) -> int | None:
    """The offset of the record that is taken."""
    record = cursor.take(cast("Message", FakeMessage(partition, offset)))
    return None if record is None else record.provenance.offset


def end(cursor: RangeCursor, partition: int, offset: int) -> None:
    """The client says that the partition ends here."""
    assert fail(cursor, EOF, partition, offset) is None


def fail(cursor: RangeCursor, code: int, partition: int = 0, offset: int = 0, *, fatal: bool = False) -> object:
    error = KafkaError(code, "why", fatal)
    return cursor.take(cast("Message", FailedMessage(partition, offset, error)))


def test_records_of_the_range_are_taken_and_end_it() -> None:
    cursor = cursor_of((0, 5, 8))
    assert cursor.unread_offsets == 3
    assert [take(cursor, 0, offset) for offset in (5, 6)] == [5, 6]
    assert (cursor.unread, cursor.unread_offsets) == ({0}, 1)
    assert take(cursor, 0, 7) == 7
    assert (cursor.unread, cursor.unread_offsets) == (set(), 0)


def test_record_is_taken_as_it_is() -> None:
    message = FakeMessage(0, 5, None)
    record = cursor_of((0, 5, 8)).take(cast("Message", message))
    assert record is not None
    assert (record.provenance.topic, record.provenance.partition, record.value) == (TOPIC, 0, None)


def test_empty_range_is_done_before_anything_is_read() -> None:
    cursor = cursor_of((0, 5, 5), (1, 0, 2))
    assert cursor.unread == {1}
    assert take(cursor, 0, 5) is None
    assert cursor.next == {0: 5, 1: 0}


def test_markers_at_the_end_of_the_range_are_passed_over_by_a_later_record() -> None:
    cursor = cursor_of((0, 0, 10))
    assert take(cursor, 0, 7) == 7
    assert (cursor.unread, cursor.unread_offsets) == ({0}, 2)
    assert take(cursor, 0, 12) is None
    assert (cursor.unread, cursor.unread_offsets, cursor.next[0]) == (set(), 0, 10)


@pytest.mark.parametrize("at", [10, 25])
def test_markers_at_the_end_of_the_range_are_passed_over_by_the_partitions_end(at: int) -> None:
    cursor = cursor_of((0, 0, 10))
    take(cursor, 0, 7)
    end(cursor, 0, at)
    assert (cursor.unread, cursor.unread_offsets, cursor.next[0]) == (set(), 0, 10)


def test_end_of_the_partition_before_the_ranges_own_does_not_end_it() -> None:
    """A broker that has just become the leader may not know yet how far all is committed."""
    cursor = cursor_of((0, 0, 10))
    end(cursor, 0, 6)
    cursor.check()
    assert cursor.unread == {0}
    assert [take(cursor, 0, offset) for offset in (0, 6, 9)] == [0, 6, 9]
    assert cursor.unread == set()


def test_partition_that_stays_shorter_than_its_range_ends_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    cursor = cursor_of((0, 0, 10), (1, 0, 10))
    take(cursor, 1, 5)
    end(cursor, 1, 6)
    cursor.check()
    monkeypatch.setattr(ranges, "SHORT_SECONDS", -1.0)
    with pytest.raises(FatalError, match=rf"^{TOPIC}\[1\] ends before offset 10, where the range does"):
        cursor.check()


@pytest.mark.parametrize("offset", [6, 9, 10, 12])
def test_partition_that_was_short_for_a_moment_goes_on(offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cursor = cursor_of((0, 0, 10))
    end(cursor, 0, 6)
    take(cursor, 0, offset)
    monkeypatch.setattr(ranges, "SHORT_SECONDS", -1.0)
    cursor.check()


def test_partition_that_was_short_for_a_moment_may_end_without_another_record(monkeypatch: pytest.MonkeyPatch) -> None:
    cursor = cursor_of((0, 0, 10))
    end(cursor, 0, 6)
    end(cursor, 0, 10)
    monkeypatch.setattr(ranges, "SHORT_SECONDS", -1.0)
    cursor.check()
    assert cursor.unread == set()


def test_range_of_markers_alone_ends() -> None:
    cursor = cursor_of((0, 3, 6))
    end(cursor, 0, 6)
    assert cursor.unread == set()


def test_record_at_the_ranges_end_is_not_of_it() -> None:
    cursor = cursor_of((0, 0, 10))
    assert take(cursor, 0, 10) is None
    assert cursor.unread == set()


def test_what_comes_after_a_range_is_done_is_left_out() -> None:
    cursor = cursor_of((0, 0, 3), (1, 0, 3))
    take(cursor, 0, 2)
    assert [take(cursor, 0, offset) for offset in (0, 2, 3, 4)] == [None] * 4
    end(cursor, 0, 4)
    assert (cursor.next[0], cursor.unread) == (3, {1})


def test_partitions_without_a_range_are_left_out() -> None:
    cursor = cursor_of((1, 0, 3))
    assert take(cursor, 0, 1) is None
    end(cursor, 0, 9)
    assert (cursor.next, cursor.unread) == ({1: 0}, {1})


def test_partitions_end_each_for_itself() -> None:
    cursor = cursor_of((0, 0, 2), (1, 0, 2))
    assert [take(cursor, *each) for each in ((1, 0), (0, 0), (1, 1))] == [0, 0, 1]
    assert (cursor.unread, cursor.unread_offsets) == ({0}, 1)


def test_cursor_that_is_moved_goes_on_from_there() -> None:
    cursor = cursor_of((0, 0, 10), (1, 0, 10), (2, 0, 10))
    cursor.move(0, 4)
    cursor.move(1, 10)
    assert (cursor.unread, cursor.unread_offsets) == ({0, 2}, 16)
    places = [(place.topic, place.partition, place.offset) for place in cursor.places(cursor.unread)]
    assert places == [(TOPIC, 0, 4), (TOPIC, 2, 0)]


def test_range_is_done_if_it_was_committed_behind_its_end() -> None:
    cursor = cursor_of((0, 0, 10))
    cursor.move(0, 12)
    assert (cursor.unread, cursor.unread_offsets) == (set(), 0)


@settings(deadline=None)  # a busy machine
@given(st.sets(st.integers(0, 30)), st.integers(0, 30), st.integers(0, 30), st.booleans())
def test_every_record_of_the_range_is_taken_and_then_it_ends(
    offsets: set[int], start: int, length: int, more: bool
) -> None:
    """Whatever offsets have no record, and whether the topic goes on or not."""
    cursor = cursor_of((0, start, start + length))
    taken = []
    for offset in [*sorted(offsets), *([90] if more else [])]:
        if offset >= start and cursor.unread:
            taken.append(take(cursor, 0, offset))
    end(cursor, 0, 91 if more else 61)
    expected = sorted(offset for offset in offsets if start <= offset < start + length)
    assert [each for each in taken if each is not None] == expected
    assert (cursor.unread, cursor.unread_offsets) == (set(), 0)


# --- errors ---------------------------------------------------------------------------------------------------------


def test_records_that_are_gone_are_not_passed_over() -> None:
    cursor = cursor_of((0, 5, 8))
    with pytest.raises(FatalError, match=rf"^records of the range are gone from {TOPIC} \(why\): retention"):
        fail(cursor, KafkaError._AUTO_OFFSET_RESET)
    assert cursor.unread == {0}


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._AUTHENTICATION,
        KafkaError._BAD_MSG,
    ],
)
def test_refusal_ends_the_reading_with_its_reason(code: int) -> None:
    message = f"Kafka refused to hand over {TOPIC}: why ({KafkaError(code).name()})"
    with pytest.raises(FatalError, match=f"^{re.escape(message)}$"):
        fail(cursor_of((0, 5, 8)), code)


def test_any_error_that_the_client_calls_fatal_ends_the_reading() -> None:
    with pytest.raises(FatalError, match=r"^Kafka refused to hand over"):
        fail(cursor_of((0, 5, 8)), KafkaError._TRANSPORT, fatal=True)


@pytest.mark.parametrize(
    "code", [KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError.NOT_LEADER_FOR_PARTITION]
)
def test_passing_error_is_told_and_changes_nothing(code: int, caplog: pytest.LogCaptureFixture) -> None:
    cursor = cursor_of((0, 5, 8))
    assert fail(cursor, code, 0, 8) is None
    assert (cursor.next, cursor.unread) == ({0: 5}, {0})
    assert f"{TOPIC}: why ({KafkaError(code).name()})" in caplog.text


# --- the consumer's configuration -----------------------------------------------------------------------------------


def test_users_properties_cannot_change_what_a_replay_rests_on() -> None:
    client: dict[str, str | int | float | bool] = {
        "isolation.level": "read_uncommitted",
        "enable.auto.commit": True,
        "auto.offset.reset": "earliest",
        "enable.partition.eof": False,
        "bootstrap.servers": "elsewhere:9092",
        "fetch.max.bytes": 7,
    }
    config = range_consumer_config("nowhere:9092", client, 1024)
    assert (config["isolation.level"], config["auto.offset.reset"]) == ("read_committed", "error")
    assert (config["enable.auto.commit"], config["enable.partition.eof"]) == (False, True)
    assert config["bootstrap.servers"] == "nowhere:9092"
    assert config["fetch.max.bytes"] == 7
