"""How duplicates go through the processor, and a worker."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from dataclasses import replace
from typing import cast

import pytest

from headrace.pipeline import metrics
from headrace.pipeline.config import Settings
from headrace.pipeline.errors import FatalError, OutputRefusedError, PoisonError
from headrace.pipeline.idempotency import Seen, decode_seen, key_of
from headrace.pipeline.journey import PartTask
from headrace.pipeline.ports import StartPosition
from headrace.pipeline.records import Headers, OutputRecord, RecordBatch, TopicPartition
from headrace.pipeline.user_code import Record
from headrace.pipeline.worker import Connections, Worker
from tests.unit.fake_connections import FakeConnections
from tests.unit.fakes import FakeBroker, LoopClock, on_virtual_time, request_value, settle
from tests.unit.idempotency_bench import DELAY, SEEN, Fate, Life, World
from tests.unit.processor_bench import P0, TOPICS

A = key_of("00000000-0000-4000-8000-00000000000a")


DELAYED = TopicPartition(DELAY, 1)


def world(*fates: Fate, **more: object) -> World:
    made = World(list(fates), **more)  # type: ignore[arg-type]
    for number in range(len(fates)):
        made.send(number)
    return made


def take_back(scene: World) -> OutputRecord:
    """What the first record has become in the delay topic, from where it is gone now; it is answered from now on."""
    (put_off,) = (output for output in scene.broker.outputs if output.topic == DELAY)
    scene.fates[0] = Fate(0)
    scene.broker.outputs.remove(put_off)
    return put_off


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
    scene = world(Fate(0, outcome="off"), Fate(0, outcome="dead"), Fate(0), Fate(0))
    life = Life(scene)
    await life.start(DELAYED)
    await life.work_off()
    assert scene.outcomes() == {0: "off", 1: "dead", 2: "result"}
    put_off = take_back(scene)
    scene.broker.send(DELAYED, put_off.key, put_off.value, put_off.headers)
    await life.work_off(DELAYED)
    await life.stop()
    assert scene.outcomes() == {0: "result", 1: "dead", 2: "result"}
    assert [_seen(output).offset for output in scene.broker.outputs if output.topic == SEEN] == [2, 0]


def _seen(output: OutputRecord) -> Seen:
    return decode_seen(output.value)


@on_virtual_time
async def test_restore_that_is_cancelled_or_fails_collects_no_more() -> None:
    scene = world()
    life = Life(scene)
    await life.start()
    life.changelog.hold()
    restoring = asyncio.create_task(life.duplicates.restore([P0]))
    await settle()
    assert life.duplicates._restoring.keys() == {P0}
    restoring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await restoring
    assert not life.duplicates._restoring
    life.changelog.let_go()
    scene.broker.outputs.append(OutputRecord(SEEN, A, b"", partition=0))
    with pytest.raises(FatalError, match="none that this release writes"):
        await life.duplicates.restore([P0])
    assert not life.duplicates._restoring
    await life.stop()


async def first_put_off() -> tuple[World, Life, OutputRecord]:
    """The first record, which is answered when it comes back, has gone to the delay topic: nothing of it is there."""
    scene = world(Fate(0, outcome="off"))
    life = Life(scene)
    await life.start(DELAYED)
    await life.work_off()
    return scene, life, take_back(scene)


@on_virtual_time
async def test_retry_that_is_committed_while_its_partition_is_restored_counts() -> None:
    """The changelog is read to an end that it had before."""
    scene, life, put_off = await first_put_off()
    await life.source.revoke()
    await life.source.assign(DELAYED)
    life.changelog.hold()
    restoring = asyncio.create_task(life.flow.assigned(9, {P0: scene.broker.position(P0)}))
    await settle()
    life.changelog.freeze()
    scene.broker.send(DELAYED, put_off.key, put_off.value, put_off.headers)
    await life.work_off(DELAYED)
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
    scene, life, put_off = await first_put_off()
    scene.broker.send(DELAYED, put_off.key, put_off.value, put_off.headers)
    await life.work_off(DELAYED)
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
