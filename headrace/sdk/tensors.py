"""Arrays ↔ Open Inference Protocol tensors: little-endian, row-major."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.pipeline.limits import MAX_TENSOR_DIMENSIONS
from headrace.pipeline.ports import dtype_of
from headrace.pipeline.records import Tensor
from headrace.sdk.errors import InvalidEventError

Array = NDArray[Any]
ArrayLike = Array | Sequence[Any] | bool | int | float | str | bytes

_BF16 = "BF16"
_BYTES = "BYTES"
_BFLOAT16 = "bfloat16"  # the name of ml_dtypes' type
_LENGTH_BYTES = 4
_DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    _BFLOAT16: _BF16,
}


def to_tensor(values: ArrayLike, datatype: str | None = None) -> Tensor:
    """The tensor that holds these values.

    Args:
        values: an array, or whatever numpy makes one of. Text and bytes, alone or in lists or object arrays of any
            shape, become ``BYTES``; text as UTF-8.
        datatype: the Open Inference Protocol's name (``FP32``, ``INT64`` …), if it is not to follow from the values:
            numbers are converted to it where that keeps them (floats may lose precision). ``BF16`` takes an array of
            ``ml_dtypes.bfloat16``, or of uint16 with the bits.

    Raises:
        InvalidEventError: a ValueError: no tensor can hold these values.
    """
    wanted = datatype.upper() if datatype is not None else None
    if wanted is not None and wanted not in (*_DATATYPES.values(), _BYTES):
        raise InvalidEventError(f"datatype {datatype!r} is none: {', '.join(_DATATYPES.values())} or {_BYTES}")
    array = _array(values)
    if array.ndim > MAX_TENSOR_DIMENSIONS:
        raise InvalidEventError(f"the array has {array.ndim} dimensions, a tensor at most {MAX_TENSOR_DIMENSIONS}")
    if array.dtype.kind in "OSU" or wanted == _BYTES:
        return _bytes_tensor(array, wanted)
    if wanted == _BF16 and array.dtype == np.uint16:
        return _numbers(array, _BF16)
    own = _DATATYPES.get(array.dtype.name)
    if own is None:
        raise InvalidEventError(f"no tensor holds numpy's {array.dtype}: convert it, to float32 for instance")
    return _numbers(array, own) if wanted in (None, own) else _numbers(_converted(array, own, wanted), wanted)


def to_array(tensor: Tensor) -> Array:
    """The tensor's values in an array of its own, in the tensor's shape: object (bytes) for ``BYTES``.

    numpy has no ``BF16``: its values come as float32, which holds them all.

    Raises:
        ValueError: the tensor's data are not what its datatype and shape say.
        KeyError: for a datatype that this version does not know.
    """
    if tensor.datatype == _BYTES:
        return _elements(tensor).reshape(tensor.shape)
    if tensor.datatype == _BF16:
        halves = np.frombuffer(tensor.data, "<u2").astype("<u4") << np.uint32(16)
        return halves.view("<f4").reshape(tensor.shape)
    return np.frombuffer(tensor.data, dtype_of(tensor.datatype)).reshape(tensor.shape).copy()


def _array(values: ArrayLike) -> Array:
    if isinstance(values, np.ndarray | np.generic):
        return np.asarray(values)
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError) as error:
        raise InvalidEventError(f"these values make no array: {error}") from error
    # numpy would cut zero bytes off the ends of bytes, and write numbers out beside text: keep what was given
    return np.asarray(values, dtype=np.object_) if array.dtype.kind in "SU" else array


def _numbers(array: Array, datatype: str) -> Tensor:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return Tensor(datatype, array.shape, little.tobytes("C"))


def _converted(array: Array, own: str, wanted: str) -> Array:
    if _BF16 in (own, wanted):
        raise InvalidEventError(f"{own} is not converted to {wanted}: give the array in that type")
    target = dtype_of(wanted)
    if np.can_cast(array.dtype, target, "same_kind") or (array.dtype.kind in "iu" and target.kind in "iu"):
        with np.errstate(over="ignore"):
            converted: Array = array.astype(target)
        if target.kind == "f":
            kept = np.isfinite(converted) | ~np.isfinite(array)
        else:
            kept = (converted == array) & ((converted < 0) == (array < 0))
        if bool(np.all(kept)):
            return converted
        raise InvalidEventError(f"{wanted} cannot hold all values of the array ({own}): some are out of its range")
    raise InvalidEventError(f"{own} is not converted to {wanted}: convert the array as you mean it")


def _bytes_tensor(array: Array, wanted: str | None) -> Tensor:
    if wanted not in (None, _BYTES):
        raise InvalidEventError(f"text, bytes or objects are no {wanted}")
    pieces = []
    for element in array.reshape(-1).tolist():
        if isinstance(element, str):
            try:
                data = element.encode()
            except UnicodeEncodeError as error:
                raise InvalidEventError(f"an element of the array is not Unicode text: {error.reason}") from error
        elif isinstance(element, bytes):
            data = element
        else:
            kind = type(element).__name__
            raise InvalidEventError(f"elements of a {_BYTES} tensor are text or bytes, not of type {kind}")
        pieces += [len(data).to_bytes(_LENGTH_BYTES, "little"), data]
    return Tensor(_BYTES, array.shape, b"".join(pieces))


def _elements(tensor: Tensor) -> Array:
    data, at = tensor.data, 0
    found: list[bytes] = []
    while at < len(data):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(data[at:start], "little")
        if start > len(data) or at > len(data):
            raise ValueError(f"element {len(found)} of the {_BYTES} tensor runs past the end of its data")
        found.append(data[start:at])
    elements = np.empty(len(found), dtype=np.object_)
    elements[:] = found
    return elements
