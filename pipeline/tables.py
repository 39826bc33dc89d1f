"""Tables for people: rows that stream, with columns that keep their places, cut to the terminal's width. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

GAP = "  "
ELLIPSIS = "…"


@dataclass(frozen=True, slots=True)
class Column:
    """Of a streaming table.

    Attributes:
        title: what stands above it.
        width: characters to begin with; it grows with what comes, up to ``most``.
        most: characters at most.
        rest: takes all the room that the others leave; one column of a table has this.
        from_width: leave it out of a terminal that is narrower.
    """

    title: str
    width: int = 0
    most: int = 1_000
    rest: bool = False
    from_width: int = 0


class StreamingTable:
    """Rows one by one, a line each, however many there will be.

    Args:
        columns: from left to right.
        width: characters of the terminal.
    """

    def __init__(self, columns: Sequence[Column], width: int) -> None:
        self._columns = columns
        self._width = width
        self._shown = [number for number, column in enumerate(columns) if column.from_width <= width]
        self._widths = [max(column.width, cell_len(column.title)) for column in columns]

    def head(self) -> str:
        """The titles."""
        return self._joined([column.title for column in self._columns])

    def row(self, cells: Sequence[str]) -> str:
        """A cell for each column, also those that are left out. Control characters are shown, not obeyed."""
        cleaned = [clean(cell) for cell in cells]
        for number in self._shown:
            column = self._columns[number]
            self._widths[number] = min(column.most, max(self._widths[number], cell_len(cleaned[number])))
        return self._joined(cleaned)

    def _joined(self, cells: Sequence[str]) -> str:
        fixed = [number for number in self._shown if not self._columns[number].rest]
        room = self._width - sum(self._widths[number] for number in fixed) - len(GAP) * (len(self._shown) - 1)
        pieces = [
            fit(cells[number], max(1, room) if self._columns[number].rest else self._widths[number])
            for number in self._shown
        ]
        return cut(GAP.join(pieces).rstrip(), self._width)


def fit(text: str, width: int) -> str:
    """Cut or filled to just this many characters of a terminal."""
    return set_cell_size(cut(text, width), width)


def cut(text: str, width: int) -> str:
    """At most so many characters of a terminal, an ellipsis in the place of the rest."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + ELLIPSIS


def clean(text: str) -> str:
    """In one line, and nothing that a terminal would obey: what is shown was written by others."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _shown(letter) for letter in text)


def _shown(letter: str) -> str:
    return " " if letter.isspace() else letter.encode("unicode_escape", errors="replace").decode()


def table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None = None, right: Collection[int] = ()
) -> list[str]:
    """The lines of a whole table, titles first, as wide as its cells.

    Args:
        titles: of the columns.
        rows: a cell for each column.
        width: cut lines to this; None leaves them whole.
        right: numbers of the columns to be set to the right.
    """
    cleaned = [tuple(clean(cell) for cell in row) for row in (titles, *rows)]
    widths = [max(cell_len(row[number]) for row in cleaned) for number in range(len(titles))]

    def placed(number: int, cell: str) -> str:
        blank = " " * (widths[number] - cell_len(cell))
        return blank + cell if number in right else cell + blank

    lines = [GAP.join(placed(number, cell) for number, cell in enumerate(row)).rstrip() for row in cleaned]
    return lines if width is None else [cut(line, width) for line in lines]
