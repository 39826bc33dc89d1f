from __future__ import annotations

import json
import logging
import re
import warnings

import pytest

from headrace.pipeline.errors import FatalError
from headrace.pipeline.log import configure_logging


def test_text_line_has_utc_time_level_slot_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("text", "info", 3)
    logging.getLogger("mill").warning("the %s turns", "wheel")
    line = capsys.readouterr().err.rstrip("\n")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING mill slot=3: the wheel turns", line)


def test_json_line_is_an_object_with_the_slot(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info", 3)
    logging.getLogger("mill").error("line one\nline two")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    entry = json.loads(lines[0])
    assert {name: entry[name] for name in ("level", "logger", "message", "slot")} == {
        "level": "ERROR",
        "logger": "mill",
        "message": "line one\nline two",
        "slot": 3,
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d.*", entry["time"])


def test_without_a_slot_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info")
    logging.getLogger("mill").info("x")
    assert "slot" not in json.loads(capsys.readouterr().err)


def test_level_is_kept_and_others_libraries_are_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("text", "debug", 0)
    logging.getLogger("mill").debug("seen")
    logging.getLogger("faust").info("not seen")
    logging.getLogger("faust").warning("seen too")
    configure_logging("text", "warning", 0)
    logging.getLogger("mill").info("nor this")
    assert [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()] == ["seen", "seen too"]


def test_traceback_of_a_fatal_error_is_left_out_and_of_others_not(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("text", "info", 0)
    for error in (FatalError("told elsewhere"), RuntimeError("a bug")):
        logging.getLogger("mode").error("crashed", exc_info=error)
    err = capsys.readouterr().err
    assert "told elsewhere" not in err
    assert "RuntimeError: a bug" in err


def test_message_that_is_no_text_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """Libraries log exceptions as they are."""
    configure_logging("text", "info", 0)
    logging.getLogger("library").error(ValueError("as it is"))
    assert "ERROR   library slot=0: as it is" in capsys.readouterr().err


def test_warnings_are_logged(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("text", "info", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert "DeprecationWarning: old" in capsys.readouterr().err
