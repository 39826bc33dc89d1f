from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from headrace.pipeline import secrets
from headrace.pipeline.cli import cli, main
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.log import configure_logging
from headrace.pipeline.secrets import MASK, UnresolvedError, is_secret, keep, masked, resolved
from headrace.pipeline.settings_file import load_settings


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests keep, and what these do."""
    monkeypatch.setattr(secrets, "_known", set())


@pytest.fixture
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    logging.captureWarnings(False)


def test_references_are_resolved_wherever_a_text_is(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("from a file\n")
    tree = {"a": ["${env:USER}:${file:password}", 1], "b": {"c": f"${{file:{tmp_path}/password}}", "d": "$HOME ${x}"}}
    assert resolved(tree, {"USER": "me"}, tmp_path) == {
        "a": ["me:from a file", 1],
        "b": {"c": "from a file", "d": "$HOME ${x}"},
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("${env:NOBODY}", "environment variable NOBODY is not set"),
        ("${file:nowhere}", "nowhere cannot be read: No such file or directory"),
        ("${file:.}", "cannot be read: Is a directory"),
        ("${file:latin}", "latin is no UTF-8 text"),
    ],
)
def test_reference_that_leads_nowhere_is_told(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xff")
    with pytest.raises(UnresolvedError, match=problem):
        resolved(text, {}, tmp_path)
    config = tmp_path / "pipeline.yaml"
    config.write_text(f'name: "{text}"')
    with pytest.raises(ConfigError, match=problem):
        load_settings(config, {})


def test_what_a_reference_brings_is_no_reference(tmp_path: Path) -> None:
    assert resolved("${env:A}", {"A": "${env:B}", "B": "b"}, tmp_path) == "${env:B}"


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("sasl.password", True),
        ("ssl.key.password", True),
        ("ssl.key.pem", True),
        ("sasl.oauthbearer.client.secret", True),
        ("basic.auth.user.info", True),
        ("ssl.key.location", False),
        ("ssl.keystore.location", False),
        ("sasl.username", False),
    ],
)
def test_names_say_what_is_secret(name: str, secret: bool) -> None:
    assert is_secret(name) is secret


def test_secrets_of_settings_are_masked(tmp_path: Path) -> None:
    config = tmp_path / "pipeline.yaml"
    config.write_text(
        "kafka: {client: {sasl.password: '${env:P}', sasl.username: visible, ssl.key.password: 12345678}}\n"
        "registry: {url: 'https://me:ab%40cd@host'}\n"
        "triton: {headers: {authorization: 'Bearer t0ken', cookie: cr1sp}}\n"
        "topics: {emitted: {nlp.tokens: result}}\n"
    )
    settings = load_settings(config, {"P": 'quo"ted', "OTHER": "other"})
    assert settings.kafka.client["sasl.password"] == 'quo"ted'
    told = 'visible quo"ted quo\\"ted https://me:ab%40cd@host ab@cd other 12345678 t0ken cr1sp result'
    masks = " ".join([MASK] * 3)
    assert masked(told) == f"visible {MASK} {MASK} https://me:{MASK}@host {MASK} other {masks} result"


def test_short_ones_are_left_for_they_are_part_of_many_words() -> None:
    keep({"kafka": {"client": {"sasl.password": "the"}}})
    assert masked("other") == "other"


def test_of_two_secrets_the_longer_is_masked_whole() -> None:
    keep({"kafka": {"client": {"sasl.password": "long", "x.token": "longer"}}})
    assert masked("longer") == MASK


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.usefixtures("logging_restored")
def test_logs_and_their_tracebacks_have_none(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    keep({"kafka": {"client": {"sasl.password": 'pass"word'}}})
    configure_logging(log_format, "info")
    try:
        raise ValueError('wrong: pass"word')
    except ValueError:
        logging.getLogger("x").exception("refused %s", 'pass"word')
    told = capsys.readouterr().err
    assert "wrong: " in told
    assert MASK in told
    assert 'pass"word' not in told
    assert 'pass\\"word' not in told
    if log_format == "json":
        assert json.loads(told)["message"] == f"refused {MASK}"


def test_config_show_masks_what_came_by_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUCH_A_SECRET", "hunter22")
    config = tmp_path / "pipeline.yaml"
    config.write_text(
        "kafka: {client: {sasl.password: '${env:SUCH_A_SECRET}', ssl.key.password: 12345678}}\n"
        "registry: {url: 'https://me:hunter22/+==@host'}\n"
        "triton: {headers: {cookie: hunter22}}\n"
    )
    shown = CliRunner().invoke(cli, ["config", "show", "-c", str(config)])
    assert shown.exit_code == 0, shown.output
    assert "hunter22" not in shown.output
    assert "12345678" not in shown.output
    assert shown.output.count(MASK) == 4


def test_errors_that_nobody_expected_are_masked_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep({"kafka": {"client": {"sasl.password": "hunter22"}}})

    def broken(**_: object) -> None:
        raise RuntimeError("hunter22 is wrong")

    monkeypatch.setattr(cli, "main", broken)
    with pytest.raises(SystemExit) as caught:
        main()
    told = capsys.readouterr().err
    assert (caught.value.code, "Traceback" in told, "hunter22" in told) == (1, True, False)
