"""What is compared is read from the real broker: the same by one process as by several that share in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer

from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.admin import ensure_topics
from headrace.connectors.registry import ConfluentRegistry
from headrace.pipeline.avro import Contract, schema_json
from headrace.pipeline.cli.gathering import Gathering
from headrace.pipeline.cli.gathering_jobs import Scope
from headrace.pipeline.config import Settings
from headrace.pipeline.errors import UnavailableError
from headrace.pipeline.evaluate.answer_topics import AnswerTopics
from headrace.pipeline.evaluate.compared import LeftOut, replayed_parts
from headrace.pipeline.records import TopicSpec
from headrace.pipeline.replay.ranges import Earliest, Latest
from headrace.pipeline.settings_file import load_settings
from headrace.pipeline.setup import COMPATIBILITY
from tests.integration.avro_ends import Answer, encode, event, numbers
from tests.integration.replays import Replays

EVENTS = 400
BROKEN = 5
Rows = dict[tuple[str, int, int], list[dict[str, Any]]]
"""By position of the event, in their order."""


@dataclass
class Told:
    """What is told of progress."""

    begun: list[tuple[str, int]] = field(default_factory=list)
    records: int = 0

    def begin(self, what: str, total: int) -> None:
        self.begun.append((what, total))

    def advance(self, count: int) -> None:
        self.records += count


@dataclass(frozen=True)
class Gathered:
    """What came of it."""

    tables: dict[str, Rows]
    events: tuple[int, int | None]
    left_out: LeftOut
    told: Told
    files: int


@pytest.fixture
def scene(stack: Endpoints, names: Callable[[str], str], tmp_path: Path) -> Iterator[Replays]:
    with Replays(stack, names("w"), tmp_path) as scene:
        ensure_topics(stack.bootstrap_servers, [TopicSpec(scene.requests, 4)])
        yield scene


def settings_of(scene: Replays, folder: Path) -> Settings:
    return load_settings(folder / "pipeline.yaml", scene.endpoints.environment())


def gathered(
    settings: Settings, scope: Callable[[Gathering], Scope], of: AnswerTopics, to: Path, count: int
) -> Gathered:
    to.mkdir()
    paths = {name: to / f"{name}-*.parquet" for name in ("events", "answers", "failures")}
    told = Told()
    with closing(Gathering(settings, told, processes=count, shared_offsets=1)) as gathering:
        found = scope(gathering)
        events = gathering.events(paths["events"], found)
        left_out = gathering.answers(paths["answers"], paths["failures"], of, found, events)
    tables = {name: rows(path) for name, path in paths.items()}
    return Gathered(tables, (events.count, events.first_ms), left_out, told, len(list(to.iterdir())))


def rows(tables: Path) -> Rows:
    found: Rows = defaultdict(list)
    for path in sorted(tables.parent.glob(tables.name)):
        for row in pq.read_table(path).to_pylist():
            found[row["topic"], row["partition"], row["offset"]].append(row)
    return found


def test_several_processes_gather_what_one_does(scene: Replays, tmp_path: Path) -> None:
    """Of each event in the same order, with what is broken, foreign or answered again; ranges end amid transactions."""
    scene.send_events([event(numbers(number)) for number in range(EVENTS)], headers=[("tenant", b"a")])
    scene.send([b"no Avro"] * BROKEN)
    scene.replay(scene.requests, "--run", "r")
    results, letters = f"{scene.runs}.r.results", f"{scene.runs}.r.dead-letters"
    with_second_answers(scene, results, scene.outcomes("r")[: EVENTS // 2])
    settings = settings_of(scene, tmp_path)
    of = AnswerTopics("run r", (results,), letters, own=True)

    for filters, least, most in (((), EVENTS + BROKEN, EVENTS + BROKEN), (("sample=80%",), EVENTS / 2, EVENTS - 1)):

        def scope(gathering: Gathering, filters: tuple[str, ...] = filters) -> Scope:
            ranges = gathering.ranges(scene.requests, Earliest(), Latest())
            return Scope(scene.requests, ranges, filters, (), partial(replayed_parts, settings.routes, ()))

        one, several = (
            gathered(settings, scope, of, tmp_path / f"{len(filters)}-by-{count}", count) for count in (1, 3)
        )
        assert (one.files, several.files) == (3, 9)
        assert several.tables == one.tables
        assert (several.events, several.left_out, several.told) == (one.events, one.left_out, one.told)

        tables = one.tables
        assert least <= one.events[0] == len(tables["events"]) <= most
        assert tables["events"].keys() == tables["answers"].keys() | tables["failures"].keys()
        assert one.left_out.unreadable == BROKEN
        assert (one.left_out.others == 0) is (not filters)
        again = [[row["batch_size"] for row in found][1:] for found in tables["answers"].values() if len(found) > 1]
        assert again == [[1_001, 1_002]] * len(again)
        assert len(again) > EVENTS / 4


def with_second_answers(scene: Replays, topic: str, answers: list[Answer]) -> None:
    """Two more results of the same events, each of a larger batch than the one before, and what is none."""
    with ConfluentRegistry(scene.endpoints.registry_url, 10) as registry:
        schema_id = registry.register(f"{topic}-value", schema_json(Contract.RESULT), COMPATIBILITY)
    producer = Producer({"bootstrap.servers": scene.endpoints.bootstrap_servers, "enable.idempotence": True})
    for answer in (each for each in answers if not each.dead):
        for batch_size in (1_001, 1_002):
            outputs = [{**output, "batch_size": batch_size} for output in answer.content["outputs"]]
            value = encode(schema_id, {**answer.content, "outputs": outputs}, schema_json(Contract.RESULT))
            producer.produce(topic, value, answer.key, answer.partition)
    for _ in range(BROKEN):
        producer.produce(topic, b"no Avro")
    assert producer.flush(30) == 0


def test_what_keeps_a_process_from_reading_is_told_in_a_line(scene: Replays, tmp_path: Path) -> None:
    scene.send_events([event(numbers(number)) for number in range(20)])
    settings = settings_of(scene, tmp_path)
    nobody = settings.registry.model_copy(update={"url": "http://127.0.0.1:9/apis"})
    with closing(
        Gathering(settings.model_copy(update={"registry": nobody}), Told(), processes=2, shared_offsets=1)
    ) as gathering:
        ranges = gathering.ranges(scene.requests, Earliest(), Latest())
        scope = Scope(scene.requests, ranges, (), (), partial(replayed_parts, settings.routes, ()))
        with pytest.raises(
            UnavailableError, match=r"^the schema registry at http://127\.0\.0\.1:9/apis, asked for .*answer"
        ):
            gathering.events(tmp_path / "events-*.parquet", scope)
