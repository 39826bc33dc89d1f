"""Tables whose rows are of routes and slices, both as small numbers, which groups are made of quickly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from headrace.pipeline.evaluate.measures import Slice
from headrace.pipeline.evaluate.sql import named

KINDS = ("modality", "source", "type", "key", "time")
MAX_SLICES = 50
"""Of one kind and route: the largest."""
LEAST_RECORDS = 20
"""Of a slice: of fewer nothing can be said."""
MAX_PERIODS = 48
_MINUTE_MS, _HOUR_MS = 60_000, 3_600_000
PERIODS_MS = (
    *(1_000, 10_000, _MINUTE_MS, 5 * _MINUTE_MS, 15 * _MINUTE_MS),
    *(_HOUR_MS, 6 * _HOUR_MS, 24 * _HOUR_MS, 7 * 24 * _HOUR_MS),
)
"""A second to a week: how long the periods of ``time`` may be."""
_OUTLYING = 0.01
"""Share of events at either end of time whose times are not looked at: one wrong clock must not decide the period."""
_YEARS_1_TO_9999_MS = (-62_135_596_800_000, 253_402_300_799_999)


@dataclass(frozen=True, slots=True)
class Sliced:
    """A table with a column ``r``, the number of a row's route, and a column ``s0``, ``s1``, … for each kind of slice.

    Attributes:
        table: its name.
        routes: by their numbers.
        kinds: of slices.
        values: of each kind, by their numbers; NULL stands for what is in no slice that is large enough.
    """

    table: str
    routes: tuple[str, ...]
    kinds: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]

    def slice(self, kind: int, value: int) -> Slice:
        """One of a kind's."""
        return Slice(self.kinds[kind], self.values[kind][value])


def slice_table(database: duckdb.DuckDBPyConnection, source: str, name: str, kinds: Sequence[str]) -> Sliced:
    """Make a table of another that has a column ``route`` and, with their values, one for each kind; drop that."""
    database.execute(f"""
        CREATE OR REPLACE TABLE routes AS
        SELECT route, (row_number() OVER (ORDER BY route) - 1)::SMALLINT AS r FROM (SELECT DISTINCT route FROM {source})
    """)
    values = tuple(_choose(database, source, number, kind) for number, kind in enumerate(kinds))
    numbers = "".join(f", s{number}" for number in range(len(kinds)))
    joins = " ".join(
        f"LEFT JOIN slices{number} n{number} ON n{number}.route = o.route AND n{number}.value = o.{named(kind)}"
        for number, kind in enumerate(kinds)
    )
    database.execute(f"""
        CREATE TABLE {name} AS
        SELECT o.* EXCLUDE ({", ".join(named(kind) for kind in kinds)}), r {numbers}
        FROM {source} o JOIN routes USING (route) {joins}
    """)
    database.execute(f"DROP TABLE {source}")
    routes = database.execute("SELECT route FROM routes ORDER BY r").fetchall()
    return Sliced(name, tuple(route for (route,) in routes), tuple(kinds), values)


def _choose(database: duckdb.DuckDBPyConnection, source: str, number: int, kind: str) -> tuple[str, ...]:
    """Make a table of the largest slices of a kind, and of their numbers; their values."""
    database.execute(f"""
        CREATE OR REPLACE TABLE slices{number} AS
        WITH largest AS (
            SELECT route, {named(kind)} AS value FROM {source} WHERE {named(kind)} IS NOT NULL
            GROUP BY route, value HAVING count(*) >= {LEAST_RECORDS}
            QUALIFY row_number() OVER (PARTITION BY route ORDER BY count(*) DESC, value) <= {MAX_SLICES}
        )
        SELECT route, value, (dense_rank() OVER (ORDER BY value) - 1)::SMALLINT AS s{number} FROM largest
    """)
    found = database.execute(f"SELECT DISTINCT s{number}, value FROM slices{number} ORDER BY s{number}").fetchall()
    return tuple(value for _, value in found)


def period_ms(first_ms: int, last_ms: int) -> int:
    """The shortest period of which few cover the time from one to the other."""
    fitting = (each for each in PERIODS_MS if last_ms // each - first_ms // each < MAX_PERIODS)
    return next(fitting, PERIODS_MS[-1])


def period_sql(database: duckdb.DuckDBPyConnection, events: str) -> str:
    """When the period of an event begins, ISO 8601, by its ``time_ms``; NULL if no calendar has the time.

    Args:
        database: for the times of all events.
        events: their table.
    """
    first, last = _YEARS_1_TO_9999_MS
    is_told = f"time_ms BETWEEN {first} AND {last}"
    found = database.execute(f"""
        SELECT quantile_disc(time_ms, [{_OUTLYING}, {1 - _OUTLYING}]) FROM {events} WHERE {is_told}
    """).fetchone()
    length = period_ms(*found[0]) if found and found[0] else PERIODS_MS[0]
    start = f"time_ms - (time_ms % {length} + {length}) % {length}"
    return f"CASE WHEN {is_told} THEN strftime(make_timestamp(({start}) * 1000), '%Y-%m-%dT%H:%M:%SZ') END"
