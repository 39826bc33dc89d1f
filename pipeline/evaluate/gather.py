"""Records → the tables of a comparison, one by one, in memory that does not grow with them. Reads nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import pyarrow as pa

from headrace.pipeline.errors import ConfigError
from headrace.pipeline.evaluate.compared import OffsetSet, PartsOf
from headrace.pipeline.evaluate.labels import Truth, json_truth
from headrace.pipeline.evaluate.sql import named, quoted, table_of
from headrace.pipeline.evaluate.store import (
    ANSWERS,
    EVENTS,
    FAILURES,
    TRUTHS,
    TableWriter,
    write_event,
    write_failure,
    write_result,
    write_truth,
)
from headrace.pipeline.outcomes import Outcome, Unreadable
from headrace.pipeline.records import DeadLetter, InferenceRequest, Provenance, SourceRecord

_LABEL_RECORDS = pa.schema(
    [
        ("at_partition", pa.int32()),
        ("at_offset", pa.int64()),
        ("at_key", pa.binary()),
        ("problem", pa.string()),
        *TRUTHS,
    ]
)


@dataclass(slots=True)
class Events:
    """The events that are compared.

    Attributes:
        offsets: where they are.
        count: how many.
        first_ms: the earliest timestamp of their records, epoch milliseconds; None if there are none.
    """

    offsets: OffsetSet
    count: int = 0
    first_ms: int | None = None

    def add(self, at: Provenance) -> None:
        """One more."""
        self.offsets.add(at)
        self.count += 1
        self.first_ms = at.timestamp_ms if self.first_ms is None else min(self.first_ms, at.timestamp_ms)


@dataclass(slots=True)
class LeftOut:
    """Records of topics of answers that are not compared.

    Attributes:
        unreadable: neither result nor dead letter.
        others: of events that are not compared.
    """

    unreadable: int = 0
    others: int = 0


def gather_events(
    path: Path,
    records: Iterable[SourceRecord],
    takes: Callable[[SourceRecord], bool],
    decode: Callable[[SourceRecord], InferenceRequest | None],
    parts_of: PartsOf,
    events: Events,
    *,
    undecodable: bool = True,
) -> None:
    """The events of the ranges that are compared.

    Args:
        path: the table that is written.
        records: of the ranges.
        takes: whether the candidate was to answer it.
        decode: a record's request; None if it cannot be decoded.
        parts_of: which of its parts the candidate was to answer.
        events: are added to.
        undecodable: whether a record that cannot be decoded is one of them, without parts: where a dead letter is to
            come of it.
    """
    with TableWriter(path, EVENTS) as table:
        for record in records:
            if not takes(record):
                continue
            request = decode(record)
            if request is None and not undecodable:
                continue
            if request is not None:
                parts = tuple(parts_of(record, request))
                if not parts:
                    continue
                request = replace(request, parts=parts)
            events.add(record.provenance)
            write_event(table, record, request)


def gather_outcomes(
    answers: Path,
    failures: Path,
    outcomes: Iterable[Outcome | Unreadable],
    among: OffsetSet,
    routes: Iterable[str] = (),
) -> LeftOut:
    """Results and dead letters, each with the *original* position of its event, also if that was retried or redriven.

    All there are of an event: which of them counts is for the comparison to say.

    Args:
        answers: the table of results that is written.
        failures: that of dead letters.
        outcomes: of any order.
        among: of which events.
        routes: whose answers; all, if empty.
    """
    named = frozenset(routes)
    left_out = LeftOut()
    with TableWriter(answers, ANSWERS) as answered, TableWriter(failures, FAILURES) as failed:
        for outcome in outcomes:
            if isinstance(outcome, Unreadable):
                left_out.unreadable += 1
            elif outcome.content.provenance not in among:
                left_out.others += 1
            elif isinstance(outcome.content, DeadLetter):
                write_failure(failed, outcome.content)
            else:
                write_result(answered, outcome.content, named)
    return left_out


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
