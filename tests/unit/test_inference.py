import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stnp

from headrace.pipeline.codecs.tensor import serialize_bytes
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.inference import Bucket, Prepared, call_of, max_rows, prepare, split, stack
from headrace.pipeline.ports import Array, InferReply, ModelSignature, TensorSpec
from headrace.pipeline.records import Label, Modality, NamedTensor, Part, PartOutput, Segment, Tensor

VECTOR = TensorSpec("X", "FP32", (-1,))
DATATYPES = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"]


def signature(*outputs: TensorSpec, batch: int = 8, data: TensorSpec = VECTOR) -> ModelSignature:
    return ModelSignature("mill", "3", batch, (data,), outputs)


def tensor_part(array: Array, datatype: str = "FP32") -> Part:
    return Part("p", Modality.TENSOR, "", Tensor(datatype, array.shape, array.tobytes()))


def texts(rows: list[list[bytes]]) -> Array:
    array = np.empty((len(rows), len(rows[0])), dtype=np.object_)
    for index, row in enumerate(rows):
        array[index] = row
    return array


def answers(model: ModelSignature, outputs: dict[str, Array], rows: int) -> list[PartOutput | PoisonError]:
    return split(InferReply("4", outputs), model, [f"p{row}" for row in range(rows)], "route")


def outputs_of(model: ModelSignature, outputs: dict[str, Array], rows: int) -> list[PartOutput]:
    results = answers(model, outputs, rows)
    assert all(isinstance(result, PartOutput) for result in results), results
    return [result for result in results if isinstance(result, PartOutput)]


def faults(results: list[PartOutput | PoisonError]) -> dict[int, str]:
    return {row: result.code for row, result in enumerate(results) if isinstance(result, PoisonError)}


# --- prepare and stack ----------------------------------------------------------------------------------------------


def test_tensors_stack_in_order() -> None:
    model = signature()
    arrays = [np.array([1, 2], "<f4"), np.array([3, 4], "<f4")]
    call = call_of([prepare(tensor_part(array), model, "7", {"b": True, "a": 0.5}) for array in arrays], model)
    assert (call.model, call.version, call.parameters) == ("mill", "7", {"a": 0.5, "b": True})
    np.testing.assert_array_equal(call.inputs["X"], [[1, 2], [3, 4]])
    assert call.inputs["X"].dtype == np.float32


def test_texts_stack_as_objects() -> None:
    model = signature(data=TensorSpec("TEXT", "BYTES", (1,)))
    parts = [Part("p", Modality.TEXT, "text/plain", text) for text in ("river", "mühle")]
    array = stack([prepare(part, model) for part in parts], model)["TEXT"]
    assert array.dtype == np.object_
    assert array.tolist() == [[b"river"], ["mühle".encode()]]


def test_bytes_tensors_stack_by_element() -> None:
    model = signature(data=TensorSpec("WORDS", "BYTES", (2, 2)))
    content = Tensor("BYTES", (2, 2), serialize_bytes([b"a", b"", b"ccc", b"dd"]))
    rows = [prepare(Part("p", Modality.TENSOR, "", content), model)] * 3
    assert stack(rows, model)["WORDS"].tolist() == [[[b"a", b""], [b"ccc", b"dd"]]] * 3


def test_model_that_does_not_batch_gets_no_batch_dimension() -> None:
    model = signature(batch=0)
    row = prepare(tensor_part(np.ones(5, "<f4")), model)
    assert stack([row], model)["X"].shape == (5,)
    assert (max_rows(model), max_rows(signature(batch=64))) == (1, 64)
    with pytest.raises(ValueError, match="does not batch"):
        stack([row, row], model)


def test_bucket_keeps_apart_what_cannot_share_a_call() -> None:
    model = signature()
    short, long = np.ones(2, "<f4"), np.ones(3, "<f4")
    buckets = [
        prepare(tensor_part(short), model).bucket,
        prepare(tensor_part(long), model).bucket,
        prepare(tensor_part(short), model, "2").bucket,
        prepare(tensor_part(short), model, "", {"x": 1}).bucket,
        prepare(tensor_part(short), model, "", {"x": True}).bucket,
        prepare(tensor_part(short), model, "", {"x": 1.0}).bucket,
        prepare(tensor_part(short), model, "", {"x": "1"}).bucket,
    ]
    assert len(set(buckets)) == len(buckets)
    same = prepare(tensor_part(short), model, "", {"x": 1, "y": 2}).bucket
    assert same == prepare(tensor_part(short), model, "", {"y": 2, "x": 1}).bucket


