"""What is declared once in code (settings, metrics, commands) is in the documentation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from headrace.pipeline import metrics
from headrace.pipeline.cli import COMMANDS
from headrace.pipeline.config import Settings
from tests.docs.pages import DOCS
from tools import docs


def sections(section: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The settings' sections, at any depth."""
    yield section
    for field in section.model_fields.values():
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from sections(kind)


FIELDS = [
    pytest.param(name, id=f"{section.__name__}.{name}")
    for section in sections(Settings)
    for name in section.model_fields
]


def test_sections_of_the_settings_are_found_at_every_depth() -> None:
    names = {section.__name__ for section in sections(Settings)}
    assert len(names) > len(Settings.model_fields) / 2
    assert len(FIELDS) > len(Settings.model_fields)


@pytest.mark.parametrize("name", FIELDS)
def test_setting_is_documented(name: str) -> None:
    assert f"| `{name}` |" in (DOCS / "settings.md").read_text()


@pytest.mark.parametrize("metric", list(metrics.ALL), ids=lambda metric: str(metric.describe()[0].name))
def test_metric_is_documented_with_its_kind_help_and_labels(metric: docs.Metric) -> None:
    assert docs.metric_row(metric) in (DOCS / "metrics.md").read_text().splitlines()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_command_is_documented(command: str) -> None:
    assert f"## headrace {command}" in (DOCS / "cli.md").read_text().splitlines()


@pytest.mark.parametrize("page", sorted(docs.GENERATED))
def test_generated_page_is_current(page: str) -> None:
    assert (DOCS / page).read_text() == docs.GENERATED[page](), "run: make docs"
