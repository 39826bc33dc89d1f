"""Dead letters are found, counted and, after what made them fail was mended, tried again: each once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.connectors.embedded.state import Endpoints
from headrace.pipeline.exit_codes import ExitCode
from tests.integration.avro_ends import event, numbers, output_numbers
from tests.integration.dead_letters import DeadLetterScene, failing

HEADERS = (("x-mine", b"\x00\xff"), ("x-mine", None))


@pytest.fixture
def make(stack: Endpoints, names: Callable[[str], str], tmp_path: Path) -> Callable[..., DeadLetterScene]:
    return lambda **settings: DeadLetterScene(stack, names("scene"), tmp_path, **settings)


def test_dead_letters_are_answered_after_what_failed_is_mended(make: Callable[..., DeadLetterScene]) -> None:
    with make() as scene:
        worker = scene.worker()
        sent = scene.bury((scene.value(failing(each)) for each in range(8)), headers=HEADERS)
        others = scene.bury([b"never to be read"] * 3)
        letters = {position: answers[0] for position, answers in scene.outcomes(sent).items()}

        planned = scene.told("redrive", "--dry-run", "--code", "RETRIES_EXHAUSTED")
        assert planned["by_code"] == [{"code": "RETRIES_EXHAUSTED", "stage": "infer", "count": 8}]
        assert [each["redriven_ms"] for each in scene.listed()] == [None] * 11

        scene.mend(worker)
        outcome = scene.redrive("--code", "RETRIES_EXHAUSTED")
        assert (outcome["state"], outcome["redriven"], outcome["left"]) == ("complete", 8, {})
        scene.read_until(8 + 11)
        found = scene.outcomes(sent)
        for number, each in enumerate(sent):
            letter, result = found[each.position]
            assert letter.dead
            assert output_numbers(result) == (float(number),)
            assert (result.key, result.content["attempt"]) == (each.key, 2)
        assert all(len(answers) == 1 for answers in scene.outcomes(others).values())

        for tried in scene.tried_again():
            letter = letters[tried.position]
            assert (tried.key, tried.value, tried.headers) == (letter.key, letter.content["value"], HEADERS)
            assert tried.retry["first_failed_ms"] == round(letter.content["first_failed"].timestamp() * 1000)
            assert (tried.retry["number"], tried.retry["attempts"], tried.retry["redrives"]) == (0, 1, 1)

        again = scene.redrive("--code", "RETRIES_EXHAUSTED")
        assert (again["redriven"], again["left"]) == (0, {"redriven": 8})
        marked = {each["code"]: each["redriven_ms"] is not None for each in scene.listed()}
        assert marked == {"RETRIES_EXHAUSTED": True, "NOT_WIRE_FORMAT": False}


def test_what_fails_again_is_a_new_dead_letter_and_can_be_redriven(make: Callable[..., DeadLetterScene]) -> None:
    with make() as scene:
        scene.worker()
        (sent,) = scene.bury([scene.value(failing(1))])
        for redrives in (1, 2):
            assert scene.redrive()["redriven"] == 1
            scene.read_until(1 + redrives)
        letters = scene.outcomes([sent])[sent.position]
        assert [each.content["attempts"] for each in letters] == [1, 2, 3]
        assert [each.header("dead_letter_redrives") for each in letters] == [None, b"1", b"2"]
        assert len({each.content["first_failed"] for each in letters}) == 1
        listed = scene.listed("--position", f"{scene.requests}:{sent.position.partition}:{sent.position.offset}")
        assert [(each["redrives"], each["redriven_ms"] is not None) for each in listed] == [
            (0, True),
            (1, True),
            (2, False),
        ]
        assert scene.redrive("--again", "--max", "1")["redriven"] == 1
        scene.read_until(4)


def test_stranger_in_the_topic_of_redriven_records_is_shown_and_not_redriven(
    make: Callable[..., DeadLetterScene],
) -> None:
    from confluent_kafka import Producer

    with make() as scene:
        scene.worker()
        producer = Producer({"bootstrap.servers": scene.endpoints.bootstrap_servers})
        producer.produce(scene.redriven, scene.value(event(numbers(1), model="delay")), b"k", 0)
        assert producer.flush(10) == 0
        scene.read_until(1)
        shown = scene.run("show", f"{scene.redriven}:0:0")
        assert shown.returncode == 0, shown.stderr
        assert "BAD_HEADER" in shown.stdout
        outcome = scene.redrive()
        assert (outcome["redriven"], outcome["left"]) == (0, {"no_request": 1})


def test_command_that_may_not_ask_asks_for_yes(make: Callable[..., DeadLetterScene]) -> None:
    with make() as scene:
        scene.worker()
        scene.bury([b"never to be read"])
        for arguments in (("redrive",), ("purge", "--before", "latest")):
            done = scene.run(*arguments)
            assert done.returncode == ExitCode.WRONG_INPUT
            assert "--yes" in done.stderr
        assert json.loads(scene.run("stats", "--json").stdout)["redriven"] == 0
        assert len(scene.listed()) == 1