@pytest.mark.parametrize("inputs", [(), (VECTOR, TensorSpec("STATE", "FP32", (320,)))])
def test_model_without_exactly_one_input_is_named(inputs: tuple[TensorSpec, ...]) -> None:
    model = ModelSignature("mill", "1", 8, inputs, ())
    with pytest.raises(PoisonError, match="model mill must have one input") as caught:
        prepare(tensor_part(np.ones(2, "<f4")), model)
    assert (caught.value.stage, caught.value.code) == ("prepare", "UNSUPPORTED_MODEL")


# --- split ----------------------------------------------------------------------------------------------------------


@given(st.data())
def test_stacking_and_splitting_is_identity(data: st.DataObject) -> None:
    """Through a model that hands back its input, each part gets its own bytes, for every datatype and shape."""
    datatype = data.draw(st.sampled_from(DATATYPES))
    shape = data.draw(stnp.array_shapes(max_dims=3, max_side=4))
    dtype = np.dtype(np.bool_) if datatype == "BOOL" else np.dtype(datatype.lower().replace("fp", "float"))
    elements = stnp.from_dtype(dtype, allow_nan=False)
    rows = data.draw(st.lists(stnp.arrays(dtype, shape, elements=elements), min_size=1, max_size=8))
    spec = TensorSpec("X", datatype, tuple(data.draw(st.sampled_from([-1, side])) for side in shape))
    model = signature(TensorSpec("Y", datatype, spec.shape), data=spec)
    call = call_of([prepare(tensor_part(row, datatype), model) for row in rows], model)
    results = outputs_of(model, {"Y": call.inputs["X"]}, len(rows))
    expected = [(NamedTensor("Y", Tensor(datatype, shape, row.tobytes())),) for row in rows]
    assert [result.tensors for result in results] == expected


@given(st.lists(st.lists(st.binary(max_size=9), min_size=2, max_size=2), min_size=1, max_size=8))
def test_bytes_tensors_come_back_serialized(rows: list[list[bytes]]) -> None:
    model = signature(TensorSpec("Y", "BYTES", (2,)), data=TensorSpec("X", "BYTES", (2,)))
    contents = [Tensor("BYTES", (2,), serialize_bytes(row)) for row in rows]
    call = call_of([prepare(Part("p", Modality.TENSOR, "", content), model) for content in contents], model)
    results = outputs_of(model, {"Y": call.inputs["X"]}, len(rows))
    assert [result.tensors[0].tensor for result in results] == contents


def test_output_says_who_answered() -> None:
    model = signature(TensorSpec("Y", "FP32", (1,)))
    first, second = outputs_of(model, {"Y": np.array([[1], [2]], "<f4")}, 2)
    assert (first.part, first.route, first.model, first.model_version, first.batch_size) == (
        "p0",
        "route",
        "mill",
        "4",
        2,
    )
    assert second.part == "p1"


def test_version_falls_back_to_the_signatures() -> None:
    model = signature(TensorSpec("Y", "FP32", (1,)))
    (result,) = split(InferReply("", {"Y": np.zeros((1, 1), "<f4")}), model, ["p"], "route")
    assert isinstance(result, PartOutput)
    assert result.model_version == "3"


def test_labels_with_scores() -> None:
    model = signature(TensorSpec("LABELS", "BYTES", (2,)), TensorSpec("SCORES", "FP32", (2,)))
    outputs = {"LABELS": texts([[b"cat", b"dog"], [b"mill", b""]]), "SCORES": np.array([[0.75, 0.25], [0.5, 0]], "<f4")}
    results = outputs_of(model, outputs, 2)
    assert [result.labels for result in results] == [(Label("cat", 0.75), Label("dog", 0.25)), (Label("mill", 0.5),)]
    assert results[0].tensors == ()


def test_labels_without_scores_are_tensors() -> None:
    model = signature(TensorSpec("LABELS", "BYTES", (1,)))
    (result,) = outputs_of(model, {"LABELS": texts([[b"cat"]])}, 1)
    assert result.labels == ()
    assert result.tensors == (NamedTensor("LABELS", Tensor("BYTES", (1,), b"\x03\0\0\0cat")),)


def test_segments_drop_their_padding() -> None:
    model = signature(TensorSpec("SEGMENTS", "FP32", (-1, 2)))
    nan = math.nan
    spans = np.array([[[0, 1.5], [2, 2.5]], [[nan, nan], [nan, nan]], [[1, 1], [nan, nan]]], "<f4")
    results = outputs_of(model, {"SEGMENTS": spans}, 3)
    assert [result.segments for result in results] == [(Segment(0, 1.5), Segment(2, 2.5)), (), (Segment(1, 1),)]


