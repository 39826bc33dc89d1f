"""Labels → the table of what should have been answered, in memory that does not grow with them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import duckdb
import pyarrow as pa

from headrace.pipeline.errors import ConfigError
from headrace.pipeline.evaluate.labels import Truth, json_truth
from headrace.pipeline.evaluate.sql import named, quoted, table_of
from headrace.pipeline.evaluate.store import TRUTHS, TableWriter, write_truth
from headrace.pipeline.records import SourceRecord

_LABEL_RECORDS = pa.schema(
    [
        ("at_partition", pa.int32()),
        ("at_offset", pa.int64()),
        ("at_key", pa.binary()),
        ("problem", pa.string()),
        *TRUTHS,
    ]
)


def gather_truths(path: Path, truths: Iterable[Truth]) -> None:
    """What should have been answered, as a file says it."""
    with TableWriter(path, TRUTHS) as table:
        for truth in truths:
            write_truth(table, truth)


def gather_topic_truths(
    path: Path, records: Iterable[SourceRecord], database: duckdb.DuckDBPyConnection, scratch: Path
) -> None:
    """What should have been answered, as a topic says it: the last record of a key counts; if it is empty, none does.

    Args:
        path: the table that is written.
        records: values are as a line of a labels file; the key is the event's id where the value names none. Records
            without a key stand for themselves. Each partition's are in order.
        database: sorts out what is superseded.
        scratch: a file to make.

    Raises:
        ConfigError: a value that counts is no label.
    """
    with TableWriter(scratch, _LABEL_RECORDS) as table:
        for record in records:
            problem, truth = _told(record)
            table.add(record.provenance.partition, record.provenance.offset, record.key, problem, *_columns(truth))
    database.execute(
        f"""
        CREATE OR REPLACE TEMP VIEW labels_that_count AS
        SELECT * EXCLUDE (age) FROM (
            SELECT *, row_number() OVER (PARTITION BY at_partition, at_key ORDER BY at_offset DESC) AS age
            FROM {table_of(scratch)}
        ) WHERE at_key IS NULL OR age = 1
        """
    )
    wrong = database.execute(
        "SELECT problem FROM labels_that_count WHERE problem IS NOT NULL ORDER BY at_partition, at_offset LIMIT 1"
    ).fetchone()
    if wrong is not None:
        raise ConfigError(wrong[0])
    columns = ", ".join(map(named, TRUTHS.names))
    counting = f"SELECT {columns} FROM labels_that_count WHERE label IS NOT NULL"
    database.execute(f"COPY ({counting}) TO {quoted(str(path))} (FORMAT parquet)")


def _columns(truth: Truth | None) -> tuple[str | int | None, ...]:
    """In the order of ``TRUTHS``."""
    if truth is None:
        return (None,) * len(TRUTHS)
    return *(truth.position or (None, None, None)), truth.id, truth.part, truth.route, truth.label


def _told(record: SourceRecord) -> tuple[str | None, Truth | None]:
    """What is wrong with a record of labels, or what it says; neither for an empty one."""
    if record.value is None:
        return None, None
    at = record.provenance
    key = None if record.key is None else record.key.decode(errors="backslashreplace")
    try:
        return None, json_truth(record.value, f"{at.topic}:{at.partition}:{at.offset}", key)
    except ConfigError as error:
        return str(error), None
