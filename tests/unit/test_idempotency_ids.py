"""What is a duplicate, and what the settings make of it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from pydantic import ValidationError

from headrace.pipeline.config import Settings
from headrace.pipeline.errors import FatalError
from headrace.pipeline.idempotency import Arrival, PartitionIds, Seen, decode_seen, encode_seen, key_of
from headrace.pipeline.setup import topic_specs
from tests.unit.idempotency_bench import SEEN, settings_with
from tests.unit.processor_bench import TOPICS

WINDOW_MS = 1000.0
A, B, C = (key_of(f"00000000-0000-4000-8000-00000000000{letter}") for letter in "abc")


def first(ids: PartitionIds[int], offset: int, key: bytes, timestamp_ms: int = 0) -> Arrival:
    """A record arrives, and if it is processed its result is committed."""
    arrival = ids.arrive(offset, key, timestamp_ms, WINDOW_MS, offset)
    if arrival is Arrival.FIRST:
        ids.note(key, Seen(timestamp_ms, offset))
        assert ids.settle(offset) == ()
    return arrival


def test_id_is_the_same_however_it_is_written() -> None:
    assert key_of("0000000A-0000-4000-8000-000000000000") == key_of("0000000a-0000-4000-8000-000000000000")


def test_window_is_by_the_records_timestamps_either_way() -> None:
    ids = PartitionIds[int](10)
    arrivals = [first(ids, offset, A, ms) for offset, ms in enumerate([5000, 5000, 6000, 4000, 6001, 7001, 7002])]
    assert [each is Arrival.DUPLICATE for each in arrivals] == [False, True, True, True, False, True, False]


def test_newest_ids_are_remembered() -> None:
    ids = PartitionIds[int](2)
    assert [first(ids, offset, key) for offset, key in enumerate([A, B, C])] == [Arrival.FIRST] * 3
    assert [first(ids, 3, C), first(ids, 4, B)] == [Arrival.DUPLICATE] * 2
    assert first(ids, 5, A) is Arrival.FIRST
    assert len(ids) == 2


def test_record_is_no_duplicate_of_itself_nor_of_a_later_one() -> None:
    """The group's offsets were set back, so that all is answered again."""
    ids = PartitionIds[int](2)
    for key in (A, B):
        ids.note(key, Seen(0, 7))
    arrivals = [first(ids, offset, key) for offset, key in [(6, A), (7, A), (7, B), (8, B)]]
    assert arrivals == [Arrival.FIRST, Arrival.DUPLICATE, Arrival.FIRST, Arrival.DUPLICATE]


def test_parked_records_are_freed_by_what_becomes_of_their_first() -> None:
    ids = PartitionIds[int](10)
    assert [ids.arrive(each, A, 0, WINDOW_MS, each) for each in range(5)] == [Arrival.FIRST] + [Arrival.PARKED] * 4
    assert ids.settle(0) == ((1, Arrival.FIRST),)  # a dead letter
    ids.note(A, Seen(0, 1))
    assert ids.settle(1) == tuple((offset, Arrival.DUPLICATE) for offset in (2, 3, 4))
    assert ids.settle(1) == ids.settle(2) == ()


def test_parked_record_beyond_the_window_is_processed() -> None:
    ids = PartitionIds[int](10)
    ids.arrive(0, A, 0, WINDOW_MS, 0)
    assert ids.arrive(1, A, 1001, WINDOW_MS, 1) is Arrival.PARKED
    ids.note(A, Seen(0, 0))
    assert ids.settle(0) == ((1, Arrival.FIRST),)


def test_id_that_is_forgotten_is_another_event() -> None:
    ids = PartitionIds[int](10)
    assert [first(ids, 0, A), first(ids, 1, B)] == [Arrival.FIRST] * 2
    ids.forget(A)
    ids.forget(C)
    assert [first(ids, 2, A), first(ids, 3, B)] == [Arrival.FIRST, Arrival.DUPLICATE]


@pytest.mark.parametrize("seen", [Seen(0, 0), Seen(1_800_000_000_000, 2**62), Seen(-1, 3)])
def test_value_of_a_changelog_record_is_read_as_written(seen: Seen) -> None:
    assert decode_seen(encode_seen(seen)) == seen


@pytest.mark.parametrize("value", [None, b"", b"\x01", b"\x02" + bytes(16), encode_seen(Seen(0, 0)) + b"\x00"])
def test_changelog_record_that_is_not_understood_stops_the_worker(value: bytes | None) -> None:
    with pytest.raises(FatalError, match="none that this release writes"):
        decode_seen(value)


def test_each_request_topic_of_such_a_route_has_a_changelog_as_wide_as_itself() -> None:
    def changelogs(*routes: Mapping[str, object]) -> dict[str, str | None]:
        topics = {"requests": ["a", "b", "lane"]}
        settings = Settings.model_validate({"name": "mill", "topics": topics, "routes": routes})
        return {spec.name: spec.as_wide_as for spec in topic_specs(settings) if spec.as_wide_as}

    route: dict[str, object] = {"name": "text", "model": "echo"}
    lane: dict[str, object] = {"name": "lane", "model": "echo", "topics": ["lane"]}
    assert changelogs(route, lane) == {}
    assert changelogs({**route, "idempotency": {}}, lane) == {"mill.seen.a": "a", "mill.seen.b": "b"}
    assert changelogs(route, {**lane, "idempotency": {}}) == {"mill.seen.lane": "lane"}


def test_changelog_retains_the_longest_window() -> None:
    (spec,) = (spec for spec in topic_specs(settings_with(idempotency={"window_seconds": 600_000})) if spec.as_wide_as)
    assert spec.config["cleanup.policy"] == "compact,delete"
    assert int(spec.config["retention.ms"]) > 600_000_000


@pytest.mark.parametrize(
    ("topics", "said"),
    [
        ({"results": SEEN}, "mill.seen.requests is topics.seen, for requests"),
        ({"seen": "x" * 240, "requests": ["of-the-mill"]}, "set topics.seen"),
    ],
)
def test_changelogs_name_is_its_own_and_short_enough(topics: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Settings.model_validate(
            {
                "name": "mill",
                "topics": {"requests": ["requests"], **topics},
                "routes": [{"name": "text", "model": "echo", "idempotency": {}}],
            }
        )


def test_changelogs_of_two_groups_differ_whatever_the_prefix() -> None:
    for seen in (None, "ids"):
        topics = {**TOPICS, "seen": seen}
        one, other = (Settings.model_validate({"name": name, "topics": topics}) for name in ("mill", "loom"))
        assert one.seen_topic("requests") == ("mill.seen.requests" if seen is None else "ids.mill.requests")
        assert one.seen_topic("requests") != other.seen_topic("requests")


def test_more_ids_than_a_rebalance_has_time_for_are_refused() -> None:
    def settings(max_ids: int) -> Settings:
        route = {"name": "text", "model": "echo", "idempotency": {"max_ids": max_ids}}
        return Settings.model_validate({"kafka": {"max_poll_interval_seconds": 100}, "routes": [route]})

    assert settings(1_440_000).routes[0].idempotency
    with pytest.raises(ValidationError, match=r"idempotency\.max_ids of text must be at most 1,440,000, .* in 72 s"):
        settings(1_440_001)
