"""Arrays to tensors and back."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from headrace import InvalidEventError, Tensor, to_array, to_tensor
from headrace.pipeline.fields import request_fields, request_from
from headrace.sdk.events import event
from headrace.sdk.parts import tensor
from headrace.sdk.tensors import Array, ArrayLike

NUMERIC = [
    "bool",
    "u1",
    "<u2",
    "<u4",
    "<u8",
    "i1",
    "<i2",
    "<i4",
    "<i8",
    "<f2",
    "<f4",
    "<f8",
    ">u4",
    ">i8",
    ">f4",
    ">f8",
]
NAMES = {
    **{"bool": "BOOL", "u1": "UINT8", "u2": "UINT16", "u4": "UINT32", "u8": "UINT64", "i1": "INT8", "i2": "INT16"},
    **{"i4": "INT32", "i8": "INT64", "f2": "FP16", "f4": "FP32", "f8": "FP64"},
}


@given(
    st.sampled_from(NUMERIC).flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0)))
)
def test_numbers_come_back_as_they_were(array: Array) -> None:
    made = to_tensor(array)
    assert made.datatype == NAMES[array.dtype.str.lstrip("<>|") if array.dtype.kind != "b" else "bool"]
    back = to_array(made)
    assert back.shape == array.shape
    assert np.array_equal(back, array, equal_nan=array.dtype.kind == "f")
    assert request_from(request_fields(event(tensor(array)).request)).parts[0].content == made


@given(arrays.arrays(object, arrays.array_shapes(), elements=st.binary() | st.text(st.characters(codec="utf-8"))))
def test_texts_and_bytes_come_back_as_bytes(array: Array) -> None:
    made = to_tensor(array)
    wanted = [element.encode() if isinstance(element, str) else element for element in array.ravel().tolist()]
    assert made.datatype == "BYTES"
    assert to_array(made).shape == array.shape
    assert to_array(made).ravel().tolist() == wanted


def test_layout_is_little_endian_and_row_major() -> None:
    array = np.asfortranarray(np.array([[1, 2], [3, 4]], dtype=">i2"))
    assert to_tensor(array) == Tensor("INT16", (2, 2), struct.pack("<4h", 1, 2, 3, 4))
    assert to_tensor(array[::2, ::-1]) == Tensor("INT16", (1, 2), struct.pack("<2h", 2, 1))
    assert to_tensor([b"a\0", "é"]) == Tensor("BYTES", (2,), b"\2\0\0\0a\0\2\0\0\0\xc3\xa9")


@pytest.mark.parametrize(
    ("values", "datatype", "wanted"),
    [
        ([1, 2], None, ("INT64", (2,), struct.pack("<2q", 1, 2))),
        ([1.5], None, ("FP64", (1,), struct.pack("<d", 1.5))),
        ([True, False], None, ("BOOL", (2,), b"\1\0")),
        (3, "UINT8", ("UINT8", (), b"\3")),
        ([1, 2], "FP32", ("FP32", (2,), struct.pack("<2f", 1, 2))),
        ([0.1], "fp16", ("FP16", (1,), struct.pack("<e", 0.1))),
        (np.array([255], "i8"), "UINT8", ("UINT8", (1,), b"\xff")),
        (np.array([0x3F80], "u2"), "BF16", ("BF16", (1,), b"\x80\x3f")),
        ("word", None, ("BYTES", (), b"\4\0\0\0word")),
        ([], "BYTES", ("BYTES", (0,), b"")),
        ([float("inf")], "FP16", ("FP16", (1,), b"\x00\x7c")),
    ],
)
def test_datatype_follows_or_is_given(
    values: ArrayLike, datatype: str | None, wanted: tuple[str, tuple[int, ...], bytes]
) -> None:
    assert to_tensor(values, datatype) == Tensor(*wanted)


def test_bfloat16_is_widened_on_the_way_back() -> None:
    back = to_array(Tensor("BF16", (2,), struct.pack("<2H", 0x3F80, 0xC000)))
    assert back.dtype == np.float32
    assert back.tolist() == [1.0, -2.0]


@pytest.mark.parametrize(
    ("values", "datatype", "message"),
    [
        ([1j], None, "no tensor holds numpy's complex128"),
        (np.array(["2024-01-01"], "M8[D]"), None, "no tensor holds"),
        (np.zeros(1, np.longdouble), None, "no tensor holds"),
        (np.zeros(2, [("a", "i4")]), None, "no tensor holds"),
        ([[1], [2, 3]], None, "make no array"),
        ([256], "UINT8", "out of its range"),
        ([-1], "UINT64", "out of its range"),
        (np.array([2**64 - 1], "u8"), "INT64", "out of its range"),
        ([1e300], "FP32", "out of its range"),
        ([1.5], "INT32", "convert the array as you mean it"),
        ([1.0], "BF16", "not converted"),
        ([1.0], "BYTES", "not of type float"),
        (["a"], "FP32", "are no FP32"),
        (np.array([None]), None, "not of type NoneType"),
        (["\ud800"], None, "not Unicode"),
        ([1], "FLOAT", "datatype 'FLOAT' is none"),
    ],
)
def test_values_that_no_tensor_holds_are_refused(values: ArrayLike, datatype: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        to_tensor(values, datatype)
    assert isinstance(caught.value, InvalidEventError)


@pytest.mark.parametrize(
    "broken",
    [Tensor("FP32", (2,), b"1234"), Tensor("BYTES", (1,), b"\5\0\0\0ab"), Tensor("BYTES", (2,), b"\0\0\0\0")],
)
def test_tensor_that_contradicts_itself_is_refused(broken: Tensor) -> None:
    with pytest.raises(ValueError, match=r"past the end|reshape"):
        to_array(broken)


def test_array_that_comes_back_is_the_callers_own() -> None:
    back = to_array(to_tensor(np.zeros(3, "f4")))
    back[0] = 1
    assert back.tolist() == [1, 0, 0]
