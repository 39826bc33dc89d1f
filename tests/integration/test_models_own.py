"""A model of the user's own, as the commands serve it: from an empty folder to results, changed while it serves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CONFIG = """\
backend: "python"
max_batch_size: 8
input  [ { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] } ]
output [
  { name: "LABELS" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "SCORES" data_type: TYPE_FP32 dims: [ 1 ] }
]
"""
CODE = """\
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(pb.get_input_tensor_by_name(request, "TEXT").as_numpy()) for request in requests]

    def answer(self, texts):
        labels = np.array([[b"long" if len(text) > 20 else b"short"] for text in texts[:, 0]], np.object_)
        scores = np.ones((len(texts), 1), np.float32)
        return pb.InferenceResponse([pb.Tensor("LABELS", labels), pb.Tensor("SCORES", scores)])
"""
PIPELINE = """\
routes:
  - name: mine
    model: my_model
    match: {modality: [TEXT]}
"""
RELOAD_SECONDS = 60.0

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def headrace(tmp_path: Path) -> Iterator[Command]:
    """Runs the command in a folder and with a state of its own; stops what it started."""
    environment = {**os.environ, "HEADRACE_HOME": str(tmp_path / "home")}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "headrace", *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=180)

    yield run
    run("down", "--purge")


def write(repository: Path, name: str, code: str, config: str = CONFIG) -> Path:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(config)
    path = repository / name / "1" / "model.py"
    path.write_text(code)
    return path


def states(headrace: Command) -> dict[str, dict[str, object]]:
    return {model["name"]: model for model in json.loads(headrace("status", "--json").stdout)["models"]}


def member(headrace: Command, name: str) -> dict[str, Any]:
    [found] = [each for each in json.loads(headrace("status", "--json").stdout)["members"] if each["name"] == name]
    return dict(found)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + RELOAD_SECONDS
    while not condition():
        assert time.monotonic() < deadline


def label(headrace: Command, text: str) -> str:
    sent = headrace("send", "-c", "pipeline.yaml", text, "--wait", "--timeout", "30", "--json")
    assert sent.returncode == 0, sent.stdout + sent.stderr
    [output] = json.loads(sent.stdout.splitlines()[-1])["outputs"]
    return str(output["labels"][0]["name"])


def wait_for_label(headrace: Command, text: str, expected: str) -> None:
    deadline = time.monotonic() + RELOAD_SECONDS
    while label(headrace, text) != expected:
        assert time.monotonic() < deadline, f"{expected} did not come in {RELOAD_SECONDS:.0f} s"


@pytest.mark.usefixtures("stack")  # so that everything is cached
def test_own_models_serve_and_follow_their_files(headrace: Command, tmp_path: Path) -> None:
    repository = tmp_path / "my models"  # Triton's python backend could not run one from here
    code = write(repository, "my_model", CODE)
    late_config = write(repository, "bad_config", CODE, "max_batch_size: many").parent.parent / "config.pbtxt"
    raising = write(repository, "raising", 'raise RuntimeError("its weights are missing")')
    write(repository, "identity", CODE)
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)

    up = headrace("up", "--detach", "--models", "my models", "-c", "pipeline.yaml")
    assert up.returncode == 0, up.stdout + up.stderr
    assert "bad_config cannot be loaded: failed to read text proto" in up.stdout
    assert "Expected integer, got: many" in up.stdout
    assert "raising cannot be loaded: Internal: RuntimeError: its weights are missing" in up.stdout
    assert f"{raising}(1)" in up.stdout
    assert "identity cannot be loaded: headrace has a model of this name" in up.stdout
    status = headrace("status")
    assert status.returncode == 1
    assert "its weights are missing" in status.stdout
    assert "its weights are missing" in headrace("doctor").stdout
    assert {name: state["serving"] for name, state in states(headrace).items()} == {
        **{"bad_config": False, "identity": False, "raising": False},
        "my_model": True,
    }

    assert label(headrace, "a river turns the mill") == "long"
    code.write_text(CODE.replace('b"long"', 'b"wordy"'))
    wait_for_label(headrace, "a river turns the mill", "wordy")

    code.write_text("syntax error (")
    deadline = time.monotonic() + RELOAD_SECONDS
    while "SyntaxError" not in str(states(headrace)["my_model"]["trouble"]):
        assert time.monotonic() < deadline
    assert label(headrace, "a river turns the mill") == "wordy"  # as it was before it broke

    code.write_text(CODE.replace("> 20", "> 2_000"))
    raising.write_text(CODE)
    late_config.write_text(CONFIG)
    (repository / "identity").rename(repository / "no_longer_identity")
    while headrace("status").returncode != 0:
        assert time.monotonic() < deadline + RELOAD_SECONDS
    assert {name for name, state in states(headrace).items() if state["serving"]} == {
        *("my_model", "raising", "bad_config", "no_longer_identity")
    }
    assert label(headrace, "a river turns the mill") == "short"

    # One that does not come to an end keeps nothing waiting: neither another model nor a dead server.
    write(repository, "endless", "import time\n\ntime.sleep(3600)\n")
    wait_until(lambda: bool(states(headrace).get("endless", {}).get("loading")))
    code.write_text(CODE.replace('b"long"', 'b"at last"'))
    wait_for_label(headrace, "a river turns the mill", "at last")
    registry = member(headrace, "registry")
    os.kill(registry["pid"], signal.SIGKILL)
    wait_until(lambda: member(headrace, "registry")["pid"] != registry["pid"])
    assert states(headrace)["endless"]["loading"]


def test_up_refuses_a_model_in_place_of_a_repository(headrace: Command, tmp_path: Path) -> None:
    write(tmp_path / "models", "my_model", CODE)
    refused = headrace("up", "--models", "models/my_model")
    assert refused.returncode == 2
    assert "models/my_model is a model, not a model repository: name the folder that holds it" in refused.stderr
    assert headrace("up", "--models", "nowhere").returncode == 2
