"""Which extras there are, and that they are kept apart from what every stack has."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.connectors.embedded import extras
from headrace.connectors.embedded.stack import Stack
from headrace.connectors.embedded.triton_env import TritonInterpreter, models_key
from headrace.pipeline.config_routes import default_routes
from headrace.pipeline.errors import ConfigError
from headrace.triton_models.repository import EXTRAS, PUBLIC_MODELS
from headrace.triton_models.serving.packages import VARIABLE, add_packages

INTERPRETER = TritonInterpreter(Path("/cache/python"), Path("/cache/python/pytriton"), "1.26.4")


def test_every_optional_model_can_be_asked_for() -> None:
    assert set(extras.DOWNLOAD_MB) == set(EXTRAS)
    assert all(extras.requirements_file(name).is_file() for name in EXTRAS)
    assert not set(EXTRAS) & set(PUBLIC_MODELS)


def test_every_optional_model_has_a_default_route_for_events_that_name_it() -> None:
    explicit = {route.model for route in default_routes() if route.match.explicit}
    assert set(EXTRAS) <= explicit


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ((), ()),
        (("speech_to_text",), ("speech_to_text",)),
        (("speech_to_text", "content_type", "speech_to_text"), ("content_type", "speech_to_text")),
        (("all",), ("content_type", "speech_to_text")),
        (("content_type", "all"), ("content_type", "speech_to_text")),
    ],
)
def test_extras_are_chosen_by_name_each_once(asked: tuple[str, ...], found: tuple[str, ...]) -> None:
    assert extras.chosen(asked) == found


def test_unknown_extra_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="no extra ocr: choose from content_type, speech_to_text, all"):
        Stack(extras=["ocr"])


def test_every_extra_has_folders_of_its_own(tmp_path: Path) -> None:
    folders = {extras.packages_folder(tmp_path, INTERPRETER, name) for name in EXTRAS}
    keys = {models_key(INTERPRETER, purpose) for purpose in ("cpu", *(f"cpu {name}" for name in EXTRAS))}
    assert len(folders) == len(EXTRAS)
    assert len(keys) == 1 + len(EXTRAS)
    other = TritonInterpreter(Path("/cache/other"), INTERPRETER.package, INTERPRETER.numpy_version)
    assert extras.packages_folder(tmp_path, other, "content_type") not in folders


def test_packages_of_extras_come_last_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/one:/two")
    monkeypatch.setattr("sys.path", ["/models", "/two"])
    add_packages()
    add_packages()
    import sys

    assert sys.path == ["/models", "/two", "/one"]
    monkeypatch.delenv(VARIABLE)
    add_packages()
    assert sys.path == ["/models", "/two", "/one"]
