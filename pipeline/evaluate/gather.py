"""Records → the tables of a comparison, in memory that does not grow with them. Reads nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from headrace.pipeline.envelope import DeadLetterDecoder, RequestDecoder
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.evaluate.answer_columns import ResultReader
from headrace.pipeline.evaluate.compared import LeftOut, OffsetSet, PartsOf
from headrace.pipeline.evaluate.store import (
    ANSWERS,
    EVENTS,
    FAILURES,
    GROUP_BYTES,
    GROUP_ROWS,
    TableWriter,
    write_event,
    write_failure,
)
from headrace.pipeline.ports import SchemaRegistry
from headrace.pipeline.records import InferenceRequest, Provenance, SourceRecord
from headrace.pipeline.wire import HEADER_BYTES


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
        self._came(at.timestamp_ms)

    def update(self, more: Events) -> None:
        """Others of the same ranges."""
        self.offsets.update(more.offsets)
        self.count += more.count
        if more.first_ms is not None:
            self._came(more.first_ms)

    def _came(self, epoch_ms: int) -> None:
        self.first_ms = epoch_ms if self.first_ms is None else min(self.first_ms, epoch_ms)


class RequestReader:
    """Records → requests, each once also if it is asked for twice in a row: to choose it, and then to keep it.

    Args:
        registry: for the schemas of these.
        max_value_bytes: larger values are no requests.
    """

    def __init__(self, registry: SchemaRegistry, max_value_bytes: int) -> None:
        self._registry = registry
        self._decoder = RequestDecoder(max_value_bytes=max_value_bytes)
        self._known: set[bytes] = set()  # beginnings of values whose schema is known
        self._last: SourceRecord | None = None
        self._request: InferenceRequest | None = None

    def __call__(self, record: SourceRecord) -> InferenceRequest | None:
        """None if it cannot be decoded. Raises UnavailableError if the registry is needed and does not answer."""
        if record is not self._last:
            self._request = self._read(record.value or b"")
            self._last = record
        return self._request

    def _read(self, value: bytes) -> InferenceRequest | None:
        head = value[:HEADER_BYTES]
        if head not in self._known:
            for schema_id in self._decoder.missing([value]):
                self._decoder.add_schema(schema_id, self._registry.schema(schema_id))
        try:
            request = self._decoder.decode(value)
        except PoisonError:
            return None
        self._known.add(head)
        return request


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
                if len(parts) < len(request.parts):
                    request = replace(request, parts=parts)
            events.add(record.provenance)
            write_event(table, record, request)


def gather_results(
    path: Path,
    values: Iterable[Sequence[bytes | None]],
    registry: SchemaRegistry,
    among: OffsetSet,
    routes: Iterable[str] = (),
) -> LeftOut:
    """Results, each with the *original* position of its event, also if that was retried or redriven.

    All there are of an event: which of them counts is for the comparison to say.

    Args:
        path: the table that is written.
        values: of their records, some at a time.
        registry: for the schemas of these; may raise UnavailableError.
        among: of which events.
        routes: whose answers; all, if empty.
    """
    reader = ResultReader(registry, among, frozenset(routes))
    with TableWriter(path, ANSWERS) as table:
        for batch in batches(values):
            reader.write(table, batch)
    return reader.left_out


def gather_failures(
    path: Path, values: Iterable[Sequence[bytes | None]], registry: SchemaRegistry, among: OffsetSet
) -> LeftOut:
    """Dead letters, as ``gather_results`` does with results."""
    decoder = DeadLetterDecoder()
    left_out = LeftOut()
    with TableWriter(path, FAILURES) as table:
        for batch in values:
            for schema_id in decoder.missing(batch):
                decoder.add_schema(schema_id, registry.schema(schema_id))
            for value in batch:
                try:
                    letter = decoder.decode(value)
                except PoisonError:
                    left_out.unreadable += 1
                    continue
                if letter.provenance in among:
                    write_failure(table, letter)
                else:
                    left_out.others += 1
    return left_out


def batches(values: Iterable[Sequence[bytes | None]]) -> Iterator[list[bytes | None]]:
    """The same, in pieces that are worth a table's while and are not too large to be in memory several times."""
    batch: list[bytes | None] = []
    size_bytes = 0
    for some in values:
        for value in some:
            batch.append(value)
            size_bytes += len(value or b"")
            if len(batch) >= GROUP_ROWS or size_bytes >= GROUP_BYTES:
                yield batch
                batch, size_bytes = [], 0
    if batch:
        yield batch
