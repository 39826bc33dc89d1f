"""What is a duplicate, and how duplicates go through the processor."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import pytest
from pydantic import ValidationError

from headrace.pipeline import metrics
from headrace.pipeline.config import Settings
from headrace.pipeline.errors import FatalError, OutputRefusedError, PoisonError
from headrace.pipeline.idempotency import Arrival, PartitionIds, Seen, decode_seen, encode_seen, key_of
from headrace.pipeline.journey import PartTask
from headrace.pipeline.ports import StartPosition
from headrace.pipeline.records import Headers, OutputRecord, RecordBatch, TopicPartition
from headrace.pipeline.setup import topic_specs
from headrace.pipeline.user_code import Record
from headrace.pipeline.worker import Connections, Worker
from tests.unit.fake_connections import FakeConnections
from tests.unit.fakes import FakeBroker, LoopClock, on_virtual_time, request_value, settle
from tests.unit.idempotency_bench import DELAY, SEEN, Fate, Life, World, settings_with
from tests.unit.processor_bench import P0, TOPICS

WINDOW_MS = 1000.0
A, B, C = (key_of(f"00000000-0000-4000-8000-00000000000{letter}") for letter in "abc")


def first(ids: PartitionIds, offset: int, key: bytes, timestamp_ms: int = 0) -> Arrival:
    """A record arrives, and if it is processed its result is committed."""
    arrival = ids.arrive(offset, key, timestamp_ms, WINDOW_MS)
    if arrival is Arrival.FIRST:
        ids.note(key, Seen(timestamp_ms, offset))
        assert ids.settle(offset) == ()
    return arrival


def test_id_is_the_same_however_it_is_written() -> None:
    assert key_of("0000000A-0000-4000-8000-000000000000") == key_of("0000000a-0000-4000-8000-000000000000")


def test_window_is_by_the_records_timestamps_either_way() -> None:
    ids = PartitionIds(10)
    arrivals = [first(ids, offset, A, ms) for offset, ms in enumerate([5000, 5000, 6000, 4000, 6001, 7001, 7002])]
    assert [each is Arrival.DUPLICATE for each in arrivals] == [False, True, True, True, False, True, False]


def test_newest_ids_are_remembered() -> None:
    ids = PartitionIds(2)
    assert [first(ids, offset, key) for offset, key in enumerate([A, B, C])] == [Arrival.FIRST] * 3
    assert [first(ids, 3, C), first(ids, 4, B)] == [Arrival.DUPLICATE] * 2
    assert first(ids, 5, A) is Arrival.FIRST
    assert len(ids) == 2


def test_record_is_no_duplicate_of_itself_nor_of_a_later_one() -> None:
    """The group's offsets were set back, so that all is answered again."""
    ids = PartitionIds(2)
    for key in (A, B):
        ids.note(key, Seen(0, 7))
    arrivals = [first(ids, offset, key) for offset, key in [(6, A), (7, A), (7, B), (8, B)]]
    assert arrivals == [Arrival.FIRST, Arrival.DUPLICATE, Arrival.FIRST, Arrival.DUPLICATE]


def test_parked_records_are_freed_by_what_becomes_of_their_first() -> None:
    ids = PartitionIds(10)
    assert [ids.arrive(offset, A, 0, WINDOW_MS) for offset in range(5)] == [Arrival.FIRST] + [Arrival.PARKED] * 4
    assert ids.settle(0) == ((1, Arrival.FIRST),)  # a dead letter
    assert ids.parked == 3
    ids.note(A, Seen(0, 1))
    assert ids.settle(1) == tuple((offset, Arrival.DUPLICATE) for offset in (2, 3, 4))
    assert ids.parked == 0


def test_parked_record_beyond_the_window_is_processed() -> None:
    ids = PartitionIds(10)
    ids.arrive(0, A, 0, WINDOW_MS)
    assert ids.arrive(1, A, 1001, WINDOW_MS) is Arrival.PARKED
    ids.note(A, Seen(0, 0))
    assert ids.settle(0) == ((1, Arrival.FIRST),)


