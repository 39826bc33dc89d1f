"""Which slices there are, and tables whose rows are of routes and slices as small numbers: these group quickly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import duckdb

from headrace.pipeline.evaluate.gate import SliceThreshold
from headrace.pipeline.evaluate.measures import LEAST_RECORDS, Slice, SliceSize
from headrace.pipeline.evaluate.sql import kind_column, kind_columns
from headrace.pipeline.patterns import Patterns

MAX_SLICES = 50
"""Of one kind: the largest."""
MAX_JUDGED_SLICES = 500
"""Of one kind: the largest of those that a gate asks for."""
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


@dataclass(frozen=True, slots=True)
class Slices:
    """Those that are measured. Events decide on them, not answers: no slice goes because nothing answers it.

    Tables ``slices0``, ``slices1``, … hold the values and numbers of each kind's.

    Attributes:
        kinds: as of ``Sliced``.
        values: of each kind, in order.
        sizes: of those that are measured, and of one of each kind that should be and is not.
    """

    kinds: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    sizes: tuple[SliceSize, ...]


def choose_slices(
    database: duckdb.DuckDBPyConnection, kinds: Sequence[str], judged: Sequence[SliceThreshold]
) -> Slices:
    """The largest slices of each kind, and all that a gate asks for, up to a bound.

    Args:
        database: has the table ``parts`` (see ``tallies.judge_parts``).
        kinds: of slices.
        judged: what the gate asks for.
    """
    values, sizes = [], []
    for number, kind in enumerate(kinds):
        found = list(_choose(database, number, kind, [each.value for each in judged if each.by == kind]))
        measured = sorted(each.slice.value for each in found if each.is_measured)
        database.execute(
            f"CREATE TABLE slices{number} AS"
            f" SELECT unnest(?::VARCHAR[]) AS value, unnest(range(?))::SMALLINT AS s{number}",
            [measured, len(measured)],
        )
        values.append(tuple(measured))
        sizes += found
    return Slices(tuple(kinds), tuple(values), tuple(sizes))


def _choose(database: duckdb.DuckDBPyConnection, number: int, kind: str, judged: Sequence[str]) -> Iterator[SliceSize]:
    """Slices of a kind, the largest first; the last may be one too many."""
    asked_for = Patterns(judged) if judged else None
    left = MAX_JUDGED_SLICES
    for place, (value, parts, answered, answerable) in enumerate(_largest(database, kind_column(number))):
        is_judged = asked_for is not None and asked_for.match(value)
        is_measured = place < MAX_SLICES or (is_judged and left > 0)
        if is_measured or is_judged:
            yield SliceSize(Slice(kind, value), parts, answered, answerable, is_measured)
        left -= is_judged
        if place + 1 >= MAX_SLICES and (asked_for is None or left < 0):
            return


def _largest(database: duckdb.DuckDBPyConnection, column: str) -> Iterator[tuple[str, int, int, int]]:
    """Value, parts, answered and answerable ones of each slice that is large enough; there may be a great many."""
    with closing(database.cursor()) as cursor:
        cursor.execute(f"""
            SELECT {column} AS value, count(*) AS size, count(*) FILTER (c_answered), count(*) FILTER (answerable)
            FROM parts WHERE {column} IS NOT NULL
            GROUP BY value HAVING size >= {LEAST_RECORDS} ORDER BY size DESC, value
        """)
        while rows := cursor.fetchmany(MAX_JUDGED_SLICES):
            yield from rows


def slice_table(database: duckdb.DuckDBPyConnection, source: str, name: str, slices: Slices) -> Sliced:
    """Make a table of another that has a column ``route`` and, with their values, one for each kind; drop that."""
    kinds = range(len(slices.kinds))
    database.execute(f"""
        CREATE OR REPLACE TABLE routes AS
        SELECT route, (row_number() OVER (ORDER BY route) - 1)::SMALLINT AS r FROM (SELECT DISTINCT route FROM {source})
    """)
    numbers = "".join(f", s{kind}" for kind in kinds)
    joins = " ".join(f"LEFT JOIN slices{kind} n{kind} ON n{kind}.value = o.{kind_column(kind)}" for kind in kinds)
    database.execute(f"""
        CREATE TABLE {name} AS
        SELECT o.* EXCLUDE ({kind_columns(len(kinds))}), r {numbers}
        FROM {source} o JOIN routes USING (route) {joins}
    """)
    database.execute(f"DROP TABLE {source}")
    routes = database.execute("SELECT route FROM routes ORDER BY r").fetchall()
    return Sliced(name, tuple(route for (route,) in routes), slices.kinds, slices.values)


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