def test_no_segments_at_all() -> None:
    model = signature(TensorSpec("SEGMENTS", "FP32", (-1, 2)))
    assert outputs_of(model, {"SEGMENTS": np.zeros((2, 0, 2), "<f4")}, 2)[1].segments == ()


@pytest.mark.parametrize("span", [[math.nan, 1], [1, math.nan], [2, 1], [-1, 1]])
def test_impossible_segment_fails_its_row_alone(span: list[float]) -> None:
    model = signature(TensorSpec("SEGMENTS", "FP32", (-1, 2)))
    results = answers(model, {"SEGMENTS": np.array([[[0, 1]], [span]], "<f4")}, 2)
    assert faults(results) == {1: "BAD_MODEL_OUTPUT"}


SPANS = TensorSpec("SEGMENTS", "FP32", (-1, 2))
DESCRIBED = (
    SPANS,
    TensorSpec("SEGMENT_TEXTS", "BYTES", (-1,)),
    TensorSpec("SEGMENT_LABELS", "BYTES", (-1,)),
    TensorSpec("SEGMENT_SCORES", "FP32", (-1,)),
)
NAN = math.nan


def described(**changes: Array) -> dict[str, Array]:
    """Two rows, the second with one span and one row of padding."""
    return {
        "SEGMENTS": np.array([[[0, 1], [2, 3]], [[4, 5], [NAN, NAN]]], "<f4"),
        "SEGMENT_TEXTS": texts([[b"mind", b""], ["mühle".encode(), b"\xff"]]),
        "SEGMENT_LABELS": texts([[b"", b"noise"], [b"speech", b""]]),
        "SEGMENT_SCORES": np.array([[NAN, 0.5], [0.75, NAN]], "<f4"),
        **changes,
    }


def test_segments_have_their_texts_labels_and_scores() -> None:
    results = outputs_of(signature(*DESCRIBED), described(), 2)
    assert results[0].segments == (Segment(0, 1, text="mind"), Segment(2, 3, "noise", 0.5))
    assert results[1].segments == (Segment(4, 5, "speech", 0.75, "mühle"),)
    assert [result.tensors for result in results] == [(), ()]


def test_segments_may_have_texts_alone() -> None:
    outputs = {name: array for name, array in described().items() if name in ("SEGMENTS", "SEGMENT_TEXTS")}
    results = outputs_of(signature(*DESCRIBED[:2]), outputs, 2)
    assert results[0].segments == (Segment(0, 1, text="mind"), Segment(2, 3))


def test_scores_of_segments_without_labels_are_a_tensor() -> None:
    outputs = {name: described()[name] for name in ("SEGMENTS", "SEGMENT_SCORES")}
    (first, second) = answers(signature(SPANS, DESCRIBED[3]), {**outputs, "SEGMENT_SCORES": np.ones((2, 2), "<f4")}, 2)
    assert isinstance(first, PartOutput)
    assert first.segments == (Segment(0, 1), Segment(2, 3))
    assert [named.name for named in first.tensors] == ["SEGMENT_SCORES"]
    assert isinstance(second, PartOutput)


@pytest.mark.parametrize(
    ("changes", "bad"),
    [
        ({"SEGMENT_TEXTS": texts([[b"\xff", b""], [b"", b""]])}, {0: "BAD_MODEL_OUTPUT"}),
        ({"SEGMENT_LABELS": texts([[b"", b""], [b"\xff", b""]])}, {1: "BAD_MODEL_OUTPUT"}),
        ({"SEGMENT_SCORES": np.full((2, 2), NAN, "<f4")}, dict.fromkeys(range(2), "BAD_MODEL_OUTPUT")),
        ({"SEGMENT_TEXTS": texts([[b"one"], [b"one"]])}, dict.fromkeys(range(2), "BAD_MODEL_OUTPUT")),
    ],
    ids=["text is not UTF-8", "label is not UTF-8", "a label's score is NaN", "not one for each span"],
)
def test_bad_description_of_a_segment_is_found(changes: dict[str, Array], bad: dict[int, str]) -> None:
    assert faults(answers(signature(*DESCRIBED), described(**changes), 2)) == bad


def test_text_output() -> None:
    model = signature(TensorSpec("TEXT", "BYTES", (1,)))
    results = answers(model, {"TEXT": texts([["mühle".encode()], [b"\xff"], [b""]])}, 3)
    assert faults(results) == {1: "BAD_MODEL_OUTPUT"}
    assert [result.text for result in results if isinstance(result, PartOutput)] == ["mühle", ""]


