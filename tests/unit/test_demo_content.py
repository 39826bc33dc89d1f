from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.pipeline.demo import assets as bundled
from headrace.pipeline.demo import showcase
from headrace.pipeline.demo.assets import Assets
from headrace.pipeline.demo.check import Fault, Position
from headrace.pipeline.demo.content import KNOWN_LABELS, letter_faults, result_faults
from headrace.pipeline.demo.events import Defect, Encoded, Kind, PlannedEvent, plan
from headrace.pipeline.demo.observe import Observations
from headrace.pipeline.outcomes import Outcome
from headrace.pipeline.records import (
    DeadLetter,
    InferenceResult,
    Label,
    Modality,
    NamedTensor,
    Part,
    PartOutput,
    Provenance,
    Segment,
    SourceRecord,
    Tensor,
    Timings,
)

Change = Callable[[PartOutput], PartOutput]


def fp32(name: str, values: NDArray[np.float32]) -> NamedTensor:
    return NamedTensor(name, Tensor("FP32", values.shape, values.astype("<f4").tobytes()))


def vector_of(sentence: str) -> NDArray[np.float32]:
    """The same for the same sentence, and far from that of any other."""
    found = np.random.default_rng(list(sentence.encode())).normal(size=384)
    return (found / np.linalg.norm(found)).astype(np.float32)


def embedding(values: NDArray[np.float32]) -> Change:
    return lambda output: replace(output, tensors=(fp32("EMBEDDING", values),))


def speech(*segments: tuple[float, float]) -> Change:
    seconds = np.array([sum(end - start for start, end in segments)], np.float32)
    return lambda output: replace(
        output, segments=tuple(Segment(*span) for span in segments), tensors=(fp32("SPEECH_SECONDS", seconds),)
    )


def scores(*values: float) -> Change:
    return lambda output: replace(
        output,
        labels=tuple(Label(label.name, score) for label, score in zip(output.labels, values, strict=True)),
    )


def good_output(part: Part, origin: str) -> PartOutput:
    output = PartOutput(part.name, part.modality.lower(), "", "1")
    match part.modality:
        case Modality.TEXT:
            return embedding(vector_of(origin))(replace(output, model="text_embedding"))
        case Modality.IMAGE:
            names = (KNOWN_LABELS.get(origin, "bubble"), "a", "b", "c", "d")
            labels = tuple(Label(name, score) for name, score in zip(names, (0.5, 0.2, 0.1, 0.1, 0.0), strict=True))
            return replace(output, model="image_jpeg", labels=labels)
        case _:
            segments = ((0.5, 1.25),) if part.name == "speech" else ()
            return speech(*segments)(replace(output, model="audio_vad"))


def good_result(event: PlannedEvent, offset: int = 0) -> InferenceResult:
    outputs = tuple(map(good_output, event.request.parts, event.origins))
    where = Provenance("requests", 0, offset, 0)
    return InferenceResult(event.request.id, "OK", outputs, where, Timings(0, 0, 0), 1, "headrace-demo-0", 1)


def letter_of(sent: Encoded, offset: int = 0) -> DeadLetter:
    code = min(sent.event.expected.codes)
    where = Provenance("requests", 0, offset, 0)
    return DeadLetter(sent.event.key, sent.value, (), where, "decode", code, "bad", 1, 0, 0, "headrace-demo-0")


@pytest.fixture(scope="module")
def assets() -> Assets:
    return bundled.load()


@pytest.fixture(scope="module")
def sent(assets: Assets) -> list[Encoded]:
    return [Encoded(event, b"value %d" % event.index) for event in plan(480, 7, assets, 0)]


def one(sent: list[Encoded], kind: Kind, origin: str = "") -> Encoded:
    return next(
        item
        for item in sent
        if item.event.kind is kind and not item.event.defect and (not origin or origin in item.event.origins)
    )


def faults(sent: Encoded, change: Change) -> list[str]:
    """What is found when the last part's output is changed."""
    result = good_result(sent.event)
    changed = replace(result, outputs=(*result.outputs[:-1], change(result.outputs[-1])))
    return result_faults(sent, sent.event.key, changed)


def test_right_results_have_no_fault(sent: list[Encoded]) -> None:
    good = [item for item in sent if not item.event.defect]
    assert [fault for item in good for fault in result_faults(item, item.event.key, good_result(item.event))] == []


