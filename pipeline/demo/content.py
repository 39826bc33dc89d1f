"""Whether an outcome says what it has to say of its event. Pure; every check holds on any machine and for any seed."""

from __future__ import annotations

import io
import itertools
import math
import wave
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.pipeline.demo.events import SOUND_PART, SPEECH_PART, Encoded, PlannedEvent
from headrace.pipeline.ports import dtype_of
from headrace.pipeline.records import DeadLetter, InferenceResult, Modality, Part, PartOutput, Tensor

MODELS = {Modality.TEXT: "text_embedding", Modality.IMAGE: "image_jpeg", Modality.AUDIO: "audio_vad"}
"""What the built-in routes answer each modality with."""
EMBEDDING_NUMBERS = 384
LABELS = 5
KNOWN_LABELS = {
    "camera.jpg": "tripod",
    "cat.jpg": "Egyptian cat",
    "coffee.jpg": "espresso",
    "stairs.jpg": "bannister",
    "temple.jpg": "palace",
}
"""Photos that the model knows in every variation: the label was among the first two in 250 of 250, with 0.2 or more."""
LENGTH_TOLERANCE = 0.01
SECONDS_TOLERANCE = 0.01
SCORES_TOLERANCE = 0.001


@dataclass(frozen=True, slots=True)
class Embedded:
    """A text of the run, the bundled sentence it is made of, and its embedding."""

    text: str
    sentence: str
    vector: NDArray[np.float32]


def result_faults(sent: Encoded, key: bytes | None, result: InferenceResult) -> list[str]:
    """What is wrong with the result of a good event, in words; nothing if all is right."""
    request = sent.event.request
    found = []
    if key != sent.event.key:
        found.append(f"its key is {key!r}, {sent.event.key!r} was sent")
    if (result.request_id, result.status) != (request.id, "OK"):
        found.append(f"it is {result.status} for request {result.request_id}, OK for {request.id} was due")
    due, answered = ([part.name for part in request.parts], [output.part for output in result.outputs])
    if due != answered:
        return [*found, f"it answers {_listing(answered)}, {_listing(due)} was due"]
    for part, origin, output in zip(request.parts, sent.event.origins, result.outputs, strict=True):
        found += [f"part {part.name}: {what}" for what in _output_faults(part, origin, output)]
    return found


def letter_faults(sent: Encoded, letter: DeadLetter) -> list[str]:
    """What is wrong with a bad event's dead letter, besides its reason: it has to carry the bytes that were sent."""
    whole = (letter.key, letter.value, letter.omitted_bytes) == (sent.event.key, sent.value, 0)
    return [] if whole else ["its key and value are not the bytes that were sent"]


def embedding(output: PartOutput) -> NDArray[np.float32] | None:
    """The sentence embedding in an output, None unless it is what the model declares: finite, of length 1."""
    tensor = _tensor(output, "EMBEDDING", (EMBEDDING_NUMBERS,))
    if tensor is None or len(output.tensors) != 1:
        return None
    vector = _numbers(tensor)
    length = float(np.linalg.norm(vector))
    return vector if abs(length - 1) <= LENGTH_TOLERANCE else None  # NaN and infinity fail this too


def embeddings(event: PlannedEvent, result: InferenceResult) -> Iterator[Embedded]:
    """Each text of an event; those without a sound embedding are left out."""
    outputs = {output.part: output for output in result.outputs}
    for part, origin in zip(event.request.parts, event.origins, strict=True):
        if part.modality is Modality.TEXT and isinstance(part.content, str) and part.name in outputs:
            vector = embedding(outputs[part.name])
            if vector is not None:
                yield Embedded(part.content, origin, vector)