def test_rejected_row_fails_alone_with_the_models_words() -> None:
    model = signature(TensorSpec("ERROR", "BYTES", (1,)), TensorSpec("Y", "FP32", (1,)))
    outputs = {"ERROR": texts([[b""], [b"undecodable image"], [b""]]), "Y": np.array([[1], [math.nan], [3]], "<f4")}
    results = answers(model, outputs, 3)
    assert faults(results) == {1: "MODEL_REJECTED"}
    assert str(results[1]) == "model mill: undecodable image"
    assert isinstance(results[0], PartOutput)
    assert [tensor.name for tensor in results[0].tensors] == ["Y"]


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_nan_fails_its_row_alone(datatype: str) -> None:
    model = signature(TensorSpec("Y", datatype, (2,)))
    array = np.array([[1, 2], [3, math.nan], [math.inf, 4]], datatype.lower().replace("fp", "float"))
    assert faults(answers(model, {"Y": array}, 3)) == {1: "BAD_MODEL_OUTPUT"}


def test_nan_score_fails_its_row_alone() -> None:
    model = signature(TensorSpec("LABELS", "BYTES", (1,)), TensorSpec("SCORES", "FP32", (1,)))
    outputs = {"LABELS": texts([[b"a"], [b"b"]]), "SCORES": np.array([[math.nan], [1]], "<f4")}
    assert faults(answers(model, outputs, 2)) == {0: "BAD_MODEL_OUTPUT"}


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (None, "output Y is missing"),
        (np.zeros((1, 2), "<f4"), "has 1 rows, 2 went in"),
        (np.zeros((0, 2), "<f4"), "has 0 rows, 2 went in"),
        (np.float32(1), "has no rows, 2 went in"),
        (np.zeros((2, 2), "<f8"), "has dtype float64, FP32 is declared"),
        (np.zeros((2, 2), ">f4"), "has dtype >f4, FP32 is declared"),
        (np.zeros((2, 3), "<f4"), r"has shape \[3\] a row, FP32\[2\] is declared"),
        (np.zeros((2, 2, 1), "<f4"), r"has shape \[2, 1\] a row"),
    ],
)
def test_reply_that_is_wrong_as_a_whole_fails_every_row(array: Array | None, says: str) -> None:
    model = signature(TensorSpec("Y", "FP32", (2,)))
    results = answers(model, {} if array is None else {"Y": np.asarray(array)}, 2)
    assert faults(results) == {0: "BAD_MODEL_OUTPUT", 1: "BAD_MODEL_OUTPUT"}
    assert results[0] is not results[1]
    with pytest.raises(PoisonError, match=f"model mill: .*{says}") as caught:
        raise results[0]  # type: ignore[misc] # seen above: an error
    assert caught.value.stage == "infer"


@pytest.mark.parametrize(
    ("outputs", "specs"),
    [
        (
            {"LABELS": texts([[b"a", b"b"]]), "SCORES": np.zeros((1, 3), "<f4")},
            (TensorSpec("LABELS", "BYTES", (-1,)), TensorSpec("SCORES", "FP32", (-1,))),
        ),
        ({"SEGMENTS": np.zeros((1, 4, 3), "<f4")}, (TensorSpec("SEGMENTS", "FP32", (-1, -1)),)),
        ({"TEXT": texts([[b"a", b"b"]])}, (TensorSpec("TEXT", "BYTES", (-1,)),)),
        ({"Y": np.zeros((1, 2), "<f4")}, (TensorSpec("Y", "BF16", (2,)),)),
    ],
)
def test_outputs_that_break_their_meaning_are_named(outputs: dict[str, Array], specs: tuple[TensorSpec, ...]) -> None:
    assert faults(answers(signature(*specs), outputs, 1)) == {0: "BAD_MODEL_OUTPUT"}


def test_reply_of_a_model_that_does_not_batch() -> None:
    model = signature(TensorSpec("Y", "FP32", (2,)), batch=0)
    (result,) = outputs_of(model, {"Y": np.array([1, 2], "<f4")}, 1)
    assert result.tensors[0].tensor == Tensor("FP32", (2,), np.array([1, 2], "<f4").tobytes())


def test_outputs_beyond_the_declared_are_left_out() -> None:
    model = signature(TensorSpec("Y", "FP32", (1,)))
    (result,) = outputs_of(model, {"Y": np.zeros((1, 1), "<f4"), "Z": np.zeros((9, 9))}, 1)
    assert [tensor.name for tensor in result.tensors] == ["Y"]


def test_prepared_bucket_is_plain_data() -> None:
    model = signature()
    assert prepare(tensor_part(np.zeros(1, "<f4")), model) == Prepared(b"\0" * 4, 4, Bucket("", (1,), ()))
