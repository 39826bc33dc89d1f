"""Answers joined with answers, and with what should have been answered, exactly by original position.

Everything that grows with the records happens in DuckDB, or batch by batch in numpy: memory stays flat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from headrace.pipeline.errors import ConfigError
from headrace.pipeline.evaluate.distances import write_overlaps, write_tensor_distances
from headrace.pipeline.evaluate.slices import KINDS, Sliced, period_sql, slice_table
from headrace.pipeline.evaluate.sql import ANSWER_KEY, BLOCK, POSITION, named, quoted, table_of
from headrace.pipeline.evaluate.tallies import judge_events, read_side

COMPARED_CHARACTERS = 2_000
"""Of texts, for their edit distance: it takes time by the square of their length."""


@dataclass(frozen=True, slots=True)
class Files:
    """The tables of a comparison (see ``store``); all but the first two may be missing.

    Attributes:
        events: those that are compared.
        candidate, baseline: answers.
        truths: what should have been answered.
        candidate_failures, baseline_failures: dead letters; None if a side has none that are told.
    """

    events: Path
    candidate: Path
    baseline: Path | None = None
    truths: Path | None = None
    candidate_failures: Path | None = None
    baseline_failures: Path | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One candidate joined with a baseline, with what should have been answered, or with both: tables of a database.

    ``events``, ``candidate`` and ``baseline`` have the columns of ``store``, of each answer one row. The others:

    Attributes:
        database: that holds them.
        pairs: table ``pairs``, an answer of the candidate each: ``c_…`` are its numbers, ``b_…`` those of the
            baseline's answer, NULL if there is none, ``truth`` what should have been answered.
        outcomes: table ``outcomes``, an event each: ``c_failed`` and ``b_failed`` are 1 if it was refused, 0 if it was
            answered, NULL if neither. Their route is ``*``.
        tensors: names of those that both sides have; table ``tensors`` says how far they are apart.
        has_baseline: whether there is one.
    """

    database: duckdb.DuckDBPyConnection
    pairs: Sliced
    outcomes: Sliced
    tensors: tuple[str, ...]
    has_baseline: bool


def compare(database: duckdb.DuckDBPyConnection, files: Files, folder: Path, headers: Sequence[str] = ()) -> Comparison:
    """Join what is to be compared.

    Args:
        database: see ``store.connect``.
        files: what to compare.
        folder: for tables that are made on the way.
        headers: by which to make slices, too, as ``header.NAME``.

    Raises:
        ConfigError: labels contradict each other.
    """
    kinds = (*KINDS, *headers)
    _view_events(database, files.events, headers)
    read_side(database, "candidate", files.candidate, files.candidate_failures)
    read_side(database, "baseline", files.baseline, files.baseline_failures)
    _read_truths(database, files.truths)
    write_overlaps(database, folder / "overlaps.parquet")
    _join(database, folder / "overlaps.parquet", kinds)
    pairs = slice_table(database, "joined", "pairs", kinds)
    tensors = write_tensor_distances(database, folder / "tensors.parquet")
    join_numbers(database, "tensors", folder / "tensors.parquet")
    judge_events(database, "judged", kinds)
    outcomes = slice_table(database, "judged", "outcomes", kinds)
    return Comparison(database, pairs, outcomes, tensors, files.baseline is not None)


def join_numbers(database: duckdb.DuckDBPyConnection, name: str, path: Path) -> None:
    """Make a table of numbers of answers, which a file holds, with the routes and slices of their pairs."""
    database.execute(f"""
        CREATE TABLE {name} AS
        SELECT n.*, p.* EXCLUDE ({ANSWER_KEY}) FROM {table_of(path)} n
        JOIN (SELECT {ANSWER_KEY}, block, COLUMNS('^(r|s[0-9]+)$') FROM pairs) p USING ({ANSWER_KEY})
    """)


def _view_events(database: duckdb.DuckDBPyConnection, path: Path, headers: Sequence[str]) -> None:
    """The events, with a column for each kind of slice."""
    told = "".join(
        f", element_at(headers, {quoted(each.removeprefix('header.'))})[1] AS {named(each)}" for each in headers
    )
    period = period_sql(database, table_of(path))
    database.execute(f"CREATE VIEW events AS SELECT *, {period} AS time {told} FROM {table_of(path)}")


def _read_truths(database: duckdb.DuckDBPyConnection, path: Path | None) -> None:
    if path is None:
        database.execute(f"CREATE VIEW truths AS SELECT {POSITION}, '' AS part, '' AS label FROM candidate WHERE false")
        return
    told = table_of(path)
    database.execute(f"""
        CREATE TABLE truths AS
        SELECT {POSITION}, part, label FROM {told} WHERE id IS NULL
        UNION
        SELECT e.topic, e.partition, e."offset", t.part, t.label FROM {told} t
        JOIN (SELECT DISTINCT {POSITION}, id FROM events) e USING (id)
    """)
    found = database.execute(f"""
        SELECT {POSITION}, part, min(label), max(label) FROM truths
        GROUP BY {POSITION}, part HAVING count(*) > 1 ORDER BY {POSITION}, part
    """).fetchone()
    if found is not None:
        topic, partition, offset, part, one, other = found
        of = f", part {part}" if part else ""
        raise ConfigError(f"labels: {topic}:{partition}:{offset}{of} is to be both {one!r} and {other!r}")


def _join(database: duckdb.DuckDBPyConnection, overlaps: Path, kinds: Sequence[str]) -> None:
    """The label of a part goes before that of its event."""
    one, other = (f"left({side}.text, {COMPARED_CHARACTERS})" for side in "cb")
    distance = f"levenshtein({one}, {other}) / greatest(length({one}), length({other}), 1)"
    sides = ", ".join(
        f"{side}.labels[1].name AS {side}_label, {side}.labels[1].score AS {side}_score,"
        f" {side}.waiting_ms AS {side}_waiting_ms, {side}.inference_ms AS {side}_inference_ms,"
        f" {side}.inference_ms / {side}.batch_size AS {side}_cost_ms,"
        f" {side}.text = truth AS {side}_text_right"
        for side in "cb"
    )
    database.execute(f"""
        CREATE TABLE joined AS
        SELECT {ANSWER_KEY}, {BLOCK} AS block, {", ".join(f"e.{named(kind)}" for kind in kinds)},
            coalesce(t.label, w.label) AS truth, {sides},
            c.text = b.text AS text_same,
            CASE WHEN c.text = b.text THEN 0.0 ELSE {distance} END AS text_distance,
            CASE
                WHEN len(c.segments) > 0 AND c.segments IS NOT DISTINCT FROM b.segments THEN 1.0
                ELSE o.overlap
            END AS overlap
        FROM candidate c
        LEFT JOIN events e USING ({POSITION}, part)
        LEFT JOIN baseline b USING ({ANSWER_KEY})
        LEFT JOIN truths t USING ({POSITION}, part)
        LEFT JOIN (SELECT {POSITION}, label FROM truths WHERE part = '') w USING ({POSITION})
        LEFT JOIN {table_of(overlaps)} o USING ({ANSWER_KEY})
    """)
