"""What frames say becomes what the video says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.codecs.tensor import serialize_bytes
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.inference import Bucket, Prepared, answers, call_of, with_frames
from headrace.pipeline.ports import Frames, InferReply, ModelSignature, TensorSpec
from headrace.pipeline.records import Label, NamedTensor, PartOutput, Segment, Tensor
from headrace.pipeline.timeline import FRAME_SECONDS, merged


def frames(*seconds: float, end: float) -> Frames:
    return Frames(tuple(b"%d" % index for index in range(len(seconds))), seconds, end)


def said(*labels: tuple[str, float], text: str | None = None, tensors: tuple[NamedTensor, ...] = ()) -> PartOutput:
    named = tuple(Label(name, score) for name, score in labels)
    return PartOutput("clip", "video", "m", "1", tensors=tensors, labels=named, text=text, batch_size=9)


def one(rows: list[PartOutput], shown: Frames) -> PartOutput:
    output = merged(rows, shown)
    assert isinstance(output, PartOutput)
    return output


def test_labels_are_means_over_all_frames_and_a_missing_one_counts_nothing() -> None:
    rows = [said(("cat", 0.75), ("dog", 0.25)), said(("dog", 0.5), ("fox", 0.25)), said(("cat", 0.5), ("dog", 0.25))]
    output = one(rows, frames(0, 1, 2, end=3))
    assert [label.name for label in output.labels] == ["cat", "dog"]  # as many as the model gives for one frame
    assert [label.score for label in output.labels] == pytest.approx([1.25 / 3, 1 / 3])


def test_frames_of_the_same_best_label_are_one_segment_with_its_mean_score() -> None:
    rows = [said(("cat", 0.75)), said(("cat", 0.25)), said(("dog", 0.9)), said(("cat", 0.5))]
    output = one(rows, frames(0, 1, 2.5, 4, end=4.75))
    assert output.segments == (
        Segment(0, 2.5, "cat", 0.5),
        Segment(2.5, 4, "dog", 0.9),
        Segment(4, 4.75, "cat", 0.5),
    )


def test_best_label_is_the_one_of_the_highest_score_wherever_it_stands() -> None:
    assert one([said(("dog", 0.1), ("cat", 0.8))], frames(0, end=1)).segments == (Segment(0, 1, "cat", 0.8),)


def test_frame_without_labels_is_in_no_segment() -> None:
    output = one([said(("cat", 0.8)), said(), said(("cat", 0.6))], frames(0, 1, 2, end=3))
    assert output.segments == (Segment(0, 1, "cat", 0.8), Segment(2, 3, "cat", 0.6))


def test_texts_of_frames_are_texts_of_segments() -> None:
    output = one([said(text="EXIT"), said(text="EXIT"), said(text="STOP")], frames(0, 1, 2, end=3))
    assert output.text is None
    assert output.segments == (Segment(0, 2, text="EXIT"), Segment(2, 3, text="STOP"))


def test_tensors_are_stacked_with_their_times() -> None:
    def row(value: int) -> PartOutput:
        vector = Tensor("FP32", (2,), np.array([value, -value], "<f4").tobytes())
        words = Tensor("BYTES", (1,), serialize_bytes([b"w%d" % value]))
        return said(tensors=(NamedTensor("EMBEDDING", vector), NamedTensor("WORDS", words)))

    output = one([row(1), row(2), row(3)], frames(0, 0.5, 1, end=1.5))
    embedding, words, seconds = output.tensors
    assert (embedding.name, embedding.tensor.datatype, embedding.tensor.shape) == ("EMBEDDING", "FP32", (3, 2))
    assert np.frombuffer(embedding.tensor.data, "<f4").tolist() == [1, -1, 2, -2, 3, -3]
    assert words.tensor == Tensor("BYTES", (3, 1), serialize_bytes([b"w1", b"w2", b"w3"]))
    assert seconds == NamedTensor(FRAME_SECONDS, Tensor("FP64", (3,), np.array([0, 0.5, 1], "<f8").tobytes()))


def test_output_of_the_model_that_is_named_as_the_times_gives_way() -> None:
    tensor = NamedTensor(FRAME_SECONDS, Tensor("INT64", (1,), bytes(8)))
    output = one([said(tensors=(tensor,)), said(tensors=(tensor,))], frames(0, 1, end=2))
    assert [(named.name, named.tensor.datatype) for named in output.tensors] == [(FRAME_SECONDS, "FP64")]


def test_frame_that_fails_fails_the_video_and_is_named() -> None:
    error = PoisonError("infer", "MODEL_REJECTED", "model m: too dark")
    outcome = merged([said(("cat", 1.0)), error, said(("cat", 1.0))], frames(0, 1.5, 3, end=4))
    assert isinstance(outcome, PoisonError)
    assert (outcome.stage, outcome.code) == ("infer", "MODEL_REJECTED")
    assert outcome.message == "frame 2 of 3, at 1.50 s: model m: too dark"


@given(
    st.lists(st.dictionaries(st.sampled_from("abcd"), st.floats(0, 1), max_size=3), min_size=1, max_size=12),
    st.floats(0.1, 10),
)
def test_segments_cover_labelled_frames_in_order_without_overlap(scores: list[dict[str, float]], last: float) -> None:
    times = frames(*map(float, range(len(scores))), end=len(scores) - 1 + last)
    output = one([said(*each.items()) for each in scores], times)
    ends = [0.0]
    for segment in output.segments:
        assert ends[-1] <= segment.start_seconds <= segment.end_seconds
        ends.append(segment.end_seconds)
    labelled = [index for index, each in enumerate(scores) if each]
    covered = [
        index for index in range(len(scores))
        if any(s.start_seconds <= index < s.end_seconds or s.start_seconds == index for s in output.segments)
    ]  # fmt: skip
    assert covered == labelled
    assert all(0 <= label.score <= 1 for label in output.labels)


# --- with the call around it


OUTPUTS = (TensorSpec("LABELS", "BYTES", (1,)), TensorSpec("SCORES", "FP32", (1,)))
IMAGES = ModelSignature("m", "1", 8, (TensorSpec("IN", "BYTES", (1,)),), OUTPUTS)
BUCKET = Bucket("", (1,), ())


def test_video_between_images_has_its_own_rows_of_the_call() -> None:
    image = Prepared((b"i",), 1, BUCKET)
    clip = with_frames(Prepared((b"mp4",), 3, BUCKET), frames(0, 1, 2, end=3))
    assert (clip.rows, clip.weight_bytes, image.rows) == (3, 3, 1)
    parts = [image, clip, image]
    rows = call_of(parts, IMAGES).inputs["IN"]
    assert rows.tolist() == [[b"i"], [b"0"], [b"1"], [b"2"], [b"i"]]

    names = np.array([[b"x"], [b"cat"], [b"cat"], [b"dog"], [b"y"]], np.object_)
    reply = InferReply("1", {"LABELS": names, "SCORES": np.ones((5, 1), "<f4")})
    outcomes = answers(reply, IMAGES, ["a", "clip", "b"], parts, "r")
    assert all(isinstance(outcome, PartOutput) for outcome in outcomes)
    first, video, last = (outcome for outcome in outcomes if isinstance(outcome, PartOutput))
    assert (first.labels, last.labels) == ((Label("x", 1.0),), (Label("y", 1.0),))
    assert (first.part, video.part, last.part) == ("a", "clip", "b")
    assert [(segment.label, segment.end_seconds) for segment in video.segments] == [("cat", 2), ("dog", 3)]
    assert {first.batch_size, video.batch_size, last.batch_size} == {5}


def test_model_that_does_not_batch_takes_a_video_of_one_frame() -> None:
    single = ModelSignature("m", "1", 0, IMAGES.inputs, IMAGES.outputs)
    clip = with_frames(Prepared((b"mp4",), 3, BUCKET), frames(0, end=3))
    assert call_of([clip], single).inputs["IN"].tolist() == [b"0"]
