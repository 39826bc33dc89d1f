"""Tensor contents: datatype, shape and length must agree with each other and with the model's input."""

from __future__ import annotations

import math

from headrace.pipeline.codecs.row import Row, poison
from headrace.pipeline.ports import TensorSpec, dtype_of
from headrace.pipeline.records import Tensor


def to_row(part_name: str, tensor: Tensor, spec: TensorSpec) -> Row:
    """A tensor as a row of the input ``spec``.

    Raises:
        PoisonError: ``UNSUPPORTED_DATATYPE``, ``TENSOR_MISMATCH`` (not what the model takes) or ``BAD_TENSOR`` (its
            data does not have the length that its datatype and shape ask for).
    """
    if tensor.datatype != spec.datatype or not fits(tensor.shape, spec.shape):
        takes, has = describe(spec.datatype, spec.shape), describe(tensor.datatype, tensor.shape)
        message = f"the model's input {spec.name} takes {takes}, the tensor is {has}"
        raise poison(part_name, "TENSOR_MISMATCH", message)
    if tensor.datatype == "BYTES":
        return Row(_elements(part_name, tensor), len(tensor.data), tensor.shape)
    try:
        item_bytes = dtype_of(tensor.datatype).itemsize
    except KeyError:
        message = f"datatype {tensor.datatype[:20]!r} has no form here: send FP32"
        raise poison(part_name, "UNSUPPORTED_DATATYPE", message) from None
    expected = math.prod(tensor.shape) * item_bytes
    if len(tensor.data) != expected:
        what = describe(tensor.datatype, tensor.shape)
        raise poison(part_name, "BAD_TENSOR", f"{what} needs {expected} bytes of data, there are {len(tensor.data)}")
    if tensor.datatype == "BOOL" and tensor.data.translate(None, b"\x00\x01"):
        raise poison(part_name, "BAD_TENSOR", "BOOL data must be bytes 0 and 1")
    return Row(tensor.data, expected, tensor.shape)


def fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a shape, each dimension of which must be 1 or more, is what ``wanted`` (-1: any) allows."""
    if len(shape) != len(wanted):
        return False
    for have, want in zip(shape, wanted, strict=True):  # noqa: SIM110 - a hot path
        if have < 1 or want not in (have, -1):
            return False
    return True


def is_single_bytes(spec: TensorSpec) -> bool:
    """Whether an input takes one ``BYTES`` element a row: text or an encoded file."""
    return spec.datatype == "BYTES" and all(dimension in (1, -1) for dimension in spec.shape)


def describe(datatype: str, shape: tuple[int, ...]) -> str:
    """``FP32[224,224,3]``; bounded in length."""
    dimensions = ",".join(str(dimension) for dimension in shape[:8]) + (",…" if len(shape) > 8 else "")
    return f"{datatype[:20]}[{dimensions}]"


def _elements(part_name: str, tensor: Tensor) -> tuple[bytes, ...]:
    """The elements of a ``BYTES`` tensor: each is a 4-byte little-endian length and that many bytes."""
    data, position = tensor.data, 0
    elements: list[bytes] = []
    expected = math.prod(tensor.shape)
    while position < len(data) and len(elements) < expected:
        start = position + 4
        position = start + int.from_bytes(data[position:start], "little")
        elements.append(data[start:position])
        if start > len(data) or position > len(data):
            raise poison(part_name, "BAD_TENSOR", f"BYTES element {len(elements) - 1} runs past the end of the data")
    if len(elements) != expected or position != len(data):
        what = describe("BYTES", tensor.shape)
        raise poison(part_name, "BAD_TENSOR", f"{what} needs {expected} elements, the data does not hold just these")
    return tuple(elements)


def serialize_bytes(elements: list[bytes]) -> bytes:
    """The data of a ``BYTES`` tensor."""
    return b"".join(piece for element in elements for piece in (len(element).to_bytes(4, "little"), element))