def test_id_that_is_forgotten_is_another_event() -> None:
    ids = PartitionIds(10)
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


# --- through the processor


def world(*fates: Fate, **more: object) -> World:
    made = World(list(fates), **more)  # type: ignore[arg-type]
    for number in range(len(fates)):
        made.send(number)
    return made


@on_virtual_time
async def test_duplicate_has_no_outcome_and_its_offset_is_committed() -> None:
    counted = metrics.DUPLICATES.labels("text")._value.get()
    scene = world(*[Fate(0)] * 3, Fate(1), Fate(0))
    life = Life(scene)
    await life.start()
    await life.work_off()
    await life.stop()
    assert scene.outcomes() == {0: "result", 3: "result"}
    assert metrics.DUPLICATES.labels("text")._value.get() == counted + 3
    assert scene.broker.position(P0) == StartPosition(5, "")


@on_virtual_time
async def test_second_waits_for_its_firsts_commit_and_takes_no_call_meanwhile() -> None:
    scene = world(Fate(0), Fate(0), commit_seconds=5.0)
    life = Life(scene)
    await life.start()
    life.source.poll()
    await asyncio.sleep(4.0)
    assert len(life.client.calls) == 1
    assert life.budget.records == 2, "the first's is in a transaction, the second waits for it"
    await life.work_off()
    await life.stop()
    assert scene.outcomes() == {0: "result"}


@on_virtual_time
async def test_id_of_an_aborted_result_does_not_count() -> None:
    """The successor finds neither of the two in the changelog, and answers the first."""
    scene = world(Fate(0), Fate(0), commit_seconds=5.0)
    life = Life(scene)
    await life.start()
    life.source.poll()
    await asyncio.sleep(4.0)
    await life.crash(committed=False)
    life = Life(scene)
    await life.start()
    assert len(life.client.calls) == 0
    await life.work_off()
    await life.stop()
    assert scene.outcomes() == {0: "result"}


@on_virtual_time
async def test_transaction_that_is_tried_again_parks_what_comes_between() -> None:
    """The first try's result is aborted, as its topic refuses it; the second try holds a dead letter."""
    scene = world(Fate(0), commit_seconds=5.0)
    life = Life(scene)
    life.transactions.failures.append(OutputRefusedError(0, "too large"))
    await life.start()
    life.source.poll()
    for number in (1, 2):
        await asyncio.sleep(3.0 if number == 1 else 5.0)
        scene.fates.append(Fate(0))
        scene.send(number)
        life.source.poll()
        await asyncio.sleep(0.5)
        assert len(life.client.calls) == 1
        assert len(life.transactions.failures) == (number == 1)
        assert scene.outcomes() == {}
    await life.work_off()
    await life.stop()
    assert scene.outcomes() == {0: "dead", 1: "result"}


@pytest.mark.parametrize("headers", [(("reply_topic", b"results"),), (("reply_partition", b"0"),)])
@on_virtual_time
async def test_call_is_answered_whatever_its_id_and_its_id_counts(headers: Headers) -> None:
    """Somebody waits for it."""
    scene = World([Fate(0, takes_seconds=1.0)] * 5)
    for number in range(3):
        scene.send(number, headers if number < 2 else ())
    life = Life(scene)
    await life.start()
    await life.work_off()
    assert len(life.client.calls) == 3
    scene.send(3)
    scene.send(4, headers)
    await life.work_off()
    await life.stop()
    assert scene.outcomes() == dict.fromkeys((0, 1, 2, 4), "result")


