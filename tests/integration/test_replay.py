"""Replay on the real servers: each record of a range once, whatever becomes of the process; nothing live is touched."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest
from click.testing import CliRunner
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.connectors.embedded.ports import LOOPBACK
from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.admin import ensure_topics
from headrace.pipeline.cli import cli
from headrace.pipeline.errors import FatalError
from headrace.pipeline.records import TopicSpec
from tests.integration.avro_ends import Answer, Position, event, numbers, text
from tests.integration.harness import Sent, wait_until
from tests.integration.mixed import mixed
from tests.integration.replays import COMMAND_SECONDS, Replays

EVENTS = 600
SLOWLY = "5"
"""Records a second: so that a replay is not over before something is done to it."""


@pytest.fixture
def scene(stack: Endpoints, names: Callable[[str], str], tmp_path: Path) -> Iterator[Replays]:
    scene = Replays(stack, names("w"), tmp_path)
    with scene:
        ensure_topics(stack.bootstrap_servers, [TopicSpec(scene.requests, 4)])
        yield scene


def counted(outcomes: list[Answer]) -> Counter[Position]:
    return Counter(each.answers for each in outcomes)


def positions(sent: list[Sent]) -> Counter[Position]:
    return Counter(each.position for each in sent)


def test_replay_killed_twice_answers_each_record_once_and_touches_nothing_live(scene: Replays) -> None:
    worker = scene.worker()
    sent = scene.send([*map(scene.value, mixed(EVENTS)), b"no Avro"])
    live = scene.settle(sent)
    live_topics = (scene.results, scene.dead_letters)
    before = scene.ends(*live_topics), scene.members()

    process = scene.start(scene.requests, "--run", "r", "--rate", SLOWLY)
    answered = 0
    for speed in (("--rate", SLOWLY), ()):
        wait_until(lambda seen=answered: scene.answered("r") > seen, 60, "more outcomes")  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        answered = scene.answered("r")
        assert answered < len(sent), "it was over before it could be killed"
        process = scene.start("--resume", "r", *speed)
    out, err = process.communicate(timeout=COMMAND_SECONDS)
    assert process.returncode == 0, err

    assert (scene.ends(*live_topics), scene.members()) == before
    assert worker.running
    outcomes = scene.outcomes("r")
    assert counted(outcomes) == positions(sent)
    assert {each.answers for each in outcomes if each.dead} == {each for each, answer in live.items() if answer.dead}
    told, shown = json.loads(out.splitlines()[-1]), scene.shown("r")
    for found in (told, shown):
        assert (found["results"], found["dead_letters"], found["resumed"]) == (EVENTS, 1, 2)
        assert found["state"] == "complete"
    assert scene.groups() == {scene.group: "STABLE"}


def test_replay_with_a_triton_of_its_own_needs_no_other_and_leaves_none_behind(scene: Replays) -> None:
    """It gives way to all else on the machine, and is gone with its replay, however that ends."""
    sent = scene.send_events([event(numbers(index)) for index in range(40)])
    scene.endpoints = replace(scene.endpoints, triton_grpc=f"{LOOPBACK}:1")
    process = scene.start(scene.requests, "--run", "r", "--own-triton", "--rate", SLOWLY)
    try:
        wait_until(lambda: scene.answered("r") or process.poll() is not None, 180, "outcomes of the run")
        assert process.poll() is None, process.communicate()
        below = psutil.Process(process.pid).children(recursive=True)
        (triton,) = [each for each in below if each.name() == "tritonserver"]
        assert triton.nice() == 19
    finally:
        process.kill()
        process.communicate()
    _, alive = psutil.wait_procs([triton], 20)
    assert alive == []
    done = scene.run("replay", "--resume", "r", "--own-triton", "--json")
    assert done.returncode == 0, done.stderr
    assert counted(scene.outcomes("r")) == positions(sent)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("REQUESTS", "--from", "yesterday"), "'yesterday' is no place in a topic"),
        (("REQUESTS", "--from", "0:1200"), "1200"),
        (("nowhere",), "topic nowhere does not exist"),
        (("REQUESTS", "--route", "nowhere"), "nowhere"),
        (("REQUESTS", "--run", "taken"), "there is a run taken: go on with it by --resume taken"),
        (("--resume", "nothing"), "there is no run nothing"),
    ],
)
def test_wrong_arguments_are_told_before_a_triton_is_started(
    scene: Replays, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], told: str
) -> None:
    def refuse(_: Sequence[Path]) -> NoReturn:
        raise AssertionError("it starts a Triton")

    monkeypatch.setattr("headrace.connectors.embedded.own_triton.own_triton", refuse)
    if "taken" in arguments:
        ensure_topics(scene.endpoints.bootstrap_servers, [TopicSpec(f"{scene.runs}.taken.progress", 1)])
    words = [scene.requests if word == "REQUESTS" else word for word in arguments]
    done = CliRunner().invoke(cli, scene.words("replay", *words, "--own-triton")[3:], env=scene.environment)
    assert isinstance(done.exception, FatalError)
    assert told in str(done.exception)


def test_replay_fixes_its_end_when_it_begins(scene: Replays) -> None:
    first = scene.send_events([event(numbers(index)) for index in range(40)])
    process = scene.start(scene.requests, "--run", "r", "--rate", "20")
    wait_until(lambda: scene.answered("r"), 60, "outcomes of the run")
    scene.send_events([event(numbers(index)) for index in range(40)])
    _, err = process.communicate(timeout=COMMAND_SECONDS)
    assert process.returncode == 0, err
    assert counted(scene.outcomes("r")) == positions(first)


def test_replay_ends_where_transactions_leave_offsets_without_records(scene: Replays) -> None:
    """Its range ends with markers, and begins behind a transaction that was aborted; one that is open is left out."""
    config = {"bootstrap.servers": scene.endpoints.bootstrap_servers, "transactional.id": scene.group}
    producer = Producer(config)
    producer.init_transactions(20)
    values = [scene.value(event(text(f"line {number}"))) for number in range(6)]
    delivered: list[Position] = []

    def committed(error: Any, record: Any) -> None:
        delivered.append(Position(record.topic(), record.partition(), record.offset()))

    for value, kept in zip(values[:5], (False, True, True, False, False), strict=True):
        producer.begin_transaction()
        for partition in range(4):
            if kept:
                producer.produce(scene.requests, value, partition=partition, on_delivery=committed)
            else:
                producer.produce(scene.requests, value, partition=partition)
        producer.flush(20)
        producer.commit_transaction(20) if kept else producer.abort_transaction(20)
    producer.begin_transaction()
    producer.produce(scene.requests, values[5], partition=0)
    assert producer.flush(20) == 0

    outcome = scene.replay(scene.requests, "--run", "r")
    producer.abort_transaction(20)
    assert outcome["results"] == len(delivered) == 8
    assert counted(scene.outcomes("r")) == Counter(delivered)


def test_replay_of_a_choice_answers_that_alone(scene: Replays) -> None:
    events = [event(numbers(index), text(f"line {index}")) if index % 2 else event(text("x")) for index in range(40)]
    sent = scene.send_events(events)
    outcome = scene.replay(
        scene.requests, "--run", "r", "--filter", "modality=tensor", "--route", "identity", "--filter", "key=key-1*"
    )
    chosen = [each for index, each in enumerate(sent) if index % 2 and (each.key or b"").startswith(b"key-1")]
    outcomes = scene.outcomes("r")
    assert outcome["results"] == len(chosen) > 5
    assert counted(outcomes) == positions(chosen)
    assert {part["route"] for each in outcomes for part in each.content["outputs"]} == {"identity"}

    limited = scene.replay(scene.requests, "--run", "first", "--limit", "7")
    assert limited["results"] == 7
    again = scene.replay(scene.requests, "--run", "again", "--limit", "7")
    assert again["results"] == 7
    assert counted(scene.outcomes("first")) == counted(scene.outcomes("again"))


def test_records_that_retention_has_deleted_stop_a_replay_with_a_clear_error(scene: Replays) -> None:
    scene.send_events([event(numbers(index)) for index in range(60)])
    process = scene.start(scene.requests, "--run", "r", "--rate", "10")
    wait_until(lambda: scene.answered("r"), 60, "outcomes of the run")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=COMMAND_SECONDS)
    assert process.returncode == 130, err
    assert "headrace replay --resume r" in err
    assert scene.shown("r")["state"] == "stopped"

    admin = AdminClient({"bootstrap.servers": scene.endpoints.bootstrap_servers})
    ends = scene.ends(scene.requests)
    for future in admin.delete_records(
        [TopicPartition(each.topic, each.partition, end) for each, end in ends.items()]
    ).values():
        future.result(20)
    done = scene.run("replay", "--resume", "r")
    assert done.returncode == 1
    assert "retention has deleted them" in done.stderr


def test_two_processes_at_one_run_answer_each_record_once(scene: Replays) -> None:
    """As on two machines: by another name of the broker the second does not see the first one's lock."""
    sent = scene.send_events([event(numbers(index)) for index in range(400)])
    first = scene.start(scene.requests, "--run", "r", "--rate", SLOWLY)
    wait_until(lambda: scene.answered("r"), 60, "outcomes of the run")
    here = scene.start("--resume", "r")
    scene.elsewhere = True
    second = scene.start("--resume", "r")
    _, told_here = here.communicate(timeout=COMMAND_SECONDS)
    assert here.returncode == 1
    assert "another process of this machine is at run r" in told_here
    _, told_second = second.communicate(timeout=COMMAND_SECONDS)
    _, told_first = first.communicate(timeout=COMMAND_SECONDS)
    assert sorted([first.returncode, second.returncode]) == [0, 1], (told_first, told_second)
    assert "another process goes on with run r" in told_first + told_second
    assert counted(scene.outcomes("r")) == positions(sent)
    assert scene.shown("r")["results"] == len(sent)


def test_removed_run_leaves_nothing(scene: Replays) -> None:
    scene.send_events([event(numbers(index)) for index in range(5)])
    scene.replay(scene.requests, "--run", "r")
    assert scene.run("runs", "rm", "r").returncode == 0
    assert json.loads(scene.run("runs", "list", "--json").stdout) == []
    topics = AdminClient({"bootstrap.servers": scene.endpoints.bootstrap_servers}).list_topics(timeout=10).topics
    assert [name for name in topics if name.startswith(f"{scene.runs}.r")] == []
    assert scene.replay(scene.requests, "--run", "r")["results"] == 5
