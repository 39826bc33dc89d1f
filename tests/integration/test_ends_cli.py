"""``headrace send``, ``tail`` and ``dlq`` as a user runs them, against a real worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.reader import CommittedReader, End
from headrace.pipeline.config import KafkaSettings
from headrace.pipeline.demo import assets
from headrace.pipeline.exit_codes import ExitCode
from tests.integration.ends_pipeline import COMMAND_SECONDS, Pipeline, running_pipeline


@pytest.fixture(scope="module")
def headrace(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with running_pipeline(stack, tmp_path_factory.mktemp("ends")) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "coffee.jpg"
    path.write_bytes(next(photo.data for photo in assets.load().photos if photo.name == "coffee.jpg"))
    return path


def test_send_and_wait_prints_an_embedding(headrace: Pipeline) -> None:
    done = headrace("send", "a river turns the mill", "--wait")
    assert done.returncode == 0, done.stderr
    assert "text  EMBEDDING FP32[384] " in done.stdout


def test_send_and_wait_prints_labels_of_a_photo(headrace: Pipeline, photo: Path) -> None:
    done = headrace("send", str(photo), "--wait")
    assert done.returncode == 0, done.stderr
    assert "image  espresso 0." in done.stdout


def test_send_together_is_one_event_with_all_parts(headrace: Pipeline, photo: Path, tmp_path: Path) -> None:
    speech = tmp_path / "speech"
    clip = assets.load().speech[0]
    speech.write_bytes(assets.to_wav(clip.samples, clip.rate_hz))
    done = headrace("send", "words", str(photo), str(speech), "--together", "--wait")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sent to ") == 1
    assert "espresso" in done.stdout
    assert "speech 0." in done.stdout


def test_send_without_wait_prints_positions_in_the_order_of_its_arguments(headrace: Pipeline) -> None:
    done = headrace("send", "one", "two", "three", "--key", "same")
    offsets = [int(line.rpartition(":")[2]) for line in done.stdout.splitlines()]
    assert offsets == list(range(offsets[0], offsets[0] + 3))


def test_send_exits_4_for_a_dead_letter_that_dlq_then_shows(headrace: Pipeline) -> None:
    done = headrace("send", "who answers?", "--wait", "--model", "nobody", "--key", "k1")
    assert done.returncode == ExitCode.DEAD_LETTER
    assert "route/UNKNOWN_MODEL" in done.stdout
    own = done.stdout.split()[-1]
    original = done.stdout.split()[2]
    for where in (own, original):
        shown = headrace("dlq", "show", where)
        assert shown.returncode == 0, shown.stderr
        for expected in (own, original, "UNKNOWN_MODEL", "'k1'", "part         text: TEXT text/plain 'who answers?'"):
            assert expected in shown.stdout
    assert "traceparent" in shown.stdout
    listed = headrace("dlq", "list", "--json", "--code", "UNKNOWN_MODEL", "--stage", "route")
    assert original in [
        "{topic}:{partition}:{offset}".format(**json.loads(line)["request"]) for line in listed.stdout.splitlines()
    ]
    assert headrace("dlq", "list", "--code", "NO_SUCH_CODE").stdout == ""


def test_dlq_show_raw_writes_the_original_bytes(headrace: Pipeline, photo: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(photo.read_bytes()[:600])
    done = headrace("send", str(cut), "--wait")
    assert done.returncode == ExitCode.DEAD_LETTER
    raw = subprocess.run(
        [sys.executable, "-m", "headrace", "dlq", "show", "-c", str(headrace.config), done.stdout.split()[-1], "--raw"],
        capture_output=True,
        timeout=COMMAND_SECONDS,
        env=headrace.environment,
        check=True,
    )
    assert raw.stdout[:1] == b"\0"
    assert cut.read_bytes() in raw.stdout


def test_dlq_show_of_nothing_says_so(headrace: Pipeline) -> None:
    done = headrace("dlq", "show", f"{headrace.prefix}.dead:0:99999")
    assert done.returncode == 1
    assert done.stderr.startswith("headrace: there is no dead letter")


def test_tail_max_shows_the_last_results_and_ends(headrace: Pipeline) -> None:
    sent = [headrace("send", words, "--wait").stdout.split()[2] for words in ("first", "second")]
    done = headrace("tail", "--max", "2")
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == sent


def test_tail_json_has_whole_results(headrace: Pipeline) -> None:
    position = headrace("send", "as JSON", "--wait").stdout.split()[2]
    (line,) = headrace("tail", "--max", "1", "--json").stdout.splitlines()
    result = json.loads(line)
    assert "{topic}:{partition}:{offset}".format(**result["request"]) == position
    assert len(result["outputs"][0]["tensors"][0]["data"]) == 384


def test_tail_from_the_beginning_sees_everything_and_dead_letters_if_asked(headrace: Pipeline) -> None:
    headrace("send", "bad", "--model", "nobody", "--wait")
    plain = headrace("tail", "--from", "beginning", "--no-follow", "--json").stdout.splitlines()
    both = headrace("tail", "--from", "beginning", "--no-follow", "--json", "--dead-letters").stdout.splitlines()
    assert {json.loads(line)["kind"] for line in plain} == {"result"}
    assert {json.loads(line)["kind"] for line in both} == {"result", "dead_letter"}
    assert len(plain) < len(both)


def test_tail_from_before_all_time_sees_everything(headrace: Pipeline) -> None:
    whole = headrace("tail", "--from", "beginning", "--no-follow")
    long_ago = headrace("tail", "--from", "-99999999999999d", "--no-follow")
    assert long_ago.returncode == 0, long_ago.stderr
    assert sorted(long_ago.stdout.splitlines()) == sorted(whole.stdout.splitlines())
    refused = headrace("tail", "--from", f"-{'9' * 5000}d")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr


def test_send_refuses_an_oversized_event(headrace: Pipeline, photo: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    large.write_bytes(photo.read_bytes() + bytes(2_000_000))
    done = headrace("send", str(large))
    assert done.returncode == ExitCode.WRONG_INPUT
    assert "2,000,000 (topics.max_message_bytes)" in done.stderr
    assert done.stdout == ""


def test_send_sends_nothing_if_one_event_is_refused(
    headrace: Pipeline, stack: Endpoints, photo: Path, tmp_path: Path
) -> None:
    large = tmp_path / "large.jpg"
    large.write_bytes(photo.read_bytes() + bytes(2_000_000))
    kafka = KafkaSettings(bootstrap_servers=stack.bootstrap_servers)
    with CommittedReader(kafka, [f"{headrace.prefix}.requests"], End()) as reader:
        done = headrace("send", "small enough", str(large))
        assert (done.returncode, done.stdout) == (ExitCode.WRONG_INPUT, "")
        assert list(reader.records(COMMAND_SECONDS, until_end=True)) == []


def test_send_takes_a_key_of_any_bytes_and_refuses_such_a_text(headrace: Pipeline) -> None:
    done = headrace("send", "words", "--key", os.fsdecode(b"k\xff"), "--wait")
    assert done.returncode == 0, done.stderr
    assert "key k\\xff" in headrace("tail", "--max", "1").stdout
    for arguments in ((os.fsdecode(b"w\xff"),), ("words", "--type", os.fsdecode(b"w\xff"))):
        refused = headrace("send", *arguments)
        assert refused.returncode == ExitCode.WRONG_INPUT
        assert refused.stderr.count("\n") == 1
        assert "utf-8" in refused.stderr


def test_send_and_wait_exits_5_when_nobody_answers(
    stack: Endpoints, make_topics: Callable[..., tuple[str, ...]], tmp_path: Path
) -> None:
    requests, results, dead = make_topics("requests", "results", "dead")
    config = tmp_path / "pipeline.yaml"
    config.write_text(f"topics: {{requests: [{requests}], results: {results}, dead_letters: {dead}}}\n")
    done = Pipeline(config, "", {**os.environ, **stack.environment()})("send", "hello", "--wait", "--timeout", "1")
    assert done.returncode == ExitCode.NO_OUTCOME
    assert f"no outcome of {requests}:" in done.stderr


@pytest.mark.parametrize("down", ["HEADRACE_KAFKA__BOOTSTRAP_SERVERS", "HEADRACE_REGISTRY__URL"])
def test_send_says_in_one_line_what_is_down(headrace: Pipeline, down: str) -> None:
    address = "http://127.0.0.1:1" if down.endswith("URL") else "127.0.0.1:1"
    broken = Pipeline(headrace.config, headrace.prefix, {**headrace.environment, down: address})
    done = broken("send", "hello", "--wait")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "127.0.0.1:1" in done.stderr
    assert "headrace up" in done.stderr


def test_tail_ends_quietly_when_its_reader_goes(headrace: Pipeline) -> None:
    headrace("send", "one result at least", "--wait")
    tail = subprocess.Popen(
        [sys.executable, "-m", "headrace", "tail", "-c", str(headrace.config), "--json", "--from", "beginning"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=headrace.environment,
    )
    assert tail.stdout is not None
    assert tail.stdout.readline().startswith(b'{"kind"')
    tail.stdout.close()
    headrace("send", "and one that nobody reads", "--wait")
    headrace("send", "and another", "--wait")
    _, errors = tail.communicate(timeout=COMMAND_SECONDS)
    assert (tail.returncode, errors) == (1, b"")  # click's way with a broken pipe
