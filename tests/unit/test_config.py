"""The settings model, its generated documents and its commands."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from headrace.pipeline import settings_reference
from headrace.pipeline.cli import cli
from headrace.pipeline.config import Settings
from headrace.pipeline.config_base import Section
from headrace.pipeline.config_routes import default_routes
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.records import Modality

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    """Runs commands in an empty folder, with no stack running and no settings in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HEADRACE_CONFIG", raising=False)
    return CliRunner()


def succeed(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def sections(section: type[Section]) -> Iterator[type[Section]]:
    yield section
    for field in section.model_fields.values():
        for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, Section):
                yield from sections(candidate)


@pytest.mark.parametrize("section", list(sections(Settings)), ids=lambda section: section.__name__)
def test_every_setting_has_help(section: type[Section]) -> None:
    assert [name for name, field in section.model_fields.items() if not field.description] == []


def test_reference_page_is_current() -> None:
    written = (DOCS / "settings.md").read_text()
    assert written == settings_reference.page(), "run: headrace config reference > docs/settings.md"


def test_exported_schema_is_current() -> None:
    written = json.loads((DOCS / "pipeline.schema.json").read_text())
    assert written == json.loads(settings_reference.schema()), "run: headrace config schema > docs/pipeline.schema.json"


def test_reference_page_names_every_setting() -> None:
    page = settings_reference.page()
    for section in sections(Settings):
        for name in section.model_fields:
            assert f"| `{name}` |" in page


def test_defaults_route_every_modality() -> None:
    routed = {modality for route in default_routes() if not route.match.explicit for modality in route.match.modality}
    assert routed == set(Modality)


def test_module_that_is_not_there_is_told_without_running_any(runner: CliRunner) -> None:
    folder = Path.cwd()
    (folder / "there.py").write_text("raise SystemExit('it was run')")
    file = folder / "pipeline.yaml"
    file.write_text("user_code: {modules: [there]}")
    assert runner.invoke(cli, ["config", "check", str(file)]).exit_code == 0
    file.write_text("user_code: {modules: [there, nowhere.mine]}")
    done = runner.invoke(cli, ["config", "check", str(file)])
    assert isinstance(done.exception, ConfigError)
    assert f"there is no module nowhere.mine in {folder}" in str(done.exception)


def test_shown_settings_load_as_the_same_settings(runner: CliRunner) -> None:
    shown = succeed(runner.invoke(cli, ["config", "show"]))
    assert Settings.model_validate_json(json.dumps(yaml.safe_load(shown)), strict=True) == Settings()


def test_show_takes_the_file_and_masks_secrets(runner: CliRunner) -> None:
    Path("mine.yaml").write_text("name: mill\nkafka: {client: {sasl.password: hunter2, sasl.username: me}}")
    shown = yaml.safe_load(succeed(runner.invoke(cli, ["config", "show", "-c", "mine.yaml"])))
    assert shown["name"] == "mill"
    assert shown["kafka"]["client"] == {"sasl.password": "********", "sasl.username": "me"}


def test_show_masks_passphrases_and_the_registrys_user(runner: CliRunner) -> None:
    Path("mine.yaml").write_text(
        "registry: {url: 'https://me:hunter2@host:8081/api'}\n"
        "kafka: {client: {sasl.oauthbearer.assertion.private.key.passphrase: hunter2}}"
    )
    output = succeed(runner.invoke(cli, ["config", "show", "-c", "mine.yaml"]))
    assert "hunter2" not in output
    shown = yaml.safe_load(output)
    assert shown["registry"]["url"] == "https://********@host:8081/api"
    assert list(shown["kafka"]["client"].values()) == ["********"]


def test_show_takes_the_file_from_the_environment(runner: CliRunner) -> None:
    Path("mine.yaml").write_text("name: mill")
    shown = succeed(runner.invoke(cli, ["config", "show"], env={"HEADRACE_CONFIG": "mine.yaml"}))
    assert yaml.safe_load(shown)["name"] == "mill"


def test_check_accepts_a_good_file(runner: CliRunner) -> None:
    Path("mine.yaml").write_text("routes:\n- {name: a, model: m}\n- {name: b, model: n}")
    assert (
        succeed(runner.invoke(cli, ["config", "check", "mine.yaml"]))
        == "mine.yaml: ok; routes in order: a (m), b (n)\n"
    )


def test_check_without_a_file_checks_the_environment(runner: CliRunner) -> None:
    assert succeed(runner.invoke(cli, ["config", "check"])).startswith("defaults and environment: ok")
    result = runner.invoke(cli, ["config", "check"], env={"HEADRACE_WORKER__SLOT": "-1"})
    assert "HEADRACE_WORKER__SLOT: -1 is less than 0" in str(result.exception)


def test_schema_is_json(runner: CliRunner) -> None:
    schema = json.loads(succeed(runner.invoke(cli, ["config", "schema"])))
    assert schema["properties"]["routes"]["minItems"] == 1
    assert schema["additionalProperties"] is False
