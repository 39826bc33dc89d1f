"""``headrace send`` of folders, globs and JSON lines, at a rate, and broken off; ``headrace tail`` with filters."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.connectors.embedded.state import Endpoints
from headrace.pipeline.demo import assets
from headrace.pipeline.exit_codes import ExitCode
from tests.integration.ends_pipeline import COMMAND_SECONDS, Pipeline, running_pipeline
from tests.integration.harness import wait_until


@pytest.fixture(scope="module")
def headrace(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with running_pipeline(stack, tmp_path_factory.mktemp("ends-send")) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 30 photos on two levels, a text and a hidden file."""
    folder = tmp_path_factory.mktemp("media") / "photos"
    bundled = [photo for photo in assets.load().photos if len(photo.data) < 100_000][:10]
    for level in ("", "b", "b/c"):
        (folder / level).mkdir(parents=True, exist_ok=True)
        for photo in bundled:
            (folder / level / photo.name).write_bytes(photo.data)
    (folder / "notes.txt").write_text("not a photo")
    (folder / ".hidden.jpg").write_bytes(bundled[0].data)
    return folder


def objects(text: str, kind: str | None = None) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    return [each for each in found if kind in (None, each["kind"])]


def place(fields: dict[str, Any]) -> str:
    return "{topic}:{partition}:{offset}".format(**fields)


def test_folder_is_sent_at_its_rate_and_everything_else_in_it_is_counted(headrace: Pipeline, photos: Path) -> None:
    done = headrace("send", str(photos), "--rate", "20", "--json")
    assert done.returncode == 0, done.stderr
    sent = objects(done.stdout, "sent")
    origins = [each["origin"] for each in sent]
    assert len(origins) == 30
    assert origins == sorted(origins, key=lambda name: Path(name).parts)
    assert len({each["id"] for each in sent}) == len({place(each) for each in sent}) == 30
    stamps = [each["timestamp_ms"] for each in sent]
    assert stamps[-1] - stamps[1] == pytest.approx(28 / 20 * 1000, abs=150)  # the first opens the connection
    assert re.search(r"^sent 30 events \([\d.]+ MB\) to .+ in [12]\.\d s, (19|20)\.\d/s$", done.stderr, re.MULTILINE)
    assert f"skipped 1 file: neither JPEG, PNG, WAV nor MP4 (the first: {photos / 'notes.txt'})" in done.stderr


def test_folder_is_answered_while_it_is_sent(headrace: Pipeline, photos: Path) -> None:
    done = headrace("send", str(photos), "--rate", "30", "--wait", "--json", "--key-from", "name")
    assert done.returncode == 0, done.stderr
    found = objects(done.stdout)
    assert {place(each["request"]) for each in found if each["kind"] == "result"} == {
        place(each) for each in found if each["kind"] == "sent"
    }
    assert [each["kind"] for each in found].index("result") < 25  # not all at the end
    assert {each["key"] for each in found} == {Path(each["origin"]).name for each in found if each["kind"] == "sent"}
    assert "answered: 30 results, 0 dead letters" in done.stderr


def test_glob_and_repeat_send_new_events_each_time(headrace: Pipeline, photos: Path) -> None:
    done = headrace("send", f"{photos}/**/c*.jpg", "--repeat", "3", "--json")
    assert done.returncode == 0, done.stderr
    sent = objects(done.stdout)
    once = len(list(photos.rglob("c*.jpg")))
    assert once > 0
    assert len(sent) == len({each["id"] for each in sent}) == 3 * once
    assert len({each["origin"] for each in sent}) == once


def test_lines_say_the_whole_of_an_event(headrace: Pipeline, photos: Path) -> None:
    photo = next(photos.glob("*.jpg"))
    lines: list[dict[str, Any]] = [
        {"text": "a river turns the mill", "key": "k1", "id": "0b9f3a52-8f0e-4a0a-9b53-2f6c3c1a77aa"},
        {"parts": [{"text": "two"}, {"file": str(photo), "name": "photo"}], "key": "k2"},
        {"tensor": {"datatype": "FP32", "shape": [2], "data": [1.5, -2]}, "model": "identity", "version": "1"},
        {"text": "nobody answers", "model": "nobody", "headers": {"tenant": "acme"}},
    ]
    stdin = "\n\n".join(json.dumps(line) for line in lines)
    done = headrace("send", "-", "--wait", "--json", "--header", "tenant=usual", stdin=stdin)
    assert done.returncode == ExitCode.DEAD_LETTER, done.stderr
    sent = objects(done.stdout, "sent")
    assert [each["origin"] for each in sent] == ["line 1", "line 3", "line 5", "line 7"]
    results = {place(each["request"]): each for each in objects(done.stdout, "result")}
    first, second, third = (results[place(each)] for each in sent[:3])
    assert (first["request_id"], first["key"]) == (lines[0]["id"], "k1")
    assert [output["part"] for output in second["outputs"]] == ["text", "photo"]
    assert third["outputs"][0]["tensors"][0]["data"] == [1.5, -2]
    (letter,) = objects(done.stdout, "dead_letter")
    assert letter["code"] == "UNKNOWN_MODEL"
    headers = [header for header in letter["headers"] if header["name"] == "tenant"]
    assert [header["value_base64"] for header in headers] == ["YWNtZQ=="]


