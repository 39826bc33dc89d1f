from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from headrace.pipeline.codecs.tensor import serialize_bytes
from headrace.pipeline.demo.check import Checker, Expected, Position
from headrace.pipeline.demo.observe import Figures
from headrace.pipeline.demo.report import Report
from headrace.pipeline.demo.stats import Latency, Recovery
from headrace.pipeline.present import (
    dead_letter_json,
    dead_letter_line,
    dead_letter_lines,
    finding,
    hexdump,
    moment,
    request_lines,
    result_json,
    result_lines,
    tensor_elements,
    tensor_summary,
)
from headrace.pipeline.records import (
    DeadLetter,
    InferenceRequest,
    InferenceResult,
    Label,
    Modality,
    NamedTensor,
    Part,
    PartOutput,
    Provenance,
    Reference,
    Segment,
    SourceRecord,
    Tensor,
    Timings,
)

WHERE = Provenance("requests", 3, 17, 1_700_000_000_000)
RECORD = SourceRecord(Provenance("out", 0, 5, 1_700_000_000_100), b"key", b"", ())
EMPTY = PartOutput("text", "r", "m", "1")
RESULT = InferenceResult("id", "OK", (EMPTY,), WHERE, Timings(0.1, 2, 3), 1, "headrace-0", 1_700_000_000_050)
LETTER = DeadLetter(
    key=b"k\xff", value=b"\x00\x01bad", headers=(("ce_id", b"7"), ("none", None)), provenance=WHERE, stage="infer",
    code="MODEL_REJECTED", message="the image is corrupt", attempts=1, first_failed_ms=1, last_failed_ms=2,
    worker="headrace-1",
)  # fmt: skip


def fp32(*values: float) -> Tensor:
    return Tensor("FP32", (len(values),), np.array(values, "<f4").tobytes())


def test_finding_shows_the_best_labels_with_scores() -> None:
    labels = tuple(Label(name, score) for name, score in (("cat", 0.9), ("dog", 0.05), ("fox", 0.03), ("cow", 0.02)))
    assert finding(replace(EMPTY, labels=labels)) == "cat 0.90, dog 0.05, fox 0.03"


def test_finding_shows_segments_in_seconds_and_says_how_many_more() -> None:
    segments = tuple(Segment(float(start), start + 0.5) for start in range(6))
    text = finding(replace(EMPTY, segments=segments))
    assert text == "speech 0.00-0.50 s, 1.00-1.50 s, 2.00-2.50 s, 3.00-3.50 s and 2 more"


def test_finding_shows_what_is_in_labelled_segments() -> None:
    segments = (Segment(0.0, 2.0, "tabby", 0.712), Segment(2.0, 4.0, "espresso"))
    labels = (Label("tabby", 0.4),)
    text = finding(replace(EMPTY, labels=labels, segments=segments))
    assert text == "tabby 0.40; 0.00-2.00 s tabby 0.71, 2.00-4.00 s espresso"


def test_finding_shows_the_text_of_segments_unless_the_whole_text_follows() -> None:
    segments = (Segment(0.0, 2.0, text="Mind the"), Segment(2.0, 4.0, text="gap."))
    assert finding(replace(EMPTY, segments=segments)) == "speech 0.00-2.00 s 'Mind the', 2.00-4.00 s 'gap.'"
    whole = replace(EMPTY, segments=segments, text="Mind the gap.")
    assert finding(whole) == "speech 0.00-2.00 s, 2.00-4.00 s; Mind the gap."


def test_finding_says_that_there_is_no_speech() -> None:
    assert finding(replace(EMPTY, tensors=(NamedTensor("SPEECH_SECONDS", fp32(0)),))) == "no speech"


def test_finding_of_a_tensor_shows_its_first_numbers() -> None:
    tensor = fp32(*(0.5 * n for n in range(9)))
    assert finding(replace(EMPTY, tensors=(NamedTensor("EMBEDDING", tensor),))) == "EMBEDDING FP32[9] 0 0.5 1 1.5 2 …"


def test_finding_of_nothing_says_so() -> None:
    assert finding(EMPTY) == "nothing found"


@pytest.mark.parametrize(
    ("tensor", "elements"),
    [
        (Tensor("INT64", (2,), np.array([1, -2], "<i8").tobytes()), [1, -2]),
        (Tensor("BOOL", (2,), b"\x01\x00"), [True, False]),
        (Tensor("BF16", (2,), b"\x80\x3f\x00\xc0"), [1.0, -2.0]),
        (Tensor("BYTES", (2,), serialize_bytes([b"one", b"\xff"])), ["one", "\ufffd"]),
        (Tensor("FP16", (0,), b""), []),
    ],
)
def test_tensor_elements_are_python_values(tensor: Tensor, elements: list[object]) -> None:
    assert tensor_elements(tensor) == elements
    assert tensor_summary(tensor).startswith(tensor.datatype)


def test_result_lines_align_parts() -> None:
    outputs = (replace(EMPTY, text="hi"), replace(EMPTY, part="a-photo", text="ho", batch_size=4))
    assert result_lines(replace(RESULT, outputs=outputs)) == [
        "text     hi  (m 1, batch of 1)",
        "a-photo  ho  (m 1, batch of 4)",
    ]


def test_result_json_is_json_with_all_elements() -> None:
    output = replace(EMPTY, tensors=(NamedTensor("E", fp32(1, 2, 3, 4, 5, 6, 7)),), labels=(Label("cat", 0.5),))
    read = json.loads(json.dumps(result_json(replace(RESULT, outputs=(output,)), RECORD)))
    assert read["request"] == {"topic": "requests", "partition": 3, "offset": 17, "timestamp_ms": WHERE.timestamp_ms}
    assert read["outputs"][0]["tensors"][0]["data"] == [1, 2, 3, 4, 5, 6, 7]
    assert read["outputs"][0]["labels"] == [{"name": "cat", "score": 0.5}]
    assert read["key"] == "key"


