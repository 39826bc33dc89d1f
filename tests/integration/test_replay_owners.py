"""Who may say how a run is: the process that goes on with it, until another does, or until the run is removed."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.admin import ensure_topics
from headrace.pipeline.records import TopicSpec
from tests.integration.avro_ends import event, numbers
from tests.integration.harness import wait_until
from tests.integration.replays import COMMAND_SECONDS, Replays

EVENTS = 60
SLOWLY = "0.02"
"""Events a second: after the first nothing is in flight, and there is no commit that would be refused."""
STEADILY = "0.5"


@pytest.fixture
def scene(stack: Endpoints, names: Callable[[str], str], tmp_path: Path) -> Iterator[Replays]:
    scene = Replays(stack, names("w"), tmp_path)
    with scene:
        ensure_topics(stack.bootstrap_servers, [TopicSpec(scene.requests, 2)])
        yield scene


@pytest.mark.parametrize("frozen", [False, True], ids=["at work", "frozen"])
def test_run_removed_under_its_process_stays_removed(scene: Replays, frozen: bool) -> None:
    scene.send_events([event(numbers(index)) for index in range(EVENTS)])
    process = scene.start(scene.requests, "--run", "r", "--rate", SLOWLY if frozen else STEADILY)
    wait_until(lambda: scene.answered("r"), 60, "outcomes of the run")
    if frozen:
        process.send_signal(signal.SIGSTOP)
    try:
        removed = scene.run("runs", "rm", "r", "--force")
        assert removed.returncode == 0, removed.stderr
    finally:
        process.send_signal(signal.SIGCONT)
    _, told = process.communicate(timeout=COMMAND_SECONDS)
    assert process.returncode == 1
    assert "run r has been removed" in told
    assert json.loads(scene.run("runs", "list", "--json").stdout) == []
    topics = AdminClient({"bootstrap.servers": scene.endpoints.bootstrap_servers}).list_topics(timeout=10).topics
    assert [name for name in topics if name.startswith(f"{scene.runs}.r")] == []

    again = scene.replay(scene.requests, "--run", "r")
    assert (again["state"], again["results"]) == ("complete", EVENTS)
    assert scene.shown("r")["results"] == EVENTS


def test_zombie_has_no_word_in_a_run_that_another_process_completed(scene: Replays) -> None:
    """Told to stop as it wakes up, it has nothing to commit that could be refused: only to say how the run is left."""
    sent = scene.send_events([event(numbers(index)) for index in range(EVENTS)])
    zombie = scene.start(scene.requests, "--run", "r", "--rate", SLOWLY)
    wait_until(lambda: scene.answered("r"), 60, "outcomes of the run")
    zombie.send_signal(signal.SIGSTOP)
    try:
        scene.elsewhere = True
        assert scene.replay("--resume", "r")["state"] == "complete"
        complete = scene.shown("r")
        zombie.send_signal(signal.SIGTERM)
    finally:
        zombie.send_signal(signal.SIGCONT)
    _, told = zombie.communicate(timeout=COMMAND_SECONDS)
    assert zombie.returncode == 1
    assert "another process goes on with run r" in told
    assert scene.shown("r") == complete
    assert (complete["state"], complete["results"], complete["resumed"]) == ("complete", EVENTS, 1)
    assert Counter(each.answers for each in scene.outcomes("r")) == Counter(each.position for each in sent)