@on_virtual_time
async def test_tombstone_in_the_changelog_forgets_an_id() -> None:
    scene = world(Fate(0), Fate(1))
    life = Life(scene)
    await life.start()
    await life.work_off()
    await life.source.revoke()
    first = next(output for output in scene.broker.outputs if output.topic == SEEN)
    tombstone = replace(first, value=None)
    scene.broker.outputs.append(tombstone)
    await life.source.assign(P0)
    scene.broker.outputs.remove(tombstone)
    scene.fates += [Fate(0), Fate(1)]
    for number in (2, 3):
        scene.send(number)
    await life.work_off()
    await life.stop()
    assert scene.outcomes() == dict.fromkeys((0, 1, 2), "result")


@on_virtual_time
async def test_no_record_comes_before_its_partitions_ids_are_restored() -> None:
    scene = world(Fate(0))
    life = Life(scene)
    await life.start()
    await life.work_off()
    life.changelog.hold()
    await life.source.revoke()
    assigning = asyncio.create_task(life.source.assign(P0))
    await settle()
    assert not assigning.done()
    assert life.flow.partitions == frozenset()
    life.changelog.let_go()
    await assigning
    scene.fates.append(Fate(0))
    scene.send(1)
    await life.work_off()
    await life.stop()
    assert scene.outcomes() == {0: "result"}
    assert life.changelog.restored == [frozenset({P0})] * 2


@on_virtual_time
async def test_first_that_is_put_off_makes_no_duplicates_and_its_retry_is_none_but_counts() -> None:
    delayed = TopicPartition(DELAY, 1)
    scene = world(Fate(0, outcome="off"), Fate(0, outcome="dead"), Fate(0), Fate(0))
    life = Life(scene)
    await life.start(delayed)
    await life.work_off()
    assert scene.outcomes() == {0: "off", 1: "dead", 2: "result"}
    (put_off,) = (output for output in scene.broker.outputs if output.topic == DELAY)
    scene.fates[0] = Fate(0)
    scene.broker.outputs.remove(put_off)
    scene.broker.send(delayed, put_off.key, put_off.value, put_off.headers)
    await life.work_off(delayed)
    await life.stop()
    assert scene.outcomes() == {0: "result", 1: "dead", 2: "result"}
    assert [_seen(output).offset for output in scene.broker.outputs if output.topic == SEEN] == [2, 0]


def _seen(output: OutputRecord) -> Seen:
    return decode_seen(output.value)


@pytest.mark.parametrize("fails_first", [False, True])
@on_virtual_time
async def test_retry_that_is_committed_while_its_partition_is_restored_counts(fails_first: bool) -> None:
    """The changelog is read to an end that it had before. What fails leaves nothing behind."""
    delayed = TopicPartition(DELAY, 1)
    scene = world(Fate(0, outcome="off"))
    life = Life(scene)
    await life.start(delayed)
    await life.work_off()
    (put_off,) = (output for output in scene.broker.outputs if output.topic == DELAY)
    scene.fates[0] = Fate(0)
    scene.broker.outputs.remove(put_off)
    await life.source.revoke()
    await life.source.assign(delayed)
    life.changelog.hold()
    if fails_first:
        restoring = asyncio.create_task(life.duplicates.restore([P0]))
        await settle()
        restoring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await restoring
    restoring = asyncio.create_task(life.flow.assigned(9, {P0: scene.broker.position(P0)}))
    await settle()
    life.changelog.freeze()
    scene.broker.send(delayed, put_off.key, put_off.value, put_off.headers)
    await life.work_off(delayed)
    assert not restoring.done()
    life.changelog.let_go()
    await restoring
    life.source.generation = 9
    life.source.positions[P0] = 1
    scene.fates.append(Fate(0))
    scene.send(1)
    await life.work_off()
    await life.stop()
    assert scene.outcomes() == {0: "result"}


