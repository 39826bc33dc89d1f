"""Links lead somewhere, examples are valid, every page can be found, and every decision is recorded in full."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from headrace.pipeline.config import Settings
from headrace.pipeline.settings_file import load_settings
from tests.docs.pages import DOCS, ROOT, Page, all_pages, read

PAGES = all_pages()
DECISIONS = sorted((DOCS / "decisions").glob("*.md"))
DECISION_PARTS = ("Context", "Choice", "Evidence", "Would change it")
EXAMPLES = [
    pytest.param(body, id=f"{page.name}-{number}")
    for page in PAGES
    for number, body in enumerate(page.blocks("yaml"), 1)
    if isinstance(content := yaml.safe_load(body), dict) and content.keys() <= Settings.model_fields.keys()
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Page) -> None:
    for link in page.links():
        target, _, anchor = link.partition("#")
        path = (page.path.parent / target).resolve() if target else page.path
        assert path.exists(), f"{page.name} links to {link}"
        assert path.is_relative_to(ROOT), f"{page.name} links out of the project: {link}"
        if anchor and path.suffix == ".md":
            assert anchor in read(path).anchors(), f"{page.name} links to {link}: there is no such heading"


def test_there_are_examples_of_settings() -> None:
    assert EXAMPLES, "no page shows a pipeline.yaml"


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_of_settings_is_valid(example: str, tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(re.sub(r"\$\{file:[^}]+\}", "from a file", example))
    assert load_settings(file, dict.fromkeys(re.findall(r"\$\{env:([^}]+)\}", example), "secret")).routes


def test_every_page_is_in_the_index() -> None:
    index = read(DOCS / "README.md")
    listed = {(DOCS / link.partition("#")[0]).resolve() for link in index.links()}
    pages = {path.resolve() for path in DOCS.rglob("*.md")} - {index.path.resolve()}
    assert sorted(path.name for path in pages - listed) == []


def test_decisions_are_numbered_without_repeats() -> None:
    numbers = [path.name.split("-")[0] for path in DECISIONS]
    assert numbers
    assert all(len(number) == 3 and number.isdigit() for number in numbers)
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_decision_says_why_and_what_would_change_it(path: Path) -> None:
    """Each part has a heading, or a paragraph that begins with its name in bold."""
    text = path.read_text()
    assert text.startswith("# ")
    places = [
        re.search(rf"^(?:## |\*\*)(?:What )?{part}", text, re.MULTILINE | re.IGNORECASE) for part in DECISION_PARTS
    ]
    missing = [part for part, place in zip(DECISION_PARTS, places, strict=True) if not place]
    assert not missing
    starts = [place.start() for place in places if place]
    assert starts == sorted(starts), f"the order is {', '.join(DECISION_PARTS)}"
