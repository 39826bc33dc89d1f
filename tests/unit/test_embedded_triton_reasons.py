"""Why a model cannot be loaded, out of what Triton answers and logs."""

from __future__ import annotations

import json

import pytest

from headrace.connectors.embedded.triton_reasons import failures_in_log, reason_in_answer, reason_in_log

LOG = """\
[libprotobuf ERROR /build/text_format.cc:337] Error parsing text-format inference.ModelConfig: 9:9: Unknown
2026-01-01T00:00:00Z E 1 model_repository_manager.cc:1460] "Poll failed for model directory 'other': failed to read"
[libprotobuf ERROR /build/text_format.cc:337] Error parsing text-format: 1:35: Expected integer, got: x
2026-01-01T00:00:00Z E 1 model_repository_manager.cc:1460] "Poll failed for model directory 'mine': failed to read it"
2026-01-01T00:00:01Z I 1 server.cc:1] "more"
2026-01-01T00:00:02Z E 1 model_repository_manager.cc:1460] "Poll failed for model directory 'late': no input named 'X'"
"""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mine", "failed to read it: Error parsing text-format: 1:35: Expected integer, got: x"),
        ("late", "no input named 'X'"),
        ("silent", "Triton could not read its configuration and did not say why"),
    ],
)
def test_reason_of_a_broken_configuration_is_found_in_the_log(name: str, reason: str) -> None:
    assert reason_in_log(LOG, name) == reason


def test_reason_in_an_answer_has_only_the_lines_that_help() -> None:
    error = (
        "load failed for model 'mine': version 1 is at UNAVAILABLE state: Internal: RuntimeError: no weights\n\nAt:\n"
        "  /models/mine/1/model.py(1): <module>\n  <frozen importlib._bootstrap>(488): _call_with_frames_removed\n;\n"
    )
    expected = "Internal: RuntimeError: no weights\n  At:\n    /models/mine/1/model.py(1): <module>"
    assert reason_in_answer(json.dumps({"error": error}).encode()) == expected
    assert reason_in_answer(b"Bad Gateway") == "Bad Gateway"


def test_models_that_kept_the_server_from_starting_are_found_in_the_log() -> None:
    log = (
        "2026-01-01T00:00:00Z E 1 model_lifecycle.cc:642] \"failed to load 'mine' version 1: Internal: ImportError: "
        'no x\\n\\nAt:\\n  /mine/1/model.py(8): <module>\\n  <frozen importlib._bootstrap>(488): f\\n"\n'
        "2026-01-01T00:00:00Z I 1 model_lifecycle.cc:777] \"failed to load 'mine'\"\n"
    )
    [line] = failures_in_log(log)
    assert line == "model mine cannot be loaded: Internal: ImportError: no x\n  At:\n    /mine/1/model.py(8): <module>"
