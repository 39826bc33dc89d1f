from __future__ import annotations

from typing import Any

import pytest

from headrace.pipeline.mapping import check_path, value_at
from headrace.pipeline.records import (
    InferenceResult,
    Label,
    NamedTensor,
    PartOutput,
    Provenance,
    SourceRecord,
    Tensor,
    Timings,
)
from tests.unit.fakes import request

PROVENANCE = Provenance("requests", 3, 41, 1_700_000_000_000)
RECORD = SourceRecord(PROVENANCE, b"key\xff", b"value", (("tenant", b"a"), ("tenant", b"b"), ("empty", None)))
TENSOR = Tensor("FP32", (2,), b"\0\0\x80\x3f\0\0\xc0\x7f")  # 1.0 and NaN
OUTPUT = PartOutput(
    "photo", "images", "classify", "2", (NamedTensor("T", TENSOR),), (Label("cat", 0.75), Label("dog", float("nan")))
)
RESULT = InferenceResult("id", "OK", (OUTPUT,), PROVENANCE, Timings(1.0, 2.0, 3.0), 1, "mill-0", 5)
REQUEST = request(parameters={"depth": 3})

FOUND: dict[str, Any] = {
    "request.id": REQUEST.id,
    "request.parameters.depth": 3,
    "request.parameters.width": None,
    "request.parts[0].content": "mill",
    "request.parts[0].modality": "TEXT",
    "request.session": None,
    "result.outputs[0].labels[0].name": "cat",
    "result.outputs[0].labels[1].score": None,
    "result.outputs[0].labels[7].name": None,
    "result.outputs[1].labels[0].name": None,
    "result.outputs[0].tensors[0].tensor": [1.0, None],
    "result.timings": {"decode_ms": 1.0, "waiting_ms": 2.0, "inference_ms": 3.0},
    "record.provenance.offset": 41,
    "record.key": "key\\xff",
    "headers.tenant": "b",
    "headers.empty": None,
    "headers.ce_type": None,
}
WRONG = {
    "": "begins with none of request, result, record and headers.NAME",
    "answer.x": "begins with none of request, result, record and headers.NAME",
    "headers.": "cannot be read from '.' on",
    "request.idd": "request has no idd; it has id, type, source",
    "result.outputs.labels": "result.outputs is a list: say which, result.outputs[0].labels",
    "request[0]": "request is no list, so [0] leads nowhere",
    "request.id.x": "request.id is a value, so .x leads nowhere",
    "result.outputs[-1]": "cannot be read from '[-1]' on",
    "result.outputs[0": "cannot be read from '[0' on",
    "result..x": "cannot be read from '..x' on",
}


@pytest.mark.parametrize("path", FOUND)
def test_path_leads_to_its_value(path: str) -> None:
    check_path(path)
    assert value_at(path, RECORD, REQUEST, RESULT) == FOUND[path]


@pytest.mark.parametrize("path", WRONG)
def test_wrong_path_is_refused_with_what_there_is(path: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is what counts
        check_path(path)
    assert WRONG[path] in str(caught.value)


def test_object_is_written_whole() -> None:
    assert value_at("result.outputs[0].labels", RECORD, REQUEST, RESULT) == [
        {"name": "cat", "score": 0.75},
        {"name": "dog", "score": None},
    ]
