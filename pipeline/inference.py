"""The inference step around one call: parts become rows, rows a call, the reply one output a part. Pure.

What a model must look like. It has one input. An input of one ``BYTES`` element a row takes text or an encoded file;
any other takes a tensor part of its datatype and shape. Outputs with these names mean something, all others are handed
on as tensors:

- ``ERROR`` (``BYTES`` [1]): not empty means that the model rejects that row, and that row alone.
- ``LABELS`` (``BYTES`` [k]) with ``SCORES`` (floating [k]): labels with scores; an empty label is padding.
- ``SEGMENTS`` (floating [n, 2]): start and end in seconds; rows of NaN are padding.
- ``TEXT`` (``BYTES`` [1]): UTF-8 text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np

from headrace.pipeline.codecs import to_row
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.outputs import split
from headrace.pipeline.ports import Array, InferCall, ModelSignature, TensorSpec, dtype_of
from headrace.pipeline.records import Parameter, Part, Stage

__all__ = ["Bucket", "Prepared", "call_of", "data_input", "max_rows", "prepare", "split", "stack"]

_TypedParameter = tuple[str, str, Parameter]


class Bucket(NamedTuple):
    """What rows must have in common to share an infer call.

    ``parameters`` are sorted and carry their type's name, because ``1 == 1.0 == True`` to Python but not to a model.
    """

    version: str
    shape: tuple[int, ...]
    parameters: tuple[_TypedParameter, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A part as a row of its model's input, checked (see `codecs.row.Row`)."""

    row: bytes | tuple[bytes, ...]
    weight_bytes: int
    bucket: Bucket


def data_input(signature: ModelSignature) -> TensorSpec:
    """The model's one input.

    Raises:
        PoisonError: ``UNSUPPORTED_MODEL`` if it has none or several.
    """
    if len(signature.inputs) != 1:
        names = ", ".join(spec.name for spec in signature.inputs) or "none"
        message = f"model {signature.name} must have one input to be served from a topic; it has: {names}"
        raise PoisonError(Stage.PREPARE, "UNSUPPORTED_MODEL", message)
    return signature.inputs[0]


def max_rows(signature: ModelSignature) -> int:
    """Most rows in one call of this model: 1 if it does not batch."""
    return max(1, signature.max_batch_size)


def prepare(
    part: Part, signature: ModelSignature, version: str = "", parameters: Mapping[str, Parameter] | None = None
) -> Prepared:
    """Check a part against its model's input and make a row of it.

    Args:
        part: what the route's model is to answer.
        signature: of the model (and version) that the call will go to.
        version: the assignment's version, passed on to the call.
        parameters: the event's parameters, passed on to the call.

    Raises:
        PoisonError: stage ``prepare``; this record can never be inferred.
    """
    row = to_row(part, data_input(signature))
    typed = (
        tuple(sorted((name, type(value).__name__, value) for name, value in parameters.items())) if parameters else ()
    )
    return Prepared(row.value, row.weight_bytes, Bucket(version, row.shape, typed))


def call_of(rows: Sequence[Prepared], signature: ModelSignature) -> InferCall:
    """The call for rows of one bucket, one or more and at most `max_rows`."""
    bucket = rows[0].bucket
    return InferCall(
        model=signature.name,
        version=bucket.version,
        inputs=stack(rows, signature),
        parameters={name: value for name, _, value in bucket.parameters},
    )


def stack(rows: Sequence[Prepared], signature: ModelSignature) -> dict[str, Array]:
    """The model's input for rows of one bucket, in their order.

    The batch is the first dimension, unless the model does not batch (then there must be one row). Numeric arrays are
    read-only; ``BYTES`` arrays are of dtype object.
    """
    spec = data_input(signature)
    shape = rows[0].bucket.shape
    if signature.max_batch_size > 0:
        shape = (len(rows), *shape)
    elif len(rows) != 1:
        raise ValueError(f"model {signature.name} does not batch: one row a call, not {len(rows)}")
    if spec.datatype == "BYTES":
        elements = [element for row in rows for element in row.row]
        array = np.empty(len(elements), dtype=np.object_)
        array[:] = elements
    else:
        chunks = cast("list[bytes]", [row.row for row in rows])  # a numeric datatype is carried as bytes
        array = np.frombuffer(chunks[0] if len(chunks) == 1 else b"".join(chunks), dtype=dtype_of(spec.datatype))
    return {spec.name: array.reshape(shape)}