BAD = '{"text": "one"}\n{"text": "two"}\n{"txet": "three"}\n{"text": "four"}\n'


def test_bad_line_stops_sending_and_says_its_number(headrace: Pipeline) -> None:
    done = headrace("send", "-", "--json", stdin=BAD)
    assert done.returncode == ExitCode.WRONG_INPUT
    assert [each["origin"] for each in objects(done.stdout)] == ["line 1", "line 2"]
    assert re.search(r"^sent 2 events ", done.stderr, re.MULTILINE)
    assert "headrace: line 3: txet is unknown; there are: " in done.stderr
    assert "nothing after it was sent" in done.stderr


def test_bad_line_is_left_out_if_so_wished(headrace: Pipeline) -> None:
    done = headrace("send", "-", "--json", "--skip-bad", stdin=BAD)
    assert done.returncode == ExitCode.FAILED
    assert [each["origin"] for each in objects(done.stdout)] == ["line 1", "line 2", "line 4"]
    assert "left out: line 3: txet is unknown" in done.stderr
    assert "left out 1 that could not be sent" in done.stderr


def test_too_large_file_of_a_folder_stops_sending_or_is_left_out(headrace: Pipeline, tmp_path: Path) -> None:
    photo = next(each for each in assets.load().photos if each.name == "coffee.jpg").data
    for name, data in (("a.jpg", photo), ("b.jpg", photo + bytes(2_000_000)), ("c.jpg", photo)):
        (tmp_path / name).write_bytes(data)
    done = headrace("send", str(tmp_path))
    assert done.returncode == ExitCode.WRONG_INPUT
    assert "sent 1 event " in done.stderr
    assert f"headrace: {tmp_path / 'b.jpg'}: the event takes 2," in done.stderr
    rest = headrace("send", str(tmp_path), "--skip-bad")
    assert rest.returncode == ExitCode.FAILED
    assert "sent 2 events " in rest.stderr


def test_malformed_header_of_ours_is_refused_before_it_is_sent(headrace: Pipeline) -> None:
    done = headrace("send", "words", "--header", "deadline=tomorrow")
    assert done.returncode == ExitCode.WRONG_INPUT
    assert done.stdout == ""
    assert "header deadline b'tomorrow' is not milliseconds since 1970" in done.stderr


def test_parameters_reach_the_model_in_their_types(headrace: Pipeline) -> None:
    line = json.dumps({"tensor": {"datatype": "FP32", "shape": [1], "data": [1]}, "model": "delay"})
    done = headrace("send", "-", "--wait", "--json", "--param", "delay_ms=200", stdin=line)
    assert done.returncode == 0, done.stderr + done.stdout
    (result,) = objects(done.stdout, "result")
    assert result["timings_ms"]["inference"] >= 200


def test_outcomes_are_told_while_standard_input_is_silent(headrace: Pipeline) -> None:
    process = headrace.start("send", "-", "--wait", "--json", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b'{"text": "one"}\n')
    process.stdin.flush()
    told = [json.loads(process.stdout.readline())["kind"] for _ in range(2)]
    assert told == ["sent", "result"]
    _, errors = process.communicate(timeout=COMMAND_SECONDS)
    assert process.returncode == 0, errors


def test_interrupted_sending_says_how_much_was_sent(headrace: Pipeline) -> None:
    process = headrace.start("send", "words", "--repeat", "100000", "--rate", "50", "--json", bufsize=0)
    assert process.stdout is not None
    first = [process.stdout.readline() for _ in range(10)]
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=COMMAND_SECONDS)
    assert process.returncode == ExitCode.INTERRUPTED
    told = re.search(r"^sent (\d+) events ", errors.decode(), re.MULTILINE)
    assert told is not None, errors
    unsaid = int(told[1]) - len(first) - len(rest.splitlines())
    assert unsaid in (0, 1)  # it may have been about to write a line
    assert b"Traceback" not in errors


def test_sending_ends_when_its_reader_goes(headrace: Pipeline) -> None:
    process = headrace.start("send", "words", "--repeat", "100000", "--rate", "100", "--json")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    _, errors = process.communicate(timeout=COMMAND_SECONDS)
    assert process.returncode == ExitCode.FAILED
    assert re.search(rb"^sent [\d,]+ events? ", errors, re.MULTILINE)
    assert b"Traceback" not in errors


def test_bar_is_shown_on_a_terminal_above_which_outcomes_stand(headrace: Pipeline, photos: Path) -> None:
    code, shown = headrace.on_terminal("send", str(photos), "--rate", "30", "--wait")
    assert code == 0, shown
    assert "30/30" in shown
    assert "30 answered" in shown
    assert shown.count("result of ") == 30
    assert re.search(r"sending .*\d/30 .*\d/s .*[kM]B", shown)