def test_result_json_has_all_of_a_segment() -> None:
    segments = (Segment(0.0, 2.0, "tabby", 0.5), Segment(2.0, 3.5, text="gap"))
    read = json.loads(json.dumps(result_json(replace(RESULT, outputs=(replace(EMPTY, segments=segments),)), RECORD)))
    assert read["outputs"][0]["segments"] == [
        {"start_seconds": 0.0, "end_seconds": 2.0, "label": "tabby", "score": 0.5, "text": None},
        {"start_seconds": 2.0, "end_seconds": 3.5, "label": None, "score": None, "text": "gap"},
    ]


def test_dead_letter_lines_show_reason_headers_key_and_bytes() -> None:
    text = "\n".join(dead_letter_lines(LETTER, RECORD))
    for expected in ("out:0:5", "requests:3:17", "MODEL_REJECTED", "the image is corrupt", "ce_id = 7", "none = none"):
        assert expected in text
    assert "00 01 62 61 64" in text
    assert "5 bytes" in text


def test_dead_letter_lines_of_a_record_without_value_say_so() -> None:
    assert "value        none" in dead_letter_lines(replace(LETTER, value=None), RECORD)


def test_dead_letter_json_keeps_every_byte() -> None:
    read = json.loads(json.dumps(dead_letter_json(LETTER, RECORD)))
    assert (read["key_base64"], read["value_base64"]) == ("a/8=", "AAFiYWQ=")
    assert read["headers"] == [{"name": "ce_id", "value_base64": "Nw=="}, {"name": "none", "value_base64": None}]


def test_hexdump_says_how_much_it_left_out() -> None:
    lines = hexdump(bytes(range(40)), limit_bytes=20)
    assert lines[0] == "  00000000  00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f  ................"
    assert len(lines) == 3
    assert lines[2].startswith("  … 20 bytes more")
    assert hexdump(b"") == []


def test_request_lines_show_each_part() -> None:
    parts = (
        Part("t", Modality.TEXT, "text/plain", "words"),
        Part("b", Modality.IMAGE, "image/jpeg", b"123"),
        Part("n", Modality.TENSOR, "", fp32(1)),
        Part("r", Modality.VIDEO, "video/mp4", Reference("file:///v", 9, b"")),
    )
    lines = request_lines(InferenceRequest("id", "type", "source", 0, parts))
    assert [line.partition(": ")[2] for line in lines[1:]] == [
        "TEXT text/plain 'words'",
        "IMAGE image/jpeg 3 bytes",
        "TENSOR  FP32[1] 1",
        "VIDEO video/mp4 file:///v (9 bytes)",
    ]


def report(checker: Checker, recovery: Recovery | None = None, crashes: int = 0) -> Report:
    figures = Figures(1, 1, 0, Latency(1, 20.04, 99.96, 120.0), recovery, ())
    return Report(checker.verdict(), figures, seed=7, crashes=crashes, unreadable=0, total_seconds=1.0)


def test_last_line_has_the_stated_form() -> None:
    checker = Checker()
    checker.delivered(Position("t", 0, 0), Expected())
    checker.result(Position("t", 0, 0))
    recovery = Recovery(2.55, 2.6, (1,), Latency(0, math.nan, math.nan, math.nan))
    done = report(checker, recovery)
    assert done.last_line() == (
        "demo: sent=1 results=1 dead_letters=0 duplicates=0 missing=0 p50_ms=20.0 p99_ms=100.0 recovery_s=2.5"
    )
    assert done.exit_code == 0


def test_report_fails_for_a_missing_event_and_for_a_crash() -> None:
    checker = Checker()
    checker.delivered(Position("t", 0, 0), Expected())
    assert "missing=1" in report(checker).last_line()
    assert report(checker).exit_code == 1
    checker.result(Position("t", 0, 0))
    assert report(checker).exit_code == 0
    assert report(checker, crashes=1).exit_code == 1


@pytest.mark.parametrize("epoch_ms", [0, -1, 253_402_300_800_000, 10**18])
def test_time_that_no_calendar_has_is_a_dash(epoch_ms: int) -> None:
    assert moment(epoch_ms) == "-"


@pytest.mark.parametrize("tensor", [Tensor("FP99", (3,), b"abc"), Tensor("FP32", (2,), b"12345")])
def test_tensor_that_is_none_is_shown_without_elements(tensor: Tensor) -> None:
    result = replace(RESULT, outputs=(replace(EMPTY, tensors=(NamedTensor("T", tensor),)),))
    assert result_json(result, RECORD)["outputs"][0]["tensors"][0]["data"] == []
    assert f"T {tensor.datatype}[" in result_lines(result)[0]


def test_lines_are_lines_and_printable_whatever_others_wrote() -> None:
    bad = "two\nlines \x1b[2J"
    letter = replace(LETTER, message=bad, headers=(("h\r", b"\x1b[31m"),), worker=bad)
    request = InferenceRequest("id", bad, bad, 5, (Part(bad, Modality.TEXT, bad, b""),))
    shown = [
        *result_lines(replace(RESULT, outputs=(replace(EMPTY, part=bad, text=bad),))),
        dead_letter_line(letter, RECORD),
        *dead_letter_lines(letter, RECORD),
        *request_lines(request),
    ]
    assert all(line.isprintable() for line in shown)
    assert "two lines \\x1b[2J" in shown[0]
