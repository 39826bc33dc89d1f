"""Which servers a program talks to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace import ConfigError, Settings
from headrace.connectors.embedded.owners import owner_tag
from headrace.connectors.embedded.state import Endpoints, StackState, remove_state, write_state
from headrace.pipeline.config import KafkaSettings
from headrace.sdk.connect import settings_of

STACK = "127.0.0.1:19092"
FILE = """
kafka: {bootstrap_servers: "file:9092", client: {security.protocol: ssl}}
topics: {results: answers}
"""


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A stack that runs, as far as its state file and its owner, this process, say."""
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    endpoints = Endpoints(STACK, "http://127.0.0.1:18081", "127.0.0.1:18001", "127.0.0.1:18000", "http://127.0.0.1:1")
    write_state(StackState(owner_tag(), ready=True, endpoints=endpoints, data_dir=""))
    yield
    remove_state()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "pipeline.yaml"
    file.write_text(FILE)
    return file


def test_without_anything_it_is_what_the_defaults_say() -> None:
    assert settings_of(None, {}) == Settings()


@pytest.mark.usefixtures("stack")
def test_running_stack_is_found_and_left_aside_for_an_address() -> None:
    found = settings_of(None, {})
    assert (found.kafka.bootstrap_servers, found.registry.url) == (STACK, "http://127.0.0.1:18081")
    given = settings_of(None, {"bootstrap_servers": "mine:9092"})
    assert (given.kafka.bootstrap_servers, given.registry.url) == ("mine:9092", Settings().registry.url)


@pytest.mark.usefixtures("stack")
def test_running_stack_is_found_beside_properties_of_the_client() -> None:
    found = settings_of(None, {"client": {"client.id": "me"}})
    assert (found.kafka.bootstrap_servers, found.kafka.client) == (STACK, {"client.id": "me"})


@pytest.mark.usefixtures("stack")
def test_file_goes_before_the_stack_and_the_environment_before_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for config in (file, str(file)):
        found = settings_of(config, {})
        assert (found.kafka.bootstrap_servers, found.topics.results) == ("file:9092", "answers")
        assert found.registry.url == "http://127.0.0.1:18081"
    monkeypatch.setenv("HEADRACE_CONFIG", str(file))
    assert settings_of(None, {}).topics.results == "answers"
    monkeypatch.setenv("HEADRACE_TOPICS__RESULTS", "others")
    assert settings_of(None, {}).topics.results == "others"


def test_address_goes_before_everything(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_KAFKA__BOOTSTRAP_SERVERS", "environment:9092")
    found = settings_of(
        file, {"bootstrap_servers": "mine:9092", "registry_url": "http://mine", "client": {"client.id": "me"}}
    )
    assert (found.kafka.bootstrap_servers, found.registry.url) == ("mine:9092", "http://mine")
    assert found.kafka.client == {"security.protocol": "ssl", "client.id": "me"}
    assert found.topics.results == "answers"


def test_settings_are_taken_as_they_are() -> None:
    own = Settings(kafka=KafkaSettings(bootstrap_servers="own:9092"))
    assert settings_of(own, {}) is own
    assert settings_of(own, {"registry_url": "http://mine"}).kafka.bootstrap_servers == "own:9092"


def test_wrong_address_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match=r"arguments: registry\.url: .*http://"):
        settings_of(None, {"registry_url": "no url"})
    with pytest.raises(ConfigError, match=r"kafka\.bootstrap_servers: .*host:port"):
        settings_of(None, {"bootstrap_servers": ""})


def test_misspelt_address_is_a_type_error() -> None:
    misspelt: Any = {"boostrap_servers": "mine:9092"}
    with pytest.raises(TypeError, match="'boostrap_servers'; Addresses are bootstrap_servers, registry_url, client"):
        settings_of(None, misspelt)


def test_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.yaml"):
        settings_of(tmp_path / "missing.yaml", {})