def test_bar_is_not_shown_for_json_or_a_single_event(headrace: Pipeline, photos: Path) -> None:
    for arguments in ((str(photos), "--json"), ("words",)):
        _, shown = headrace.on_terminal("send", *arguments)
        assert "sending" not in shown


def test_memory_stays_flat_however_much_is_sent(headrace: Pipeline, photos: Path, tmp_path: Path) -> None:
    """A megabyte a file, 120 of them: held at once they would be far above the bound."""
    folder = tmp_path / "large"
    folder.mkdir()
    data = next(photos.glob("*.jpg")).read_bytes() + bytes(1_000_000)
    (folder / "0.jpg").write_bytes(data)
    for number in range(1, 120):
        (folder / f"{number}.jpg").hardlink_to(folder / "0.jpg")
    assert _peak_bytes(headrace, folder) - _peak_bytes(headrace, photos) < 60_000_000


def _peak_bytes(headrace: Pipeline, folder: Path) -> int:
    script = (
        "import resource\nfrom headrace.pipeline.cli import cli\n"
        f"cli.main(['send', '-c', {str(headrace.config)!r}, {str(folder)!r}], standalone_mode=False)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=headrace.environment,
        timeout=COMMAND_SECONDS,
        check=True,
    )
    return int(done.stdout.split()[-1])


# --- tail -----------------------------------------------------------------------------------------------------------


def _lag(headrace: Pipeline) -> int:
    requests = json.loads(headrace("topics", "--json").stdout)["topics"][0]
    return int(requests["lag"])


@pytest.fixture(scope="module")
def answered(headrace: Pipeline, photos: Path) -> None:
    """Coffee first, with a key, then many sentences, then a dead letter; all that was sent before is answered."""
    wait_until(lambda: _lag(headrace) == 0, COMMAND_SECONDS, "what other tests have sent to be answered")
    coffee = photos.parent / "coffee.jpg"
    coffee.write_bytes(next(each for each in assets.load().photos if each.name == "coffee.jpg").data)
    sent = headrace("send", str(coffee), "--wait", "--key", "breakfast")
    assert sent.returncode == 0, sent.stderr
    assert headrace("send", "a sentence", "--repeat", "40", "--wait").returncode == 0
    assert headrace("send", "nobody", "--model", "nobody", "--wait").returncode == ExitCode.DEAD_LETTER


@pytest.mark.parametrize(
    "filters",
    [
        ("--label", "ESPRESSO"),
        ("--key", "break*"),
        ("--label", "espresso", "--min-score", "0.5", "--model", "image_*", "--route", "image", "--part", "image"),
    ],
)
@pytest.mark.usefixtures("answered")
def test_tail_shows_the_last_that_match_however_far_back(headrace: Pipeline, filters: tuple[str, ...]) -> None:
    done = headrace("tail", "--max", "1", *filters)
    assert done.returncode == 0, done.stderr
    assert "key breakfast  image  espresso 0." in done.stdout


@pytest.mark.usefixtures("answered")
def test_tail_without_a_match_shows_nothing(headrace: Pipeline) -> None:
    for filters in (("--label", "zebra"), ("--key", "lunch"), ("--label", "espresso", "--model", "text*")):
        done = headrace("tail", "--from", "beginning", "--no-follow", *filters)
        assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.usefixtures("answered")
def test_tail_finds_a_request_and_a_header(headrace: Pipeline) -> None:
    (line,) = objects(headrace("tail", "--max", "1", "--json", "--label", "espresso").stdout)
    by_id = headrace("tail", "--max", "1", "--json", "--request", line["request_id"])
    by_header = headrace("tail", "--max", "1", "--json", "--header", f"correlation_id={line['request_id']}")
    assert objects(by_id.stdout) == objects(by_header.stdout) == [line]


@pytest.mark.usefixtures("answered")
def test_tail_of_a_modality_goes_by_the_routes(headrace: Pipeline) -> None:
    found = objects(headrace("tail", "--from", "beginning", "--no-follow", "--json", "--modality", "image").stdout)
    assert found
    assert all("image_jpeg" in [output["model"] for output in each["outputs"]] for each in found)


@pytest.mark.usefixtures("answered")
@pytest.mark.parametrize("columns", [60, 100, 140])
def test_tail_on_a_terminal_is_a_table_that_fits_it(headrace: Pipeline, columns: int) -> None:
    code, shown = headrace.on_terminal("tail", "--max", "8", "--dead-letters", columns=columns)
    assert code == 0, shown
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown.splitlines()]
    assert lines[0].split()[:2] == ["time", "event"]
    assert max(map(len, lines)) <= columns
    assert len(lines) == 9
    if columns == 60:
        assert any(line.endswith("…") or "…  " in line for line in lines)
    assert any("dead letter" in line for line in lines)
