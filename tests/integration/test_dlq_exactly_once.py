"""Each dead letter is redriven once, however often the command is run, killed, or run twice at a time."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it re-exports these without saying so
    AdminClient,
    NewTopic,
)

from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.admin import ensure_topics
from headrace.pipeline.exit_codes import ExitCode
from headrace.pipeline.records import TopicSpec
from tests.integration.avro_ends import output_numbers
from tests.integration.dead_letters import COMMAND_SECONDS, DeadLetterScene, failing
from tests.integration.harness import Sent, wait_until

COUNT = 3_000
RATE = 250
"""Dead letters a second: all of them take longer than all processes live that are killed in the midst of it."""
KILLS = 4


@pytest.fixture(scope="module")
def buried(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DeadLetterScene, list[Sent]]]:
    """Many dead letters, and the events that they are of. Their worker has gone: nobody reads what is redriven."""
    prefix = f"dlq-exactly-once.{stack.bootstrap_servers.rpartition(':')[2]}"
    with DeadLetterScene(stack, prefix, tmp_path_factory.mktemp("dlq")) as scene:
        worker = scene.worker()
        sent = scene.bury(b"never to be read %d" % each for each in range(COUNT))
        worker.terminate()
        yield scene, sent


class Another(DeadLetterScene):
    """A pipeline that redrives dead letters of another: to a topic of its own, with marks of its own."""

    def __init__(self, of: DeadLetterScene, prefix: str, folder: Path) -> None:
        topics = {"requests": [of.requests], "dead_letters": of.dead_letters}
        super().__init__(of.endpoints, prefix, folder, topics=topics)
        self._of = of.group

    def words(self, *arguments: str) -> list[str]:
        return [*super().words(*arguments), "--pipeline", self._of]


@pytest.fixture
def unmarked(
    buried: tuple[DeadLetterScene, list[Sent]], names: Callable[[str], str], tmp_path: Path
) -> Iterator[DeadLetterScene]:
    with Another(buried[0], names("scene"), tmp_path) as made:
        yield made


@pytest.fixture
def scene(unmarked: DeadLetterScene) -> DeadLetterScene:
    # Else it would be taken for one whose marks have another name: those of the test before mark the same.
    marks = TopicSpec(f"{unmarked.redriven}-marks", 1, config={"cleanup.policy": "compact"})
    ensure_topics(unmarked.endpoints.bootstrap_servers, [marks])
    return unmarked


@pytest.fixture
def sent(buried: tuple[DeadLetterScene, list[Sent]]) -> list[Sent]:
    return buried[1]


def assert_each_once(scene: DeadLetterScene, sent: list[Sent]) -> None:
    found = scene.tried_again()
    counts = Counter(each.position for each in found)
    assert {position: count for position, count in counts.items() if count != 1} == {}
    assert counts.keys() == {each.position for each in sent}
    values = {each.position: each.value for each in sent}
    assert all(each.value == values[each.position] for each in found)


def first_progress(process: subprocess.Popen[str]) -> str:
    """Its first line of progress, which it writes after a second: it is in the midst of it."""
    assert process.stdout is not None
    return process.stdout.readline()


def kill_again_and_again(scene: DeadLetterScene, rate: int) -> None:
    chance = random.Random(7)
    for _ in range(KILLS):
        process = scene.start("redrive", "--yes", "--json", "--rate", str(rate))
        if '"running"' in first_progress(process):
            time.sleep(chance.uniform(0, 0.5))
        process.kill()
        process.communicate(timeout=COMMAND_SECONDS)


def test_events_are_answered_once_although_their_redrive_is_killed_again_and_again(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    """Beside its dead letter each has one result, of a worker that is killed as well."""
    count = 400
    with DeadLetterScene(stack, names("scene"), tmp_path) as scene:
        worker = scene.worker()
        sent = scene.bury(scene.value(failing(each)) for each in range(count))
        scene.mend(worker)
        kill_again_and_again(scene, count // 12)
        worker.kill()
        worker.start()
        scene.redrive()
        scene.read_until(2 * count)
        found = scene.outcomes(sent)
        for number, each in enumerate(sent):
            letter, result = found[each.position]
            assert (letter.dead, output_numbers(result)) == (True, (float(number),))


def test_redrive_that_is_killed_again_and_again_redrives_each_once(scene: DeadLetterScene, sent: list[Sent]) -> None:
    kill_again_and_again(scene, RATE)
    before = len(scene.tried_again())
    assert 0 < before < COUNT, "killed in the midst of it"
    outcome = scene.redrive()
    assert (outcome["redriven"], outcome["left"]) == (COUNT - before, {"redriven": before})
    assert_each_once(scene, sent)
    assert scene.redrive()["redriven"] == 0


def test_two_at_once_redrive_each_once_between_them(scene: DeadLetterScene, sent: list[Sent]) -> None:
    pair = [scene.start("redrive", "--yes", "--json", "--rate", str(RATE)) for _ in range(2)]
    ends = [process.communicate(timeout=COMMAND_SECONDS) for process in pair]
    codes = sorted(process.returncode for process in pair)
    assert codes == [ExitCode.OK, ExitCode.FAILED], ends
    (told,) = [errors for process, (_, errors) in zip(pair, ends, strict=True) if process.returncode]
    assert "another `headrace dlq redrive` or `purge` of this pipeline has begun" in told
    assert scene.redrive()["redriven"] == 0
    assert_each_once(scene, sent)


def test_process_that_was_frozen_while_another_redrove_writes_nothing_more(
    scene: DeadLetterScene, sent: list[Sent]
) -> None:
    frozen = scene.start("redrive", "--yes", "--json", "--rate", str(RATE))
    assert '"running"' in first_progress(frozen)
    frozen.send_signal(signal.SIGSTOP)
    try:
        assert scene.redrive()["redriven"] > 0
    finally:
        frozen.send_signal(signal.SIGCONT)
    _, errors = frozen.communicate(timeout=COMMAND_SECONDS)
    assert (frozen.returncode, "has begun, so this one ends" in errors) == (ExitCode.FAILED, True), errors
    assert_each_once(scene, sent)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_redrive_ends_between_transactions_when_it_is_asked_to(
    scene: DeadLetterScene, sent: list[Sent], number: signal.Signals
) -> None:
    process = scene.start("redrive", "--yes", "--rate", "100")
    wait_until(scene.tried_again, 60, "some to be redriven")
    process.send_signal(number)
    output, errors = process.communicate(timeout=COMMAND_SECONDS)
    assert process.returncode == ExitCode.INTERRUPTED, errors
    assert "stopped: the same command goes on with the rest" in errors
    redriven = len(scene.tried_again())
    assert f"redrive: state=stopped redriven={redriven} " in output
    assert scene.redrive()["redriven"] == COUNT - redriven
    assert_each_once(scene, sent)


def test_marks_that_may_be_deleted_are_refused(unmarked: DeadLetterScene) -> None:
    admin = AdminClient({"bootstrap.servers": unmarked.endpoints.bootstrap_servers})
    (made,) = admin.create_topics([NewTopic(f"{unmarked.redriven}-marks", 1, 1)]).values()
    made.result(30)
    done = unmarked.run("redrive", "--yes")
    assert done.returncode == ExitCode.WRONG_INPUT
    assert "cleanup.policy=delete: it must be compact" in done.stderr
    assert unmarked.tried_again() == []
