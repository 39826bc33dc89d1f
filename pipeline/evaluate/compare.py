"""Answers joined with answers, and with what should have been answered, exactly by original position.

Everything that grows with the records happens in DuckDB, or batch by batch in numpy: memory stays flat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from headrace.pipeline.evaluate.distances import write_overlaps, write_tensor_distances
from headrace.pipeline.evaluate.gate import SliceThreshold
from headrace.pipeline.evaluate.labelling import assign_labels
from headrace.pipeline.evaluate.measures import HEADER, SLICE_KINDS, SliceSize
from headrace.pipeline.evaluate.slices import Sliced, choose_slices, period_sql, slice_table
from headrace.pipeline.evaluate.sql import ANSWER_KEY, BLOCK, POSITION, kind_column, kind_columns, quoted, table_of
from headrace.pipeline.evaluate.tallies import judge_events, judge_parts, read_side

COMPARED_CHARACTERS = 200
"""Of texts, for their edit distance: it takes time by the square of their length, of so many 0.2 ms."""


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
            answered, NULL if neither; ``c_missing`` and ``b_missing`` are 1 if neither. Their route is ``*``.
        tensors: names of those that the baseline has; table ``tensors`` says how far they are apart.
        sizes: of slices (see ``slices.Slices``).
        labels_left_out: of events of several parts, of which they do not say which they are of.
        has_baseline: whether there is one.
    """

    database: duckdb.DuckDBPyConnection
    pairs: Sliced
    outcomes: Sliced
    tensors: tuple[str, ...]
    sizes: tuple[SliceSize, ...]
    labels_left_out: int
    has_baseline: bool


def compare(
    database: duckdb.DuckDBPyConnection,
    files: Files,
    folder: Path,
    headers: Sequence[str] = (),
    judged: Sequence[SliceThreshold] = (),
) -> Comparison:
    """Join what is to be compared.

    Args:
        database: see ``store.connect``.
        files: what to compare.
        folder: for tables that are made on the way.
        headers: by which to make slices, too, as ``header.NAME``.
        judged: slices that a gate asks for.

    Raises:
        ConfigError: labels contradict each other.
    """
    kinds = (*SLICE_KINDS, *headers)
    has_baseline = files.baseline is not None
    _view_events(database, files.events, headers)
    read_side(database, "candidate", files.candidate, files.candidate_failures)
    read_side(database, "baseline", files.baseline, files.baseline_failures)
    judge_parts(database, len(kinds), has_baseline=has_baseline)
    slices = choose_slices(database, kinds, judged)
    labels_left_out = assign_labels(database, files.truths)
    write_overlaps(database, folder / "overlaps.parquet")
    _join(database, folder / "overlaps.parquet", len(kinds))
    pairs = slice_table(database, "joined", "pairs", slices)
    judge_events(database, "judged", len(kinds), has_baseline=has_baseline)
    outcomes = slice_table(database, "judged", "outcomes", slices)
    database.execute("DROP TABLE parts")
    tensors = write_tensor_distances(database, folder / "tensors.parquet")
    join_numbers(database, "tensors", folder / "tensors.parquet")
    return Comparison(database, pairs, outcomes, tensors, slices.sizes, labels_left_out, has_baseline)


def join_numbers(database: duckdb.DuckDBPyConnection, name: str, path: Path) -> None:
    """Make a table of numbers of answers, which a file holds, with the routes and slices of their pairs."""
    database.execute(f"""
        CREATE TABLE {name} AS
        SELECT n.*, p.* EXCLUDE ({ANSWER_KEY}) FROM {table_of(path)} n
        JOIN (SELECT {ANSWER_KEY}, block, COLUMNS('^(r|s[0-9]+)$') FROM pairs) p USING ({ANSWER_KEY})
    """)


