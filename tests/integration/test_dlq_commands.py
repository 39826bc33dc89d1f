"""``headrace dlq`` looks at dead letters, counts them and deletes them, on a real broker."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from headrace.connectors.embedded.state import Endpoints
from headrace.pipeline.exit_codes import ExitCode
from tests.integration.avro_ends import event, image
from tests.integration.dead_letters import COMMAND_SECONDS, ROUTE, DeadLetterScene, failing
from tests.integration.harness import Sent, wait_until

PHOTO_ROUTE = {"name": "photo", "model": "image_jpeg", "match": {"modality": ["IMAGE"]}}


@pytest.fixture(scope="module")
def scene(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeadLetterScene]:
    """With three kinds of dead letters, for tests that only look."""
    prefix = f"dlq-commands.{stack.bootstrap_servers.rpartition(':')[2]}"
    with DeadLetterScene(stack, prefix, tmp_path_factory.mktemp("dlq"), routes=[PHOTO_ROUTE, ROUTE]) as made:
        made.worker()
        yield made


@pytest.fixture(scope="module")
def kinds(scene: DeadLetterScene) -> dict[str, list[Sent]]:
    """By code; and between the first two and the last some time."""
    kinds = {
        "NOT_WIRE_FORMAT": scene.bury([b"never to be read"] * 4),
        "RETRIES_EXHAUSTED": scene.bury((scene.value(failing(each)) for each in range(3)), headers=[("x", b"1")]),
    }
    time.sleep(1.1)  # so that a time lies between them
    kinds["BAD_IMAGE"] = scene.bury([scene.value(event(image(b"\xff\xd8\xff" + b"no picture" * 100)))] * 2)
    return kinds


def codes(found: list[dict[str, Any]]) -> dict[str, int]:
    return {code: sum(each["code"] == code for each in found) for code in {each["code"] for each in found}}


def where(sent: Sent) -> str:
    at = sent.position
    return f"{at.topic}:{at.partition}:{at.offset}"


def own(letter: dict[str, Any]) -> str:
    return "{topic}:{partition}:{offset}".format(**letter["record"])


def iso(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).isoformat(timespec="milliseconds")


def test_filters_choose(scene: DeadLetterScene, kinds: dict[str, list[Sent]]) -> None:
    letters = scene.listed()
    assert codes(letters) == {"NOT_WIRE_FORMAT": 4, "RETRIES_EXHAUSTED": 3, "BAD_IMAGE": 2}
    exhausted, bad_image = kinds["RETRIES_EXHAUSTED"][0], kinds["BAD_IMAGE"][0]
    (one,) = scene.listed("--position", where(exhausted))
    mixed = ("--position", own(one), "--position", where(bad_image))
    cases: list[tuple[tuple[str, ...], dict[str, int]]] = [
        (("--code", "BAD_*", "--code", "NOT_WIRE_FORMAT"), {"NOT_WIRE_FORMAT": 4, "BAD_IMAGE": 2}),
        (("--stage", "infer", "--model", "delay", "--topic", scene.requests), {"RETRIES_EXHAUSTED": 3}),
        (("--model", "delay", "--route", "photo"), {}),
        (("--pipeline", scene.group, "--stage", "decode"), {"NOT_WIRE_FORMAT": 4}),
        (("--id", one["request_id"]), {"RETRIES_EXHAUSTED": 1}),
        (mixed, {"RETRIES_EXHAUSTED": 1, "BAD_IMAGE": 1}),
    ]
    for arguments, expected in cases:
        assert codes(scene.listed(*arguments)) == expected, arguments


def test_list_shows_the_newest_oldest_first(scene: DeadLetterScene, kinds: dict[str, list[Sent]]) -> None:
    letters = scene.listed()
    order = [(each["record"]["timestamp_ms"], each["record"]["partition"]) for each in letters]
    assert order == sorted(order)
    for count in (1, 3):
        assert scene.listed("--max", str(count)) == letters[-count:]


def test_times_bound_what_is_read(scene: DeadLetterScene, kinds: dict[str, list[Sent]]) -> None:
    letters = scene.listed()
    since = min(each["record"]["timestamp_ms"] for each in letters if each["code"] == "BAD_IMAGE")
    assert codes(scene.listed("--from", iso(since))) == {"BAD_IMAGE": 2}
    assert codes(scene.listed("--to", iso(since))) == {"NOT_WIRE_FORMAT": 4, "RETRIES_EXHAUSTED": 3}
    assert codes(scene.listed("--from", "-2h", "--to", "latest")) == codes(letters)
    assert scene.listed("--to", "-2h") == []
    refused = scene.run("list", "--from", "yesterday")
    assert refused.returncode == ExitCode.WRONG_INPUT
    assert "'yesterday' is no place in a topic" in refused.stderr


def test_stats_say_how_many_of_each_reason(scene: DeadLetterScene, kinds: dict[str, list[Sent]]) -> None:
    told = json.loads(scene.run("stats", "--json").stdout)
    assert (told["dead_letters"], told["redriven"], told["unreadable"]) == (9, 0, 0)
    assert [(each["code"], each["stage"], each["route"], each["model"], each["count"]) for each in told["reasons"]] == [
        ("NOT_WIRE_FORMAT", "decode", None, None, 4),
        ("RETRIES_EXHAUSTED", "infer", "numbers", "delay", 3),
        ("BAD_IMAGE", "prepare", "photo", "image_jpeg", 2),
    ]
    for each in told["reasons"]:
        assert sum(bucket["count"] for bucket in each["buckets"]) == each["count"]
        assert each["first_ms"] <= each["last_ms"]
    shown = scene.run("stats", "--stage", "infer").stdout.splitlines()
    assert shown[0].split()[:6] == ["code", "stage", "route", "model", "count", "redriven"]
    assert shown[1].split()[:6] == ["RETRIES_EXHAUSTED", "infer", "numbers", "delay", "3", "0"]
    assert shown[2] == f"3 dead letters in {scene.dead_letters}, 0 of them redriven"
    assert scene.run("stats", "--code", "NOTHING").stdout == f"no such dead letters in {scene.dead_letters}\n"


def test_show_finds_a_dead_letter_by_whatever_is_known_of_it(
    scene: DeadLetterScene, kinds: dict[str, list[Sent]]
) -> None:
    sent = kinds["RETRIES_EXHAUSTED"][1]
    (letter,) = scene.listed("--position", where(sent))
    for arguments in ((where(sent),), (own(letter),), ("--id", letter["request_id"])):
        shown = scene.run("show", *arguments)
        assert shown.returncode == 0, shown.stderr
        for expected in (where(sent), own(letter), "RETRIES_EXHAUSTED", "header       x = 1", "part         tensor"):
            assert expected in shown.stdout, arguments
    newest = scene.run("show", "--code", "RETRIES_EXHAUSTED")
    assert newest.stdout.count("dead letter ") == 1
    assert "--max shows more" in newest.stderr
    assert scene.run("show", "--code", "RETRIES_EXHAUSTED", "--max", "3").stdout.count("dead letter ") == 3
    nothing = scene.run("show", "--code", "NOTHING")
    assert nothing.returncode == ExitCode.FAILED
    assert nothing.stderr.startswith("headrace: there is no such dead letter in ")


def test_filters_choose_what_is_redriven_and_dry_run_says_so(
    scene: DeadLetterScene, kinds: dict[str, list[Sent]]
) -> None:
    done = scene.run("redrive", "--dry-run", "--stage", "infer", "--stage", "prepare")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == f"to redrive: 5 dead letters of {scene.dead_letters}, to {scene.redriven}".split()
    assert lines[1:] == [["code", "stage", "count"], ["RETRIES_EXHAUSTED", "infer", "3"], ["BAD_IMAGE", "prepare", "2"]]
    assert scene.tried_again() == []
    assert scene.told("redrive", "--dry-run", "--max", "4")["redriven"] == 4


@pytest.fixture
def fresh(stack: Endpoints, names: Callable[[str], str], tmp_path: Path) -> Iterator[DeadLetterScene]:
    with DeadLetterScene(stack, names("scene"), tmp_path) as made:
        made.worker()
        yield made


def test_stats_that_follow_tell_what_comes_and_what_is_redriven(fresh: DeadLetterScene) -> None:
    fresh.bury([fresh.value(failing(1))] * 2)
    process = fresh.start("stats", "--watch", "--json")
    assert process.stdout is not None
    try:
        assert counted(process.stdout.readline()) == {"RETRIES_EXHAUSTED": (2, 0)}
        fresh.bury([b"never to be read"])
        assert counted(process.stdout.readline()) == {"RETRIES_EXHAUSTED": (2, 0), "NOT_WIRE_FORMAT": (1, 0)}
        fresh.redrive("--code", "NOT_WIRE_FORMAT")
        fresh.read_until(4)  # it has failed again
        while counted(process.stdout.readline()) != {"RETRIES_EXHAUSTED": (2, 0), "NOT_WIRE_FORMAT": (2, 1)}:
            pass  # it may tell of the mark and of the new dead letter one after the other
    finally:
        process.kill()
        process.communicate()


def counted(line: str) -> dict[str, tuple[int, int]]:
    return {each["code"]: (each["count"], each["redriven"]) for each in json.loads(line)["reasons"]}


def test_redrive_asks_on_a_terminal_and_keeps_to_its_rate(fresh: DeadLetterScene) -> None:
    fresh.bury([b"never to be read"] * 20)
    assert answered(fresh, "n", "redrive")[0] == ExitCode.FAILED
    assert fresh.tried_again() == []
    began = time.monotonic()
    code, shown = answered(fresh, "y", "redrive", "--rate", "5", "--max", "15")
    assert code == 0, shown
    assert "redrive them? [y/N]" in shown
    assert "redrive: state=complete redriven=15 left=0" in shown
    assert time.monotonic() - began >= 14 / 5
    assert len(fresh.tried_again()) == 15


def answered(scene: DeadLetterScene, answer: str, *arguments: str) -> tuple[int, str]:
    """Exit code, and what the command shows on a terminal on which its question is answered."""
    ours, theirs = pty.openpty()
    environment = {**scene.environment, "COLUMNS": "120", "LINES": "30", "TERM": "xterm"}
    with subprocess.Popen(scene.words(*arguments), stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as done:
        os.close(theirs)
        shown, asked, deadline = b"", False, time.monotonic() + COMMAND_SECONDS
        while time.monotonic() < deadline:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if b"[y/N]" in shown and not asked:
                asked = True
                os.write(ours, f"{answer}\n".encode())
        os.close(ours)
    return done.returncode, shown.decode()


def test_purge_deletes_what_is_older_and_the_marks_of_that(fresh: DeadLetterScene) -> None:
    old = fresh.bury([b"never to be read"] * 6)
    assert fresh.redrive("--max", "4")["redriven"] == 4
    fresh.read_until(10)
    time.sleep(1.1)  # so that a time lies between them
    between = iso(time.time_ns() // 1_000_000)
    new = fresh.bury([fresh.value(failing(each)) for each in range(2)])

    for arguments in (("--before", between, "--code", "X"), ()):
        refused = fresh.run("purge", *arguments)
        assert refused.returncode == ExitCode.WRONG_INPUT
        assert "Kafka deletes from the beginning" in refused.stderr or "'--before'" in refused.stderr

    planned = fresh.told("purge", "--before", between, "--dry-run")
    assert (planned["dead_letters"], planned["redriven"]) == (10, 4)
    assert planned["by_code"] == [{"code": "NOT_WIRE_FORMAT", "stage": "decode", "count": 10}]
    assert len(fresh.listed()) == 12

    purged = fresh.told("purge", "--before", between, "--yes")
    assert (purged["state"], purged["marks"]) == ("purged", 4)
    assert codes(fresh.listed()) == {"RETRIES_EXHAUSTED": 2}
    assert {len(each) for each in fresh.outcomes(old).values()} == {0}
    again = fresh.told("purge", "--before", between, "--yes")
    assert (again["offsets"], again["marks"]) == (0, 0)

    assert fresh.redrive()["redriven"] == 2
    fresh.read_until(14)
    assert {len(each) for each in fresh.outcomes(new).values()} == {2}
    assert fresh.run("purge", "--before", "-1d", "--dry-run").stdout == f"nothing in {fresh.dead_letters} is older\n"


def test_redrive_under_another_name_is_refused_where_marks_are_under_the_old_one(
    fresh: DeadLetterScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh.bury([b"never to be read"] * 3)
    assert fresh.redrive("--max", "1")["redriven"] == 1
    wait_until(lambda: len(fresh.listed()) == 4, 60, "what was redriven to be a dead letter again")
    with monkeypatch.context() as renamed:
        renamed.setenv("HEADRACE_TOPICS__REDRIVEN", f"{fresh.group}.again")
        for decided in ("--yes", "--dry-run"):
            done = fresh.run("redrive", decided)
            assert done.returncode == ExitCode.WRONG_INPUT
            assert f"{fresh.redriven}-marks" in done.stderr
        assert fresh.told("redrive", "--dry-run", "--again")["redriven"] == 4
    with monkeypatch.context() as another:  # which shares the topic, and whose dead letters these are not
        another.setenv("HEADRACE_NAME", f"{fresh.group}-b")
        assert fresh.told("redrive", "--dry-run")["redriven"] == 0
    assert fresh.told("redrive", "--dry-run")["redriven"] == 3