@on_virtual_time
async def test_retry_is_remembered_for_the_partition_that_its_record_came_from() -> None:
    delayed = TopicPartition(DELAY, 1)
    scene = world(Fate(0, outcome="off"))
    life = Life(scene)
    await life.start(delayed)
    await life.work_off()
    (put_off,) = (output for output in scene.broker.outputs if output.topic == DELAY)
    scene.fates[0] = Fate(0)
    scene.broker.outputs.remove(put_off)
    scene.broker.send(delayed, put_off.key, put_off.value, put_off.headers)
    await life.work_off(delayed)
    scene.fates.append(Fate(0))
    scene.send(1)
    await life.work_off()
    await life.stop()
    assert scene.outcomes() == {0: "result"}


@on_virtual_time
async def test_lead_route_decides() -> None:
    """Events of the other route are answered as often as they are sent, and none of their ids is remembered."""
    scene = World([Fate(0)] * 4)
    for number, kind in enumerate(["plain", "plain", "note", "note"]):
        scene.send(number, type=kind)
    life = Life(scene)
    await life.start()
    await life.work_off()
    await life.stop()
    topics = Counter(output.topic for output in scene.broker.outputs)
    assert topics == {"results": 3, SEEN: 1}


@on_virtual_time
async def test_duplicate_emits_nothing_and_waits_for_no_user_code_after_it() -> None:
    scene = world(Fate(0), Fate(0), Fate(1))
    life = Life(scene)
    seen: list[int] = []

    def after(record: Record) -> None:
        seen.append(record.provenance.offset)

    life.user_code.after["text"].append(after)
    await life.start()
    await life.work_off()
    await life.stop()
    assert seen == [0, 2]


@on_virtual_time
async def test_changelog_of_a_newer_release_is_told_by_its_record() -> None:
    scene = World([])
    scene.broker.outputs.append(OutputRecord(SEEN, A, b"\x02" + bytes(16), partition=0))
    with pytest.raises(FatalError, match=r"mill\.seen\.requests\[0\]@0 has a value that begins '02000000'"):
        await Life(scene).start()


# --- in a worker


class Hosted:
    """A worker on the fakes, whose processing is hosted by plain calls."""

    def __init__(self, **route: object) -> None:
        self._name = f"mill-{uuid.uuid4()}"
        settings = Settings.model_validate(
            {
                "name": self._name,
                "topics": TOPICS,
                "routes": [{"name": "text", "model": "echo", "batch": {"max_records": 1}, **route}],
            }
        )
        self.broker = FakeBroker()
        self.connections = FakeConnections(self.broker, settings)
        self.connections.to_assign = (P0,)
        self.worker = Worker(
            settings,
            lambda: cast("Connections", self.connections),
            LoopClock(),
            self._route,
            self._submit,
        )

    async def _route(self, batch: RecordBatch) -> None:
        await self.worker.route_batch(batch)

    async def _submit(self, route: str, tasks: list[PartTask]) -> None:
        await self.worker.submit(route, tasks)

    async def run(self) -> list[str]:
        """The same event twice, the first time it is refused by the model; the topics of what is written."""
        refusals = [PoisonError("infer", "INVALID_INPUT", "no")]
        self.connections.inference.script = lambda call: refusals.pop() if refusals else None
        for _ in range(3):
            self.broker.send(P0, b"k", request_value())
        running = asyncio.create_task(self.worker.run())
        await self.connections.consuming.wait()
        assert self.connections.source is not None
        self.connections.source.poll()
        await asyncio.sleep(5)
        await self.worker.stop()
        await running
        assert self.broker.position(P0) == StartPosition(3, "")
        return [output.topic.replace(self._name, "mill") for output in self.broker.outputs]


@on_virtual_time
async def test_worker_goes_on_with_what_was_parked_behind_a_dead_letter() -> None:
    assert await Hosted(idempotency={}).run() == ["dead", "results", SEEN]


@on_virtual_time
async def test_worker_without_it_reads_and_writes_no_changelog() -> None:
    assert sorted(await Hosted().run()) == ["dead", "results", "results"]
