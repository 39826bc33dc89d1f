"""Answers joined with answers, and with what should have been answered, exactly by original position; then measured.

Everything that grows with the records happens in DuckDB, or batch by batch in numpy: memory stays flat.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from headrace.pipeline.errors import ConfigError
from headrace.pipeline.evaluate.measures import Measure, Slice
from headrace.pipeline.evaluate.overlap import overlap
from headrace.pipeline.evaluate.statistics import BLOCKS, mean_interval, paired_test, sign_test
from headrace.pipeline.evaluate.store import TableWriter

SLICES = ("modality", "source", "type", "key", "hour")
MAX_SLICES = 50
"""Of one kind: the largest."""
LEAST_RECORDS = 20
"""Of a slice: of fewer nothing can be said."""
BATCH_ROWS = 1024

_POSITION = 'topic, partition, "offset", part, route'


@dataclass(frozen=True, slots=True)
class Files:
    """The tables of a comparison (see ``store``); the last two may be missing."""

    events: Path
    candidate: Path
    baseline: Path | None = None
    truths: Path | None = None


@dataclass(frozen=True, slots=True)
class _Metric:
    """One number of each pair, in SQL over ``pairs`` (or ``table``); NULL where it has none.

    ``binary``: it is 0 or 1, so that McNemar's test can be made.
    """

    name: str
    candidate: str
    baseline: str | None = None
    binary: bool = False
    table: str = "pairs"
    where: str = "true"


_TOP = "len(c_labels) > 0"
_METRICS = (
    _Metric("accuracy", "c_label = truth", "b_label = truth", True, where=f"truth IS NOT NULL AND {_TOP}"),
    _Metric("agreement", "c_label = b_label", where=f"b_label IS NOT NULL AND {_TOP}"),
    _Metric("score", "c_score", "b_score", where=_TOP),
    _Metric(
        "text_accuracy", "c_text = truth", "b_text = truth", True, where="truth IS NOT NULL AND c_text IS NOT NULL"
    ),
    _Metric("text_agreement", "c_text = b_text", where="c_text IS NOT NULL AND b_text IS NOT NULL"),
    _Metric(
        "text_distance",
        "levenshtein(c_text, b_text) / greatest(length(c_text), length(b_text), 1)",
        where="c_text IS NOT NULL AND b_text IS NOT NULL",
    ),
    _Metric("segments_overlap", "overlap", table="spans"),
    _Metric("inference_ms", "c_inference_ms", "b_inference_ms"),
    _Metric("waiting_ms", "c_waiting_ms", "b_waiting_ms"),
)


class Comparison:
    """One candidate against a baseline, what should have been answered, or both.

    Args:
        database: see ``store.connect``.
        files: what to compare.
        folder: for tables that are made on the way.
        slices: by what else than ``SLICES``: names of headers, as ``header.NAME``.
    """

    def __init__(
        self, database: duckdb.DuckDBPyConnection, files: Files, folder: Path, slices: Sequence[str] = ()
    ) -> None:
        self._database = database
        self._folder = folder
        self.slices = (*SLICES, *slices)
        self._join(files, slices)
        self._measure_segments()
        self.tensors = self._measure_tensors()

    # --- join

    def _join(self, files: Files, headers: Sequence[str]) -> None:
        run = self._database.execute
        for name, path in (("events", files.events), ("candidate", files.candidate)):
            run(f"CREATE VIEW {name} AS SELECT * FROM read_parquet({_quoted(str(path))})")
        if files.baseline is None:
            run("CREATE VIEW baseline AS SELECT * FROM candidate WHERE false")
        else:
            run(f"CREATE VIEW baseline AS SELECT * FROM read_parquet({_quoted(str(files.baseline))})")
        if files.truths is None:
            columns = """topic, partition, "offset", '' AS part, '' AS label"""
            run(f"CREATE VIEW truths AS SELECT {columns} FROM candidate WHERE false")
        else:
            told = f"read_parquet({_quoted(str(files.truths))})"
            run(f"""
                CREATE TABLE truths AS
                SELECT topic, partition, "offset", part, label FROM {told} WHERE id IS NULL
                UNION
                SELECT e.topic, e.partition, e."offset", t.part, t.label FROM {told} t
                JOIN (SELECT DISTINCT topic, partition, "offset", id FROM events) e USING (id)
            """)
            self._check_truths()
        more = "".join(
            f", element_at(e.headers, {_quoted(each.removeprefix('header.'))})[1] AS {_named(each)}" for each in headers
        )
        run(f"""
            CREATE TABLE pairs AS
            SELECT c.topic, c.partition, c."offset", c.part, c.route,
                (c."offset" * 31 + c.partition) % {BLOCKS} AS block,
                e.modality, e.source, e.type, e.key,
                strftime(make_timestamp(e.time_ms * 1000), '%Y-%m-%dT%H:00Z') AS hour {more},
                c.labels AS c_labels, c.labels[1].name AS c_label, b.labels[1].name AS b_label,
                c.labels[1].score AS c_score, b.labels[1].score AS b_score,
                c.text AS c_text, b.text AS b_text, coalesce(t.label, w.label) AS truth,
                c.inference_ms AS c_inference_ms, b.inference_ms AS b_inference_ms,
                c.waiting_ms AS c_waiting_ms, b.waiting_ms AS b_waiting_ms
            FROM candidate c
            LEFT JOIN events e USING (topic, partition, "offset", part)
            LEFT JOIN baseline b USING (topic, partition, "offset", part, route)
            LEFT JOIN truths t USING (topic, partition, "offset", part)
            LEFT JOIN truths w
                ON w.topic = c.topic AND w.partition = c.partition AND w."offset" = c."offset" AND w.part = ''
        """)

    def _check_truths(self) -> None:
        place = 'topic, partition, "offset", part'
        found = self._database.execute(
            f"SELECT {place}, min(label), max(label) FROM truths GROUP BY {place} HAVING count(*) > 1 ORDER BY {place}"
        ).fetchone()
        if found is not None:
            topic, partition, offset, part, one, other = found
            named = f", part {part}" if part else ""
            raise ConfigError(f"labels: {topic}:{partition}:{offset}{named} is to be both {one!r} and {other!r}")

    def _both(self, column: str, condition: str) -> Any:
        """Batches of a column of both sides, with the pair's place."""
        return self._database.sql(f"""
            SELECT c.topic, c.partition, c."offset", c.part, c.route, c.{column} AS mine, b.{column} AS theirs
            FROM candidate c JOIN baseline b USING (topic, partition, "offset", part, route)
            WHERE {condition}
        """).to_arrow_reader(BATCH_ROWS)

    def _with_pairs(self, name: str, path: Path) -> None:
        self._database.execute(
            f"CREATE VIEW {name} AS SELECT * FROM read_parquet({_quoted(str(path))}) JOIN pairs USING ({_POSITION})"
        )

    def _measure_segments(self) -> None:
        path = self._folder / "spans.parquet"
        with TableWriter(path, pa.schema([*_PLACE, ("overlap", pa.float64())])) as table:
            for batch in self._both("segments", "len(c.segments) > 0 OR len(b.segments) > 0"):
                for row in batch.to_pylist():
                    table.add(*_place(row), overlap(row["mine"], row["theirs"]))
        self._with_pairs("spans", path)

    def _measure_tensors(self) -> tuple[str, ...]:
        """Of tensors with one name and length: the cosine of their angle, and how far they are apart."""
        path = self._folder / "tensors.parquet"
        columns = [
            ("name", pa.string()),
            ("cosine", pa.float64()),
            ("max_abs", pa.float64()),
            ("mean_abs", pa.float64()),
        ]
        names = set()
        with TableWriter(path, pa.schema([*_PLACE, *columns])) as table:
            for batch in self._both("tensors", "len(c.tensors) > 0 AND len(b.tensors) > 0"):
                for row in batch.to_pylist():
                    theirs = {each["name"]: each["values"] for each in row["theirs"]}
                    for each in row["mine"]:
                        other = theirs.get(each["name"])
                        if other and len(other) == len(each["values"]):
                            names.add(each["name"])
                            table.add(*_place(row), each["name"], *_apart(each["values"], other))
        self._with_pairs("tensors", path)
        return tuple(sorted(names))

    # --- measure

    def measures(self) -> Iterator[Measure]:
        """All there are: of all records, then of the slices that have enough of them, the largest of each kind."""
        for metric in (*_METRICS, *self._tensor_metrics()):
            yield from self._of(metric, None)
            for by in self.slices:
                yield from self._of(metric, by)

    def _tensor_metrics(self) -> Iterator[_Metric]:
        for name in self.tensors:
            for kind in ("cosine", "max_abs", "mean_abs"):
                yield _Metric(f"{kind}.{name}", kind, table="tensors", where=f"name = {_quoted(name)}")

    def _of(self, metric: _Metric, by: str | None) -> Iterator[Measure]:
        value = "''" if by is None else _named(by)
        baseline = metric.baseline or "NULL"
        found = self._database.execute(f"""
            WITH told AS (
                SELECT route, {value} AS value, block, ({metric.candidate})::DOUBLE AS c, ({baseline})::DOUBLE AS b
                FROM {metric.table} WHERE ({metric.where}) AND {value} IS NOT NULL
            ),
            sizes AS (
                SELECT route, value, count(*) AS records FROM told WHERE c IS NOT NULL GROUP BY route, value
                QUALIFY row_number() OVER (PARTITION BY route ORDER BY records DESC, value) <= {MAX_SLICES}
                    AND ({"true" if by is None else f"records >= {LEAST_RECORDS}"})
            )
            SELECT route, value, block, count(*) AS records, sum(c) AS c,
                count(b) AS paired, sum(c) FILTER (b IS NOT NULL) AS c_paired, sum(b) AS b,
                count(*) FILTER (b IS NOT NULL AND c > b) AS better, count(*) FILTER (b IS NOT NULL AND c < b) AS worse
            FROM told SEMI JOIN sizes USING (route, value)
            WHERE c IS NOT NULL
            GROUP BY route, value, block ORDER BY route, value, block
        """).fetchnumpy()
        for start, end in _runs(found["route"], found["value"]):
            rows = {name: column[start:end] for name, column in found.items()}
            of = None if by is None else Slice(by, str(rows["value"][0]))
            yield _measure(metric, str(rows["route"][0]), of, rows)


