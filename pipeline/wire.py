"""The Confluent wire format, and Avro records in it: magic byte 0, 4-byte big-endian schema id, Avro binary."""

from __future__ import annotations

import enum
import functools
import io
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import fastavro

from headrace.pipeline.avro import Contract, Parsed, UnusableSchemaError, own_schema, writer_schema
from headrace.pipeline.avro_code import UnsupportedSchemaError
from headrace.pipeline.avro_reading import Read, reader
from headrace.pipeline.avro_writing import Append, Write, writer
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.records import Stage

T = TypeVar("T")

_HEADER = struct.Struct(">bI")
HEADER_BYTES = _HEADER.size
MAX_SCHEMA_ID = 2**31 - 1  # registries count with signed 32-bit integers

# Refused ids are remembered for a while only: a registry's replica may learn of an id late, and random ids are many.
REFUSED_CAPACITY = 4096
REFUSED_SECONDS = 30.0

# What fastavro raises for bytes that do not fit the schema: short, bad UTF-8, a branch or symbol that isn't there.
_CORRUPT = (EOFError, IndexError, ValueError, OverflowError, MemoryError)


class Poison(enum.StrEnum):
    """Codes of what makes a record's bytes or headers poison."""

    EMPTY_VALUE = "EMPTY_VALUE"
    TOO_LARGE = "TOO_LARGE"
    NOT_WIRE_FORMAT = "NOT_WIRE_FORMAT"
    UNKNOWN_SCHEMA = "UNKNOWN_SCHEMA"
    WRONG_SCHEMA = "WRONG_SCHEMA"
    CORRUPT = "CORRUPT"
    TRAILING_BYTES = "TRAILING_BYTES"
    BAD_ID = "BAD_ID"
    BAD_TIME = "BAD_TIME"
    BAD_FIELD = "BAD_FIELD"
    NO_PARTS = "NO_PARTS"
    TOO_MANY_PARTS = "TOO_MANY_PARTS"
    TOO_MANY_PARAMETERS = "TOO_MANY_PARAMETERS"
    BAD_PART_NAME = "BAD_PART_NAME"
    BAD_CONTENT_TYPE = "BAD_CONTENT_TYPE"
    UNKNOWN_MODALITY = "UNKNOWN_MODALITY"
    NO_CONTENT = "NO_CONTENT"
    BAD_TENSOR = "BAD_TENSOR"
    BAD_REFERENCE = "BAD_REFERENCE"
    BAD_HEADER = "BAD_HEADER"
    UNENCODABLE = "UNENCODABLE"


def poison(code: Poison, message: str) -> PoisonError:
    """A decoding failure."""
    return PoisonError(Stage.DECODE, code, message)


def schema_id_of(value: bytes | None) -> int:
    """The schema id of a record's value.

    Raises:
        PoisonError: if the value is not in the wire format.
    """
    if not value:
        raise poison(Poison.EMPTY_VALUE, "the value is empty: send an Avro record in the Confluent wire format")
    if len(value) < HEADER_BYTES or value[0] != 0:
        raise poison(
            Poison.NOT_WIRE_FORMAT,
            f"the value ({len(value)} bytes) does not begin with a zero byte and a 4-byte schema id: "
            "send it in the Confluent wire format",
        )
    schema_id: int = _HEADER.unpack_from(value)[1]
    if schema_id > MAX_SCHEMA_ID:
        raise poison(Poison.UNKNOWN_SCHEMA, f"schema id {schema_id} is beyond any registry's ids")
    return schema_id


