from __future__ import annotations

import base64
import io
import json
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.compose import Event, EventOptions, KeyFrom
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.event_lines import event_of_line, patient, read_lines
from headrace.pipeline.outgoing import record_of
from headrace.pipeline.records import Modality, Tensor

JPEG = b"\xff\xd8\xff\xe0 rest of it"
PLAIN = EventOptions()
LIMIT_BYTES = 100_000
OPTIONS = EventOptions(
    model="usual", model_version="3", key=b"usual", headers=(("a", b"1"), ("b", b"2")), parameters={"x": 1, "y": 2}
)


def event(fields: Any, options: EventOptions = PLAIN) -> Event:
    return event_of_line(json.dumps(fields).encode(), 7, options, 5, LIMIT_BYTES)


def problem(line: Any) -> str:
    text = line if isinstance(line, bytes) else json.dumps(line).encode()
    with pytest.raises(ConfigError) as caught:
        event_of_line(text, 7, EventOptions(), 5, LIMIT_BYTES)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_line_says_the_whole_of_an_event(tmp_path: Path) -> None:
    photo = tmp_path / "photo"
    photo.write_bytes(JPEG)
    made = event(
        {
            "id": "0b9f3a52-8f0e-4a0a-9b53-2f6c3c1a77aa",
            "type": "t",
            "source": "s",
            "subject": "u",
            "session": "v",
            "time_ms": 9,
            "key": "k",
            "model": "m",
            "version": "2",
            "parameters": {"top": 3, "exact": True, "scale": 0.5, "word": "w"},
            "headers": {"tenant": "acme"},
            "parts": [
                {"text": "hello", "name": "caption"},
                {"file": str(photo)},
                {"base64": base64.b64encode(JPEG).decode()},
                {"tensor": {"datatype": "FP32", "shape": [2, 1], "data": [[1], [2.5]]}, "modality": "IMAGE"},
            ],
        }
    )
    request = made.request
    assert (request.id, request.type, request.source) == ("0b9f3a52-8f0e-4a0a-9b53-2f6c3c1a77aa", "t", "s")
    assert (request.subject, request.session, request.time_ms) == ("u", "v", 9)
    assert (request.model, request.model_version) == ("m", "2")
    assert request.parameters == {"top": 3, "exact": True, "scale": 0.5, "word": "w"}
    assert (made.key, made.headers, made.origin) == (b"k", (("tenant", b"acme"),), "line 7")
    assert [(part.name, part.modality, part.content_type) for part in request.parts] == [
        ("caption", Modality.TEXT, "text/plain"),
        ("image", Modality.IMAGE, "image/jpeg"),
        ("image-2", Modality.IMAGE, "image/jpeg"),
        ("image-3", Modality.IMAGE, ""),
    ]
    assert [part.content for part in request.parts[:3]] == ["hello", JPEG, JPEG]
    assert request.parts[3].content == Tensor("FP32", (2, 1), struct.pack("<2f", 1, 2.5))
    assert record_of(made, 1)  # a worker would take it


@pytest.mark.parametrize("content", [{"text": "hello"}, {"base64": base64.b64encode(JPEG).decode()}])
def test_shorthand_is_the_only_part(content: dict[str, str]) -> None:
    assert [part.name for part in event(content).request.parts] == ["text" if "text" in content else "image"]


def test_line_goes_before_the_options_and_joins_headers_and_parameters() -> None:
    usual = event({"text": "a"}, OPTIONS)
    assert (usual.request.model, usual.request.model_version, usual.key) == ("usual", "3", b"usual")
    own = event({"text": "a", "model": "own", "key": "k", "headers": {"b": "3"}, "parameters": {"y": 4}}, OPTIONS)
    assert (own.request.model, own.request.model_version, own.key) == ("own", None, b"k")
    assert own.headers == (("a", b"1"), ("b", b"3"))
    assert own.request.parameters == {"x": 1, "y": 4}


