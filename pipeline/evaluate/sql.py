"""Pieces of SQL that the tables of a comparison share."""

from __future__ import annotations

from pathlib import Path

from headrace.pipeline.evaluate.statistics import BLOCKS

POSITION = 'topic, partition, "offset"'
ANSWER_KEY = f"{POSITION}, part, route"
"""An event's part takes one route, but user code may add an output to a result."""
BLOCK = f"""(((("offset" & 2147483647) * 2654435761) >> 16) + partition * 31) % {BLOCKS}"""
"""Of an event: a multiplicative hash (Knuth, The Art of Computer Programming 6.4), so that what repeats with the
offsets does not gather in a few blocks."""

PLACE = "((file_index::BIGINT << 40) + file_row_number)"
"""Of a row of Parquet files: a number that grows with their names, and within each from row to row."""


def quoted(text: str) -> str:
    """As a string."""
    return "'" + text.replace("'", "''") + "'"


def named(name: str) -> str:
    """As a column's name."""
    return '"' + name.replace('"', '""') + '"'


def kind_column(number: int) -> str:
    """The column of a row's value by a kind of slice. Kinds go by number: names of columns ignore case."""
    return f"k{number}"


def kind_columns(count: int) -> str:
    """Those of all kinds."""
    return ", ".join(map(kind_column, range(count)))


def whole_multiple(number: str, scale: float) -> str:
    """A number times ``scale``, as a whole one: those have the same sum in every order, and threads add in any."""
    return f"round({number} * {scale!r})::BIGINT"


def table_of(path: Path) -> str:
    """The rows of a Parquet file, or of all whose names fit its ``*``; ``PLACE`` says where each stands."""
    return f"read_parquet({quoted(str(path))})"