class Decoder(Generic[T]):
    """Values in the wire format → records of one contract, whatever version of its schema wrote them.

    Needs the writer schemas by id; asks nobody for them itself: ``missing`` says which, ``add_schema`` takes them.
    """

    def __init__(
        self,
        contract: Contract,
        convert: Callable[[dict[str, Any]], T],
        *,
        max_value_bytes: int | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``convert`` turns what was read into a record, or raises PoisonError."""
        self._contract = contract
        self._convert = convert
        self._max_value_bytes = max_value_bytes
        self._monotonic = monotonic
        self._schemas: dict[int, tuple[Parsed, Read | None]] = {}
        self._refused: OrderedDict[int, tuple[float, Poison, str]] = OrderedDict()  # id → expiry, why; oldest first

    def missing(self, values: Iterable[bytes | None]) -> set[int]:
        """Schema ids of these values that are not known yet, or were refused too long ago to rely on."""
        now = self._monotonic()
        return {
            schema_id
            for value in values
            if value is not None and len(value) >= HEADER_BYTES and value[0] == 0
            if (schema_id := _HEADER.unpack_from(value)[1]) not in self._schemas
            and (schema_id not in self._refused or self._refused[schema_id][0] <= now)
            and schema_id <= MAX_SCHEMA_ID
        }

    def add_schema(self, schema_id: int, schema_json: str | None) -> None:
        """Learns the writer schema of an id; None: the registry has no such id. Its records are poison if unusable."""
        if schema_json is None:
            self._refuse(schema_id, Poison.UNKNOWN_SCHEMA, f"the registry has no schema with id {schema_id}")
            return
        try:
            schema = writer_schema(schema_json, self._contract)
        except UnusableSchemaError as error:
            self._refuse(schema_id, Poison.WRONG_SCHEMA, f"schema {schema_id} can't be used here: {error}")
        else:
            self._schemas[schema_id] = schema, reader(schema)
            self._refused.pop(schema_id, None)

    def decode(self, value: bytes | None) -> T:
        """Decodes one value.

        Raises:
            PoisonError: whatever is wrong with it; no other exception, whatever the bytes.
        """
        value = value or b""
        schema_id = schema_id_of(value)
        if self._max_value_bytes is not None and len(value) > self._max_value_bytes:
            raise poison(Poison.TOO_LARGE, f"the value has {len(value)} bytes, more than {self._max_value_bytes}")
        known = self._schemas.get(schema_id)
        if known is None:
            raise self._refusal(schema_id)
        schema, read = known
        if read is not None:
            try:
                record, end = read(value, HEADER_BYTES)
            except Exception:  # noqa: BLE001 - fastavro says what is wrong with it, if anything is
                end = -1
            if end == len(value):
                return self._convert(record)
        return self._convert(self._read_with_care(value, schema_id, schema))

    def _read_with_care(self, value: bytes, schema_id: int, schema: Parsed) -> dict[str, Any]:
        stream = io.BytesIO(value)
        stream.seek(HEADER_BYTES)
        try:
            record = fastavro.schemaless_reader(stream, schema, None)
        except _CORRUPT as error:
            reason = str(error) or type(error).__name__
            raise poison(Poison.CORRUPT, f"the bytes do not fit schema {schema_id}: {reason[:200]}") from error
        if stream.tell() != len(value):
            extra = len(value) - stream.tell()
            raise poison(Poison.TRAILING_BYTES, f"{extra} bytes follow the record that schema {schema_id} describes")
        return record  # type: ignore[return-value]  # a usable schema is a record, and reads as a dict

    def _refuse(self, schema_id: int, code: Poison, message: str) -> None:
        self._refused.pop(schema_id, None)
        self._refused[schema_id] = (self._monotonic() + REFUSED_SECONDS, code, message)
        if len(self._refused) > REFUSED_CAPACITY:
            self._refused.popitem(last=False)

    def _refusal(self, schema_id: int) -> PoisonError:
        default = (0.0, Poison.UNKNOWN_SCHEMA, f"schema {schema_id} was not loaded from the registry")
        _, code, message = self._refused.get(schema_id, default)
        return poison(code, message)


def encode(contract: Contract, schema_id: int, record: Any, write: Write | None = None) -> bytes:
    """A record of the contract's current schema in the wire format.

    Args:
        contract: whose record it is.
        schema_id: of that schema.
        record: as ``write`` takes it.
        write: by default that of dictionaries of all fields.

    Raises:
        PoisonError: if a value does not fit its field (an integer beyond 64 bits, text that is not Unicode).
    """
    pieces = [_HEADER.pack(0, schema_id)]
    try:
        (write or _writer(contract))(record, pieces.append)
        return b"".join(pieces)
    except (ValueError, OverflowError, TypeError, KeyError, AttributeError, struct.error) as error:
        reason = f"a value does not fit the {contract.value} schema: {str(error)[:200]}"
        raise PoisonError(Stage.ENCODE, Poison.UNENCODABLE, reason) from error


@functools.cache
def _writer(contract: Contract) -> Write:
    """Our own, which is faster, where it knows all of the schema's types."""
    schema = own_schema(contract)

    def write(value: Any, append: Append) -> None:
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, schema, value)
        append(stream.getvalue())

    try:
        return writer(schema)
    except UnsupportedSchemaError:
        return write