def test_key_comes_from_the_file_that_a_line_names(tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(JPEG)
    options = EventOptions(key_from=KeyFrom.NAME)
    assert event({"file": str(tmp_path / "photo")}, options).key == b"photo"
    assert event({"file": str(tmp_path / "photo"), "key": "own"}, options).key == b"own"


def test_given_names_are_kept_and_others_are_made_apart_from_them() -> None:
    parts = [{"text": "a"}, {"text": "b", "name": "text"}, {"text": "c"}]
    assert [part.name for part in event({"parts": parts}).request.parts] == ["text-2", "text", "text-3"]


def test_modality_and_content_type_may_be_given_for_a_file(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("hello")
    (part,) = event(
        {"parts": [{"file": str(tmp_path / "notes"), "modality": "TEXT", "content_type": "a/b"}]}
    ).request.parts
    assert (part.modality, part.content_type, part.content) == (Modality.TEXT, "a/b", b"hello")


@pytest.mark.parametrize(
    ("datatype", "data", "expected"),
    [
        ("UINT8", [0, 255], b"\x00\xff"),
        ("INT64", [-1, 2**62], struct.pack("<2q", -1, 2**62)),
        ("FP16", [1, 0.5], b"\x00\x3c\x00\x38"),
        ("BOOL", [True, False], b"\x01\x00"),
        ("BYTES", ["a", "bé"], b"\x01\0\0\0a\x03\0\0\0b\xc3\xa9"),
    ],
)
def test_tensor_is_written_in_its_datatype(datatype: str, data: list[Any], expected: bytes) -> None:
    (part,) = event({"tensor": {"datatype": datatype, "shape": [2], "data": data}}).request.parts
    assert part.content == Tensor(datatype, (2,), expected)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"{nonsense", "not JSON"),
        (b"\xff", "not JSON"),
        (b'"text"', "must be a JSON object"),
        ({}, "exactly one of parts, text, file, base64, tensor, not none"),
        ({"text": "a", "file": "b"}, "not text and file"),
        ({"parts": []}, "parts: "),
        ({"parts": [{"name": "a"}]}, "exactly one of text, file, base64, tensor, not none"),
        ({"txet": "a"}, "txet is unknown; there are: text, "),
        ({"parts": [{"text": "a", "kind": "b"}]}, "parts.0.kind is unknown; there are: "),
        ({"text": 3}, "text: Input should be a valid string"),
        ({"text": "a", "id": "7"}, "id is a UUID"),
        ({"text": "a", "version": "7"}, "name the model too"),
        ({"parts": [{"text": "a", "modality": "SMELL"}]}, "modality is one of TEXT, IMAGE"),
        ({"file": "nowhere.jpg"}, "nowhere.jpg cannot be read: No such file"),
        ({"base64": "a"}, "base64 cannot be decoded"),
        ({"base64": "aGVsbG8="}, "base64 is of no known kind: give its modality"),
        ({"tensor": {"datatype": "FP32", "shape": [3], "data": [1]}}, "shape [3] has 3 elements, data has 1"),
        ({"tensor": {"datatype": "FP32", "shape": [-1], "data": []}}, "no dimension of shape [-1] may be negative"),
        ({"tensor": {"datatype": "BF16", "shape": [1], "data": [1]}}, "'BF16' cannot be written in JSON"),
        ({"tensor": {"datatype": "UINT8", "shape": [1], "data": [256]}}, "256 does not fit UINT8"),
        ({"tensor": {"datatype": "FP64", "shape": [1], "data": [10**400]}}, "an element does not fit FP64"),
        ({"tensor": {"datatype": "FP32", "shape": [2], "data": [1, -1e300]}}, "-1e+300 does not fit FP32"),
        ({"parts": [{"file": "/dev/zero", "modality": "IMAGE"}]}, "/dev/zero has more than 100,000 bytes"),
        ({"tensor": {"datatype": "UINT8", "shape": [1], "data": [True]}}, "'True' is no element of UINT8"),
        ({"tensor": {"datatype": "BYTES", "shape": [1], "data": [1]}}, "'1' is no element of BYTES"),
    ],
)
def test_wrong_line_says_its_number_and_what_is_wrong(line: Any, expected: str) -> None:
    said = problem(line)
    assert said.startswith("line 7: ")
    assert expected in said


NAMES = st.sampled_from(["text", "parts", "tensor", "data", "shape", "datatype", "id", "file", "base64", "key"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_line_is_an_event_or_a_configuration_error_whatever_it_is(line: bytes) -> None:
    with suppress(ConfigError):
        assert event_of_line(line, 1, PLAIN, 5, LIMIT_BYTES).request.parts


def test_lines_are_numbered_and_blank_ones_left_out() -> None:
    stream = io.BytesIO(b"one\n\n  \nfour\nlast")
    assert list(read_lines(stream, 10)) == [(1, b"one\n"), (4, b"four\n"), (5, b"last")]


def test_too_long_line_is_passed_over_whole() -> None:
    stream = io.BytesIO(b"a" * 1000 + b"\nshort\n" + b"b" * 11)
    assert list(read_lines(stream, 10)) == [(1, None), (2, b"short\n"), (3, None)]


def test_infinity_stays_infinite() -> None:
    line = b'{"tensor": {"datatype": "FP32", "shape": [2], "data": [Infinity, 1]}}'
    (part,) = event_of_line(line, 7, PLAIN, 5, LIMIT_BYTES).request.parts
    assert isinstance(part.content, Tensor)
    assert struct.unpack("<2f", part.content.data) == (float("inf"), 1.0)


def test_silent_stream_lets_other_things_go_on() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"one\ntw")
    said = [b"o\nthree\n"]

    def idle() -> None:
        if said:
            os.write(writer, said.pop())
        else:
            os.close(writer)

    with os.fdopen(reader, "rb") as stream:
        assert list(read_lines(patient(stream, idle), 100)) == [(1, b"one\n"), (2, b"two\n"), (3, b"three\n")]
    assert not said


def test_stream_in_memory_is_never_silent() -> None:
    stream = io.BytesIO(b"one\n")
    assert patient(stream, lambda: None) is stream