def test_result_with_a_part_missing_doubled_or_renamed_is_found(sent: list[Encoded]) -> None:
    item = one(sent, Kind.ALL)
    result = good_result(item.event)
    first, *rest = result.outputs
    for outputs in ((), tuple(rest), (first, *result.outputs), (replace(first, part="other"), *rest)):
        found = result_faults(item, item.event.key, replace(result, outputs=outputs))
        assert len(found) == 1
        assert "parts text, photo, speech was due" in found[0]


def test_result_of_another_request_or_key_or_status_is_found(sent: list[Encoded]) -> None:
    item = one(sent, Kind.TEXT)
    result = good_result(item.event)
    assert len(result_faults(item, item.event.key, replace(result, request_id="other"))) == 1
    assert len(result_faults(item, item.event.key, replace(result, status="PARTIAL"))) == 1
    assert len(result_faults(item, b"other", result)) == 1


@pytest.mark.parametrize("kind", [Kind.TEXT, Kind.PHOTO, Kind.SPEECH, Kind.SOUND])
def test_output_of_another_model_or_of_no_batch_is_found(sent: list[Encoded], kind: Kind) -> None:
    item = one(sent, kind)
    assert "comes from model identity" in faults(item, lambda output: replace(output, model="identity"))[0]
    assert "batch of 0" in faults(item, lambda output: replace(output, batch_size=0))[0]


@pytest.mark.parametrize(
    "change",
    [
        embedding(np.zeros(384, np.float32)),
        embedding(np.full(384, np.nan, np.float32)),
        embedding(np.full(384, np.inf, np.float32)),
        embedding(vector_of("a")[:383] / np.linalg.norm(vector_of("a")[:383])),
        embedding(vector_of("a").reshape(1, 384)),
        embedding(vector_of("a") * 2),
        lambda output: replace(output, tensors=()),
        lambda output: replace(output, tensors=(fp32("OTHER", vector_of("a")),)),
        lambda output: replace(output, tensors=output.tensors * 2),
        lambda output: replace(output, tensors=(NamedTensor("EMBEDDING", Tensor("FP32", (384,), b"\0" * 12)),)),
        lambda output: replace(output, tensors=(NamedTensor("EMBEDDING", Tensor("INT32", (384,), b"\0" * 1536)),)),
    ],
)
def test_unsound_embedding_is_found_and_not_shown(sent: list[Encoded], change: Change) -> None:
    item = one(sent, Kind.TEXT)
    assert len(faults(item, change)) == 1
    result = good_result(item.event)
    assert showcase.neighbours([(item.event, replace(result, outputs=(change(result.outputs[0]),)))]) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda output: replace(output, labels=()),
        lambda output: replace(output, labels=output.labels[:4]),
        lambda output: replace(output, labels=(Label("", 0.9), *output.labels[1:])),
        scores(0, 0, 0, 0, 0),
        scores(0.5, 0.2, math.nan, 0.1, 0.1),
        scores(math.inf, 0.2, 0.1, 0.1, 0.1),
        scores(0.1, 0.2, 0.3, 0.1, 0.1),
        scores(0.9, 0.9, 0.9, 0.9, 0.9),
        scores(0.5, 0.2, 0.1, 0.1, -0.1),
    ],
)
def test_labels_without_sound_scores_are_found(sent: list[Encoded], change: Change) -> None:
    assert len(faults(one(sent, Kind.PHOTO, "raccoon.jpg"), change)) == 1


def test_known_photo_without_its_label_is_found(sent: list[Encoded]) -> None:
    def without(output: PartOutput) -> PartOutput:
        return replace(output, labels=(Label("screw", 0.5), *output.labels[1:]))

    assert faults(one(sent, Kind.PHOTO, "coffee.jpg"), without) == [
        "part photo: 'espresso' is not among the labels of coffee.jpg"
    ]
    assert faults(one(sent, Kind.PHOTO, "raccoon.jpg"), without) == []


@pytest.mark.parametrize(
    "change",
    [
        speech(),
        speech((1.0, 0.5)),
        speech((0.5, 0.9), (0.7, 1.2)),
        speech((math.nan, 1.0)),
        speech((-0.5, 1.0)),
        speech((0.5, 100.0)),
        speech((0.5, 0.5)),
        lambda output: replace(output, tensors=()),
        lambda output: replace(output, tensors=(fp32("SPEECH_SECONDS", np.array([2.0], np.float32)),)),
        lambda output: replace(output, tensors=(fp32("SPEECH_SECONDS", np.array([np.nan], np.float32)),)),
    ],
)
def test_wrong_speech_segments_are_found(sent: list[Encoded], change: Change) -> None:
    assert faults(one(sent, Kind.TEXT_SPEECH), change) != []


