"""The tables of docs/errors.md, read as what they promise."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace.pipeline.errors import ExhaustedError, FatalError, PoisonError, RetriableError, UnavailableError
from tests.docs.pages import DOCS, read

OWN_CODE = "*"
"""The code of a dead letter for which user code has a name of its own."""
HEAD = "| error | kind | tried again | becomes |"

_CODE_SPAN = re.compile(r"`([^`]+)`")
_LEAD = re.compile(r"(?:`[^`]+` ?)*")
_NAME = re.compile(r"\*\*`?(.+?)`?\*\*")
_LETTER = re.compile(r"dead letter `(\w+)` (?:`(\w+)`|\*its own code\*)")
_EXIT = re.compile(r"exit (\d)")


@dataclass(frozen=True, slots=True)
class Row:
    """One error.

    Attributes:
        section: the heading that it is under.
        error: what it is.
        kind: retriable, poison or fatal.
        tried: what is tried again, one after the other.
        becomes: what is left of it in the end.
    """

    section: str
    error: str
    kind: str
    tried: tuple[str, ...]
    becomes: str

    @property
    def name(self) -> str:
        """What it begins with in bold, if it does."""
        found = _NAME.match(self.error)
        return found[1] if found else ""

    @property
    def lead(self) -> tuple[str, ...]:
        """What it begins with that is marked as code."""
        found = _LEAD.match(self.error)
        return tuple(_CODE_SPAN.findall(found[0] if found else ""))

    @property
    def words(self) -> tuple[str, ...]:
        """What is marked as code in it, in order."""
        return tuple(_CODE_SPAN.findall(self.error))

    @property
    def letter(self) -> tuple[str, str] | None:
        """Stage and code of the dead letter that it becomes, if it does."""
        found = _LETTER.search(self.becomes)
        return (found[1], found[2] or OWN_CODE) if found else None

    @property
    def exit_code(self) -> int | None:
        """Of the process that it ends, if it does."""
        found = _EXIT.search(self.becomes)
        return int(found[1]) if found else None

    def __str__(self) -> str:
        return re.sub(r"\W+", " ", f"{self.section} {self.error}").strip()[:60]


def _rows(lines: Sequence[str]) -> list[Row]:
    found: list[Row] = []
    section, inside = "", False
    for line in lines:
        if line.startswith("## "):
            section = line.removeprefix("## ")
        if line == HEAD:
            inside = True
        elif inside and not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("|---"):
            error, kind, tried, becomes = (cell.strip() for cell in line.strip("|").split("|"))
            found.append(Row(section, error, kind, tuple(tried.split(", then ")), becomes))
    return found


PAGE = read(DOCS / "errors.md")
ROWS = _rows(PAGE.text.splitlines())
SECTIONS: Mapping[str, Sequence[Row]] = {
    section: [row for row in ROWS if row.section == section] for section in dict.fromkeys(row.section for row in ROWS)
}


def ways() -> dict[tuple[str, str], str]:
    """The ways of trying again that the page explains, for which kinds: empty for those that say none."""
    table = PAGE.text.partition("\n| tried again |")[2].partition("\n\n")[0]
    names = [line.strip("|").split("|")[0].strip() for line in table.splitlines()[2:]]
    return {(name.partition(", ")[0], name.partition(", ")[2]): name for name in names}


def kind_of(error: BaseException) -> str:
    """As the page calls it."""
    match error:
        case ExhaustedError() | RetriableError():
            return "retriable"
        case PoisonError():
            return "poison"
        case FatalError():
            return "fatal"
    raise AssertionError(f"{error!r} is of no kind")


def told(row: Row, error: BaseException) -> None:
    """Assert that the row says this of an error that nobody but its maker has dealt with yet."""
    waits = ("waited for",) if isinstance(error, UnavailableError) else ("never",)
    letter = (error.stage, error.code) if isinstance(error, PoisonError) else None
    exit_code = error.exit_code if isinstance(error, FatalError) else None
    assert (row.kind, row.tried, row.letter, row.exit_code) == (kind_of(error), waits, letter, exit_code)


def told_of_call(row: Row, error: BaseException) -> None:
    """The same of an error of an infer call, and of what becomes of it in the end."""
    match error:
        case UnavailableError():
            expected: object = "retriable", ("waited for", "later"), ("infer", "MODEL_UNAVAILABLE")
        case RetriableError():
            expected = "retriable", ("at once", "later"), ("infer", "RETRIES_EXHAUSTED")
        case _:
            told(row, error)
            return
    assert (row.kind, row.tried, row.letter) == expected