def _view_events(database: duckdb.DuckDBPyConnection, path: Path, headers: Sequence[str]) -> None:
    """The events, with a column for each kind of slice."""
    kinds = [*SLICE_KINDS, *(f"element_at(headers, {quoted(each.removeprefix(HEADER))})[1]" for each in headers)]
    columns = ", ".join(f"{each} AS {kind_column(number)}" for number, each in enumerate(kinds))
    period = period_sql(database, table_of(path))
    database.execute(
        f"CREATE VIEW events AS SELECT *, {columns} FROM (SELECT *, {period} AS time FROM {table_of(path)})"
    )


def _join(database: duckdb.DuckDBPyConnection, overlaps: Path, kinds: int) -> None:
    """Make the table ``joined``, an answer of the candidate each.

    Where either side ever gives labels, texts or segments in a route, an answer without any says something, too: it is
    not what should have been answered, it is the same as another without, and as far as can be from one with some.
    """
    database.execute(f"""
        CREATE TABLE joined AS
        SELECT {ANSWER_KEY}, {BLOCK} AS block, {kind_columns(kinds)}, coalesce(t.label, w.label) AS truth,
            {_of_side("c")}, {_of_side("b")}, {_of_both()}
        FROM candidate c
        JOIN ({_given()}) given USING (route)
        LEFT JOIN parts USING ({POSITION}, part)
        LEFT JOIN baseline b USING ({ANSWER_KEY})
        LEFT JOIN labels t USING ({ANSWER_KEY})
        LEFT JOIN (SELECT {POSITION}, part, label FROM labels WHERE route = '') w USING ({POSITION}, part)
        LEFT JOIN {table_of(overlaps)} o USING ({ANSWER_KEY})
    """)


def _given() -> str:
    """Of each route, what some of its answers have."""
    sides = " UNION ALL ".join(
        f"SELECT route, labels, text, segments FROM {side}" for side in ("candidate", "baseline")
    )
    return f"""
        SELECT route, bool_or(len(labels) > 0) AS labels, bool_or(text IS NOT NULL) AS texts,
            bool_or(len(segments) > 0) AS segments
        FROM ({sides}) GROUP BY route
    """


def _of_side(side: str) -> str:
    """One side's numbers. Times are of a whole result, so that they are known of a part only if it is alone."""
    times = {
        "waiting_ms": f"{side}.waiting_ms",
        "inference_ms": f"{side}.inference_ms",
        "cost_ms": f"{side}.inference_ms / {side}.batch_size",
    }
    is_judged = f"{side}.model IS NOT NULL AND truth IS NOT NULL"
    right = {"right": ("labels", f"{side}_label"), "text_right": ("texts", f"{side}.text")}
    return ", ".join(
        [
            f"{side}.labels[1].name AS {side}_label",
            f"{side}.labels[1].score AS {side}_score",
            *(
                f"CASE WHEN given.{kind} AND {is_judged} THEN {said} IS NOT DISTINCT FROM truth END AS {side}_{name}"
                for name, (kind, said) in right.items()
            ),
            *(f"CASE WHEN {side}.parts = 1 THEN {number} END AS {side}_{name}" for name, number in times.items()),
        ]
    )


def _of_both() -> str:
    """How far the two sides' answers are apart."""
    one, other = (f"left({side}.text, {COMPARED_CHARACTERS})" for side in "cb")
    distance = f"levenshtein({one}, {other}) / greatest(length({one}), length({other}), 1)"
    is_paired = "b.model IS NOT NULL"
    return f"""
        CASE WHEN given.labels AND {is_paired} THEN c_label IS NOT DISTINCT FROM b_label END AS label_same,
        CASE WHEN given.texts AND {is_paired} THEN c.text IS NOT DISTINCT FROM b.text END AS text_same,
        CASE WHEN text_same THEN 0.0 WHEN NOT text_same THEN coalesce({distance}, 1.0) END AS text_distance,
        CASE
            WHEN NOT given.segments OR NOT {is_paired} THEN NULL
            WHEN c.segments IS NOT DISTINCT FROM b.segments THEN 1.0
            ELSE o.overlap
        END AS overlap
    """
