"""Which label is of which part of which event, on which route."""

from __future__ import annotations

from pathlib import Path

import duckdb

from headrace.pipeline.errors import ConfigError
from headrace.pipeline.evaluate.sql import POSITION, table_of


def assign_labels(database: duckdb.DuckDBPyConnection, path: Path | None) -> int:
    """Make a table ``labels``: of parts of events, what should have been answered; route ``''`` is any.

    The label of a part goes before that of its event, which is one only if the event has one part that is compared.

    Args:
        database: has the views ``events`` and ``candidate``.
        path: the table of what should have been answered (see ``store.TRUTHS``), if it is known.

    Returns:
        How many labels are of events of several parts and name none, and are left out.

    Raises:
        ConfigError: labels contradict each other.
    """
    if path is None:
        database.execute(f"CREATE TABLE labels AS SELECT {POSITION}, part, route, text AS label FROM candidate LIMIT 0")
        return 0
    database.execute(f"""
        CREATE TABLE truths AS
        SELECT {POSITION}, part, route, label FROM {table_of(path)} WHERE id IS NULL
        UNION
        SELECT e.topic, e.partition, e."offset", t.part, t.route, t.label FROM {table_of(path)} t
        JOIN (SELECT DISTINCT {POSITION}, id FROM events) e USING (id)
    """)
    _refuse_contradictions(database)
    database.execute(f"""
        CREATE TABLE labels AS
        SELECT {POSITION}, part, route, label FROM truths WHERE part <> ''
    """)
    database.execute(f"""
        INSERT INTO labels
        SELECT {POSITION}, e.part, t.route, t.label FROM truths t
        JOIN (SELECT {POSITION}, min(part) AS part FROM events GROUP BY {POSITION} HAVING count(*) = 1) e
        USING ({POSITION})
        ANTI JOIN labels l ON (t.topic, t.partition, t."offset", e.part, t.route)
            = (l.topic, l.partition, l."offset", l.part, l.route)
        WHERE t.part = ''
    """)
    found = database.execute(f"""
        SELECT count(*) FROM truths t
        JOIN (SELECT {POSITION} FROM events GROUP BY {POSITION} HAVING count(*) > 1) USING ({POSITION})
        WHERE t.part = ''
    """).fetchall()
    database.execute("DROP TABLE truths")
    return int(found[0][0])


def _refuse_contradictions(database: duckdb.DuckDBPyConnection) -> None:
    found = database.execute(f"""
        SELECT {POSITION}, part, route, min(label), max(label) FROM truths
        GROUP BY {POSITION}, part, route HAVING count(*) > 1 ORDER BY {POSITION}, part, route
    """).fetchone()
    if found is not None:
        topic, partition, offset, part, route, one, other = found
        of = "".join([f", part {part}" if part else "", f", route {route}" if route else ""])
        raise ConfigError(f"labels: {topic}:{partition}:{offset}{of} is to be both {one!r} and {other!r}")