def nearest_faults(texts: Sequence[Embedded], groups: Mapping[str, int]) -> Iterator[tuple[int, str]]:
    """Rows that are no nearer to the same sentence in another frame than to a sentence of another meaning.

    A sentence that occurs once has nothing to be compared with. This finds embeddings that are each in order, but of
    another row of their batch, or all the same.

    Args:
        texts: all of the run.
        groups: a number for each sentence; those of one number mean the same.
    """
    if not texts:
        return
    sentences = np.array([text.sentence for text in texts])
    meanings = np.array([groups[text.sentence] for text in texts])
    vectors = np.stack([text.vector for text in texts])
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, np.nan)
    for row, values in enumerate(similarity):
        same = values[(sentences == sentences[row]) & ~np.isnan(values)]
        other = values[meanings != meanings[row]]
        if same.size and other.size and same.max() <= other.max():
            stranger = sentences[meanings != meanings[row]][int(other.argmax())]
            yield row, f"its embedding is nearer to {str(stranger)!r} than to its own sentence {texts[row].sentence!r}"


def _output_faults(part: Part, origin: str, output: PartOutput) -> Iterator[str]:
    if output.model != MODELS[part.modality]:
        yield f"it comes from model {output.model}, {MODELS[part.modality]} was due"
        return
    if output.batch_size < 1:
        yield f"it comes from a batch of {output.batch_size}"
    match part.modality:
        case Modality.TEXT:
            if embedding(output) is None:
                yield f"there is no embedding of {EMBEDDING_NUMBERS} finite numbers with length 1"
        case Modality.IMAGE:
            yield from _label_faults(origin, output)
        case _:
            yield from _speech_faults(part, output)


def _label_faults(origin: str, output: PartOutput) -> Iterator[str]:
    scores = [label.score for label in output.labels]
    if len(scores) != LABELS or not all(label.name for label in output.labels):
        yield f"it has {len(scores)} labels, {LABELS} were due"
    elif not _are_top_scores(scores):
        yield f"its scores {scores} are not the largest of probabilities, largest first"
    known = KNOWN_LABELS.get(origin)
    if known is not None and known not in [label.name for label in output.labels]:
        yield f"{known!r} is not among the labels of {origin}"


def _are_top_scores(scores: Sequence[float]) -> bool:
    """NaN fails every comparison."""
    descending = all(first >= second for first, second in itertools.pairwise(scores))
    return descending and scores[0] > 0 and scores[-1] >= 0 and sum(scores) <= 1 + SCORES_TOLERANCE


def _speech_faults(part: Part, output: PartOutput) -> Iterator[str]:
    times = [time for segment in output.segments for time in (segment.start_seconds, segment.end_seconds)]
    if not all(math.isfinite(time) for time in times) or times != sorted(times):
        yield f"its segments {times} are not in order"
    elif times and not 0 <= times[0] < times[-1] <= _duration_seconds(part) + SECONDS_TOLERANCE:
        yield f"its segments {times} are not inside the recording"
    tensor = _tensor(output, "SPEECH_SECONDS", (1,))
    speech = sum(times[1::2]) - sum(times[::2])
    if tensor is None or not abs(float(_numbers(tensor)[0]) - speech) <= SECONDS_TOLERANCE:
        yield "SPEECH_SECONDS is not the length of its segments"
    if part.name == SPEECH_PART and not output.segments:
        yield "no speech was found in a recording of speech"
    if part.name == SOUND_PART and output.segments:
        yield "speech was found in a sound that is none"


def _duration_seconds(part: Part) -> float:
    assert isinstance(part.content, bytes)
    with wave.open(io.BytesIO(part.content)) as clip:
        seconds: float = clip.getnframes() / clip.getframerate()
        return seconds


def _tensor(output: PartOutput, name: str, shape: tuple[int, ...]) -> Tensor | None:
    """The FP32 tensor of this name and shape, None if there is none or its data has another size."""
    wanted = ("FP32", shape, 4 * math.prod(shape))
    for item in output.tensors:
        if item.name == name and (item.tensor.datatype, item.tensor.shape, len(item.tensor.data)) == wanted:
            return item.tensor
    return None


def _numbers(tensor: Tensor) -> NDArray[np.float32]:
    numbers: NDArray[np.float32] = np.frombuffer(tensor.data, dtype_of(tensor.datatype))
    return numbers


def _listing(names: Sequence[str]) -> str:
    return f"parts {', '.join(names)}" if names else "no part"
