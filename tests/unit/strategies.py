"""Hypothesis strategies for whole records."""

from __future__ import annotations

from math import prod

from hypothesis import settings
from hypothesis import strategies as st

from headrace.pipeline.ports import StartPosition
from headrace.pipeline.records import (
    DeadLetter,
    Headers,
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
    Stage,
    Tensor,
    Timings,
)
from headrace.pipeline.replay.manifest import Pin, Plan, Progress, Run, RunState
from headrace.pipeline.replay.ranges import PartitionRange


def examples(most: int) -> int:
    """Of a property: so many in the profile ``deep``, the same share of them in ``quick`` as elsewhere."""
    return most * settings().max_examples // 100


INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
DOUBLE = st.floats(allow_nan=False)  # NaN is carried, but does not equal itself
TEXT = st.text(max_size=20)
NAME = st.text(min_size=1, max_size=20)
OPTIONAL_TEXT = st.none() | TEXT
BYTES = st.binary(max_size=40)
EPOCH_MS = st.integers(-62_135_596_800_000, 253_402_300_799_999)

HEADERS: st.SearchStrategy[Headers] = st.lists(st.tuples(TEXT, st.none() | BYTES), max_size=4).map(tuple)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    datatype, size = draw(st.sampled_from([("FP32", 4), ("UINT8", 1), ("INT64", 8), ("BF16", 2), ("BOOL", 1)]))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    length = prod(shape) * size
    return Tensor(datatype, shape, draw(st.binary(min_size=length, max_size=length)))


REFERENCES = st.builds(Reference, NAME, st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))

PARTS = st.builds(Part, NAME, st.sampled_from(Modality), TEXT, st.one_of(BYTES, TEXT, tensors(), REFERENCES))

REQUESTS = st.builds(
    InferenceRequest,
    id=st.uuids().map(str),
    type=NAME,
    source=NAME,
    time_ms=EPOCH_MS,
    parts=st.lists(PARTS, min_size=1, max_size=4, unique_by=lambda part: part.name).map(tuple),
    subject=OPTIONAL_TEXT,
    parameters=st.dictionaries(TEXT, st.one_of(TEXT, INT64, DOUBLE, st.booleans()), max_size=4),
    model=OPTIONAL_TEXT,
    model_version=OPTIONAL_TEXT,
    session=OPTIONAL_TEXT,
)

PROVENANCES = st.builds(Provenance, NAME, INT32, INT64, INT64)

OUTPUTS = st.builds(
    PartOutput,
    part=TEXT,
    route=TEXT,
    model=TEXT,
    model_version=TEXT,
    tensors=st.lists(st.builds(NamedTensor, TEXT, tensors()), max_size=2).map(tuple),
    labels=st.lists(st.builds(Label, TEXT, DOUBLE), max_size=3).map(tuple),
    segments=st.lists(
        st.builds(Segment, DOUBLE, DOUBLE, OPTIONAL_TEXT, st.none() | DOUBLE, OPTIONAL_TEXT), max_size=3
    ).map(tuple),
    text=OPTIONAL_TEXT,
    batch_size=INT32,
)

RESULTS = st.builds(
    InferenceResult,
    request_id=st.uuids().map(str),
    status=st.just("OK"),
    outputs=st.lists(OUTPUTS, max_size=3).map(tuple),
    provenance=PROVENANCES,
    timings=st.builds(Timings, DOUBLE, DOUBLE, DOUBLE),
    attempt=INT32,
    worker=TEXT,
    completed_ms=INT64,
)

DEAD_LETTERS = st.builds(
    DeadLetter,
    key=st.none() | BYTES,
    value=st.none() | BYTES,
    headers=HEADERS,
    provenance=PROVENANCES,
    stage=st.sampled_from(Stage).map(str),
    code=TEXT,
    message=TEXT,
    attempts=INT32,
    first_failed_ms=INT64,
    last_failed_ms=INT64,
    worker=TEXT,
    request_id=OPTIONAL_TEXT,
    route=OPTIONAL_TEXT,
    model=OPTIONAL_TEXT,
    trace_id=OPTIONAL_TEXT,
    omitted_bytes=INT64,
)

PLANS = st.builds(
    Plan,
    run=NAME,
    topic=NAME,
    ranges=st.lists(st.builds(PartitionRange, INT32, INT64, INT64), max_size=3).map(tuple),
    filters=st.lists(TEXT, max_size=3).map(tuple),
    limit=st.none() | INT64,
    routes=st.lists(NAME, max_size=3).map(tuple),
    models=st.lists(st.builds(Pin, NAME, NAME, TEXT, st.booleans()), max_size=3).map(tuple),
    results_topic=NAME,
    dead_letters_topic=NAME,
    progress_topic=NAME,
    partitions=INT32,
    settings_sha256=TEXT,
    git_revision=OPTIONAL_TEXT,
    headrace_version=TEXT,
    created_ms=INT64,
)

RUNS = st.builds(
    Run,
    plan=PLANS,
    state=st.sampled_from(RunState),
    updated_ms=INT64,
    results=INT64,
    dead_letters=INT64,
    resumed=INT32,
    active_seconds=DOUBLE,
)

PROGRESSES = st.builds(
    Progress,
    run=NAME,
    writer=TEXT,
    number=INT64,
    positions=st.dictionaries(INT32, st.builds(StartPosition, INT64, TEXT), max_size=4),
    results=INT64,
    dead_letters=INT64,
    resumed=INT32,
    updated_ms=INT64,
    active_seconds=DOUBLE,
)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes, first: int = 0) -> bytes:
    """Bytes with bits flipped, the end cut off, or pieces put in, up to four times, from the position ``first`` on."""
    found = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(first, len(found)))
        match draw(st.sampled_from(["flip", "cut", "splice"])):
            case "flip" if position < len(found):
                found[position] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del found[position:]
            case "splice":
                found[position:position] = draw(st.binary(max_size=12))
    return bytes(found)
