"""Avro bytes ↔ inference request, result and dead letter. Pure: schemas by id are brought to the decoders."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

from headrace.pipeline.avro import Contract, own_schema
from headrace.pipeline.avro_writing import Write, writer
from headrace.pipeline.fields import (
    RESULT_ATTRIBUTES,
    dead_letter_fields,
    dead_letter_from,
    request_fields,
    request_from,
    result_from,
)
from headrace.pipeline.records import DeadLetter, Headers, InferenceRequest, InferenceResult
from headrace.pipeline.wire import Decoder, encode

DEAD_LETTER_OVERHEAD_BYTES = 128 * 1024  # all of a dead letter but the record's own bytes, with room to spare
_HEADER_BYTES = 12  # lengths around a header's name and value, at most


class RequestDecoder(Decoder[InferenceRequest]):
    """Values of request topics → requests. ``max_value_bytes`` None leaves the limit to the broker."""

    def __init__(self, *, max_value_bytes: int | None = None) -> None:
        super().__init__(Contract.REQUEST, request_from, max_value_bytes=max_value_bytes)


class ResultDecoder(Decoder[InferenceResult]):
    """Values of reply topics → results."""

    def __init__(self) -> None:
        super().__init__(Contract.RESULT, result_from)


class DeadLetterDecoder(Decoder[DeadLetter]):
    """Values of the dead-letter topic → dead letters."""

    def __init__(self) -> None:
        super().__init__(Contract.DEAD_LETTER, dead_letter_from)


def encode_request(request: InferenceRequest, schema_id: int) -> bytes:
    """Encodes a request, having checked it as a worker would.

    Raises:
        PoisonError: if a worker would refuse it, or a value does not fit its field.
    """
    return encode(Contract.REQUEST, schema_id, check_request(request))


def check_request(request: InferenceRequest) -> dict[str, Any]:
    """The request's fields, checked as a worker checks them.

    Raises:
        PoisonError: if a worker would refuse it.
    """
    fields = request_fields(request)
    request_from(fields)
    return fields


def encode_result(result: InferenceResult, schema_id: int) -> bytes:
    """Encodes a result.

    Raises:
        PoisonError: if a value does not fit its field (``Stage.ENCODE``).
    """
    return encode(Contract.RESULT, schema_id, result, _result_writer())


@functools.cache
def _result_writer() -> Write:
    return writer(own_schema(Contract.RESULT), RESULT_ATTRIBUTES)


def encode_dead_letter(letter: DeadLetter, schema_id: int, max_bytes: int | None = None) -> bytes:
    """Encodes a dead letter: must succeed whatever the record was, for it is the record's last way out.

    So text that is no Unicode is mended and a long message is cut; and if it would have more than ``max_bytes``
    (what the dead-letter topic takes), the record's value, then headers, then key are left out and counted.
    """
    if max_bytes is not None:
        letter = fit_dead_letter(letter, max_bytes)
    return encode(Contract.DEAD_LETTER, schema_id, dead_letter_fields(letter))


def fit_dead_letter(letter: DeadLetter, max_bytes: int) -> DeadLetter:
    """The letter without what does not fit: a record may be larger than its topic's limit, which counts compressed.

    The key counts twice: a dead letter is keyed as its record. If the letter comes back without it, so must it be.
    """
    room = max_bytes - DEAD_LETTER_OVERHEAD_BYTES
    value_bytes, headers_bytes, key_bytes = len(letter.value or b""), _size(letter.headers), len(letter.key or b"")
    if value_bytes + headers_bytes + 2 * key_bytes <= room:
        return letter
    letter = replace(letter, value=None, omitted_bytes=letter.omitted_bytes + value_bytes)
    if headers_bytes + 2 * key_bytes <= room:
        return letter
    letter = replace(letter, headers=(), omitted_bytes=letter.omitted_bytes + headers_bytes)
    if 2 * key_bytes <= room:
        return letter
    return replace(letter, key=None, omitted_bytes=letter.omitted_bytes + key_bytes)


def _size(headers: Headers) -> int:
    return sum(len(key.encode(errors="replace")) + len(value or b"") + _HEADER_BYTES for key, value in headers)