_PLACE = [
    ("topic", pa.string()),
    ("partition", pa.int32()),
    ("offset", pa.int64()),
    ("part", pa.string()),
    ("route", pa.string()),
]


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["topic"], row["partition"], row["offset"], row["part"], row["route"]


def _measure(metric: _Metric, route: str, of: Slice | None, rows: dict[str, Any]) -> Measure:
    records = int(rows["records"].sum())
    candidate = mean_interval(_floats(rows["c"]), _floats(rows["records"]))
    paired = rows["paired"] > 0
    if metric.baseline is None or not paired.any():
        return Measure(metric.name, route, of, records, candidate)
    counts = _floats(rows["paired"])[paired]
    baseline_sums, candidate_sums = (_floats(rows[name])[paired] for name in ("b", "c_paired"))
    differences = candidate_sums - baseline_sums
    if metric.binary:
        p_value = sign_test(int(rows["better"].sum()), int(rows["worse"].sum()))
    else:
        p_value = paired_test(differences, counts)
    return Measure(
        metric.name,
        route,
        of,
        records,
        candidate,
        mean_interval(baseline_sums, counts),
        mean_interval(differences, counts),
        p_value,
    )


def _apart(mine: list[float], theirs: list[float]) -> tuple[float | None, float, float]:
    """Cosine (none for a vector of zeros), largest and mean absolute difference."""
    one, other = np.asarray(mine, np.float64), np.asarray(theirs, np.float64)
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    apart = np.abs(one - other)
    return (float(one @ other) / lengths if lengths else None), float(apart.max()), float(apart.mean())


def _runs(*columns: Any) -> Iterator[tuple[int, int]]:
    """First and behind-last row of each stretch in which the columns stay the same."""
    start = 0
    for row in range(1, len(columns[0]) + 1):
        if row == len(columns[0]) or any(column[row] != column[start] for column in columns):
            yield start, row
            start = row


def _floats(column: Any) -> Any:
    return np.ma.filled(np.ma.asarray(column, np.float64), 0.0)


def _quoted(text: str) -> str:
    """As a string in SQL."""
    return "'" + text.replace("'", "''") + "'"


def _named(name: str) -> str:
    """As a column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'