def test_speech_in_a_sound_that_is_none_is_found(sent: list[Encoded]) -> None:
    assert faults(one(sent, Kind.SOUND), speech((0.2, 0.9))) == ["part sound: speech was found in a sound that is none"]


def test_dead_letter_without_the_original_bytes_is_found(sent: list[Encoded]) -> None:
    item = next(item for item in sent if item.event.defect)
    letter = letter_of(item)
    assert letter_faults(item, letter) == []
    for changed in (replace(letter, value=b""), replace(letter, key=None), replace(letter, omitted_bytes=1)):
        assert len(letter_faults(item, changed)) == 1


def record(key: bytes | None, offset: int) -> SourceRecord:
    return SourceRecord(Provenance("out", 0, offset, 0), key, struct.pack("i", offset), ())


class Run:
    """All events answered as they should be, but for the results that a test changes."""

    def __init__(self, sent: list[Encoded], assets: Assets) -> None:
        self.observations = Observations()
        self._sent, self._assets = sent, assets
        self.changed: dict[int, InferenceResult] = {}

    def faults(self) -> list[tuple[Fault, Position]]:
        for offset, item in enumerate(self._sent):
            self.observations.delivered(item, Position("requests", 0, offset), 0.0)
            said = (
                letter_of(item, offset)
                if item.event.defect and offset not in self.changed
                else self.changed.get(offset, good_result(item.event, offset))
            )
            self.observations.seen(Outcome(record(item.event.key, offset), said), 0.1)
        verdict = self.observations.verdict(self._assets.sentences)
        assert verdict.passed == (not verdict.findings)
        return [(finding.fault, finding.position) for finding in verdict.findings]


@pytest.fixture
def whole(sent: list[Encoded], assets: Assets) -> Run:
    return Run(sent, assets)


def test_verdict_passes_when_all_content_is_right(whole: Run) -> None:
    assert whole.faults() == []


def test_verdict_fails_for_a_result_without_content(whole: Run, sent: list[Encoded]) -> None:
    offset = one(sent, Kind.TEXT).event.index
    whole.changed[offset] = replace(good_result(sent[offset].event, offset), outputs=())
    assert whole.faults() == [(Fault.WRONG_CONTENT, Position("requests", 0, offset))]


def test_verdict_fails_when_two_texts_have_each_others_embedding(whole: Run, sent: list[Encoded]) -> None:
    texts = [item.event for item in sent if item.event.kind is Kind.TEXT and not item.event.defect]
    first, second = texts[0], next(event for event in texts if event.origins != texts[0].origins)
    for event, other in ((first, second), (second, first)):
        result = good_result(event, event.index)
        whole.changed[event.index] = replace(
            result, outputs=tuple(embedding(vector_of(other.origins[0]))(output) for output in result.outputs)
        )
    found = whole.faults()
    assert {Position("requests", 0, event.index) for event in (first, second)} <= {position for _, position in found}
    assert {fault for fault, _ in found} == {Fault.WRONG_CONTENT}


def test_verdict_fails_when_all_texts_have_the_same_embedding(whole: Run, sent: list[Encoded]) -> None:
    for item in sent:
        if item.event.kind is Kind.TEXT and not item.event.defect:
            result = good_result(item.event, item.event.index)
            outputs = tuple(embedding(vector_of("same"))(output) for output in result.outputs)
            whole.changed[item.event.index] = replace(result, outputs=outputs)
    assert len(whole.faults()) > 100


def test_result_of_a_bad_event_is_a_wrong_kind_and_nothing_else(whole: Run, sent: list[Encoded]) -> None:
    bad = next(item.event for item in sent if item.event.defect is Defect.EMPTY_PARTS)
    whole.changed[bad.index] = replace(
        good_result(replace(bad, origins=())), provenance=Provenance("requests", 0, bad.index, 0)
    )
    assert whole.faults() == [(Fault.WRONG_KIND, Position("requests", 0, bad.index))]
    assert bad not in [event for event, _ in whole.observations.answers()]
