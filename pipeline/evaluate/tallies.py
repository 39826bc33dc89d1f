"""What became of each event on each side: answered, refused, neither, or more than once."""

from __future__ import annotations

from pathlib import Path

import duckdb

from headrace.pipeline.evaluate.evaluation import FailureCount, Side
from headrace.pipeline.evaluate.sql import ANSWER_KEY, BLOCK, PLACE, POSITION, kind_column, kind_columns, table_of

ALL_ROUTES = "*"
"""The route of what is of whole events."""


def read_side(database: duckdb.DuckDBPyConnection, side: str, answers: Path | None, failures: Path | None) -> None:
    """Make tables of one side's files.

    View ``SIDE`` has one row, the first, of each answer; table ``SIDE_again`` tells how many there are of those that
    have more. Table ``SIDE_letters`` has, of each event with dead letters, the last one's stage and code, and how many.
    """
    _read_answers(database, side, answers)
    _read_letters(database, side, failures)


def _read_answers(database: duckdb.DuckDBPyConnection, side: str, path: Path | None) -> None:
    if path is None:
        database.execute(f"CREATE VIEW {side} AS SELECT * FROM candidate WHERE false")
        database.execute(f"CREATE TABLE {side}_again AS SELECT * FROM candidate_again WHERE false")
        return
    rows = table_of(path)
    database.execute(f"""
        CREATE TABLE {side}_again AS
        SELECT {ANSWER_KEY}, min({PLACE}) AS first, count(*) AS answers FROM {rows}
        GROUP BY {ANSWER_KEY} HAVING count(*) > 1
    """)
    database.execute(f"""
        CREATE TABLE {side}_left_out AS
        SELECT {PLACE} AS place FROM {rows} JOIN {side}_again USING ({ANSWER_KEY})
        WHERE {PLACE} <> first
    """)
    (left_out,) = database.execute(f"SELECT count(*) FROM {side}_left_out").fetchall()[0]
    is_first = f"{PLACE} NOT IN (SELECT place FROM {side}_left_out)" if left_out else "true"  # asked of every row
    database.execute(f"CREATE VIEW {side} AS SELECT * FROM {rows} WHERE {is_first}")


def _read_letters(database: duckdb.DuckDBPyConnection, side: str, path: Path | None) -> None:
    database.execute(f"""
        CREATE TABLE {side}_letters
        (topic VARCHAR, partition INTEGER, "offset" BIGINT, stage VARCHAR, code VARCHAR, letters BIGINT)
    """)
    if path is not None:
        database.execute(f"""
            INSERT INTO {side}_letters
            SELECT {POSITION}, arg_max(stage, {PLACE}), arg_max(code, {PLACE}), count(*)
            FROM {table_of(path)} GROUP BY {POSITION}
        """)


def judge_parts(database: duckdb.DuckDBPyConnection, kinds: int, *, has_baseline: bool) -> None:
    """Make a table ``parts`` of all parts of events that are compared: whether each side has answered it.

    What the baseline has answered is answerable; all is, if there is none.

    Args:
        database: has views of the events and of both sides.
        kinds: how many there are of slices.
        has_baseline: whether there is one.
    """
    sides = " ".join(
        f"LEFT JOIN (SELECT DISTINCT {POSITION}, part, true AS answered FROM {side}) {side[0]} USING ({POSITION}, part)"
        for side in ("candidate", "baseline")
    )
    database.execute(f"""
        CREATE TABLE parts AS
        SELECT {POSITION}, part, {kind_columns(kinds)},
            c.answered IS NOT NULL AS c_answered, b.answered IS NOT NULL AS b_answered,
            b_answered OR NOT {has_baseline} AS answerable
        FROM events {sides}
    """)


def judge_events(database: duckdb.DuckDBPyConnection, name: str, kinds: int, *, has_baseline: bool) -> None:
    """Make a table of all events of the comparison, and what became of them.

    An event is answered if all its parts are. A result goes before a dead letter: that one was redriven. In a slice is
    an event by the least of its parts' values.
    """
    values = ", ".join(f"min({kind_column(kind)}) AS {kind_column(kind)}" for kind in range(kinds))
    database.execute(f"""
        CREATE TABLE {name} AS
        WITH judged AS (
            SELECT {POSITION}, {values}, bool_and(c_answered) AS c_answered, bool_and(b_answered) AS b_answered
            FROM parts GROUP BY {POSITION}
        )
        SELECT {POSITION}, '{ALL_ROUTES}' AS route, {BLOCK} AS block, {kind_columns(kinds)},
            CASE WHEN c_answered THEN 0 WHEN c.letters > 0 THEN 1 END AS c_failed,
            CASE WHEN b_answered THEN 0 WHEN b.letters > 0 THEN 1 END AS b_failed,
            (c_failed IS NULL)::INTEGER AS c_missing,
            CASE WHEN {has_baseline} THEN (b_failed IS NULL)::INTEGER END AS b_missing
        FROM judged LEFT JOIN candidate_letters c USING ({POSITION}) LEFT JOIN baseline_letters b USING ({POSITION})
    """)


def count_side(database: duckdb.DuckDBPyConnection, side: str, title: str) -> Side:
    """What became of the events on one side.

    Of results those beyond an event's first are duplicates. The candidate redrives nothing, so that there a dead letter
    is one, too, beside a result or another dead letter; on the baseline an event may have been redriven.
    """
    failed = f"{side[0]}_failed"
    answered, refused, missing = database.execute(f"""
        SELECT count(*) FILTER ({failed} = 0), count(*) FILTER ({failed} = 1), count(*) FILTER ({failed} IS NULL)
        FROM outcomes
    """).fetchall()[0]
    models = database.execute(f"SELECT DISTINCT route, model, version FROM {side} ORDER BY ALL").fetchall()
    return Side(
        title,
        tuple(f"{route}: {model}:{version}" for route, model, version in models),
        answered,
        refused,
        missing,
        _duplicates(database, side),
    )


def _duplicates(database: duckdb.DuckDBPyConnection, side: str) -> int:
    """The parts of an event are answered together: it has as many results as that part of it that has most."""
    more = f"SELECT max(answers) - 1 AS more FROM {side}_again GROUP BY {POSITION}"
    if side == "candidate":
        more += f"""
            UNION ALL SELECT letters - (c_failed = 1)::BIGINT FROM candidate_letters JOIN outcomes USING ({POSITION})
        """
    return int(database.execute(f"SELECT coalesce(sum(more), 0)::BIGINT FROM ({more})").fetchall()[0][0])


def count_failures(database: duckdb.DuckDBPyConnection, has_baseline: bool) -> tuple[FailureCount, ...]:
    """Events refused, by the reason of their last dead letter, the most frequent first."""
    reasons = " UNION ALL ".join(
        f"SELECT stage, code, '{side}' AS side FROM {side}_letters JOIN outcomes USING ({POSITION})"
        f" WHERE {side[0]}_failed = 1"
        for side in ("candidate", "baseline")
    )
    found = database.execute(f"""
        SELECT stage, code, count(*) FILTER (side = 'candidate') AS c, count(*) FILTER (side = 'baseline') AS b
        FROM ({reasons}) GROUP BY stage, code ORDER BY c DESC, b DESC, stage, code
    """).fetchall()
    return tuple(FailureCount(stage, code, c, b if has_baseline else None) for stage, code, c, b in found)
