"""The documentation's pages, their links and their fenced examples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(
    r"^(?P<fence>```+)(?P<language>[\w-]*)[^\n]*\n(?P<body>.*?)^(?P=fence)\s*$", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)(?:\s+\"[^\"]*\")?\)")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Page:
    """One Markdown file."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    def prose(self) -> str:
        """The text without its fenced blocks."""
        return _FENCE.sub("", self.text)

    def blocks(self, language: str) -> Iterator[str]:
        """The bodies of the fenced blocks in a language."""
        return (match["body"] for match in _FENCE.finditer(self.text) if match["language"] == language)

    def links(self) -> Iterator[str]:
        """Targets of the links that stay within the project."""
        targets = (match["target"] for match in _LINK.finditer(self.prose()))
        return (target for target in targets if not re.match(r"[a-z][a-z0-9+.-]*:", target))

    def anchors(self) -> set[str]:
        """What its headings are linked by."""
        return {_slug(match[1]) for match in _HEADING.finditer(self.prose())}


def _slug(heading: str) -> str:
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def read(path: Path) -> Page:
    return Page(path, path.read_text())


def all_pages() -> list[Page]:
    """Every page of the project: those at its top, and all under docs/ and in its folders' READMEs."""
    folders = ("schemas", "triton_models", "pipeline", "connectors", "tests")
    found = [
        *ROOT.glob("*.md"),
        *DOCS.rglob("*.md"),
        *(path for name in folders for path in (ROOT / name).rglob("*.md")),
    ]
    return [read(path) for path in sorted(found)]
