"""A few results as people like to read them, chosen from a whole run. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headrace.pipeline.demo.content import embeddings
from headrace.pipeline.demo.events import PlannedEvent
from headrace.pipeline.outcomes import Outcome
from headrace.pipeline.present import finding
from headrace.pipeline.records import DeadLetter, InferenceResult, Modality, PartOutput

PHOTOS = ("coffee.jpg", "cat.jpg", "rocket.jpg")
"""Shown first if they are there: most people can tell at a glance whether the labels are right."""
SHOWN = 3
LETTERS_SHOWN = 7


@dataclass(frozen=True, slots=True)
class Shown:
    """One result: the kind of its input, the input, and what the model found."""

    kind: str
    subject: str
    finding: str


Answer = tuple[PlannedEvent, InferenceResult]


def photos(answers: Sequence[Answer]) -> list[Shown]:
    """Top labels of a few photos, each photo once."""
    found = _by_origin(answers, Modality.IMAGE)
    order = [name for name in PHOTOS if name in found] + [name for name in found if name not in PHOTOS]
    return [Shown("photo", name, finding(found[name])) for name in order[:SHOWN]]


def audio(answers: Sequence[Answer]) -> list[Shown]:
    """Speech segments of two recordings, and what became of a sound that is no speech."""
    found = _by_origin(answers, Modality.AUDIO)
    speech = [name for name in found if name.endswith(".wav")]
    sounds = [name for name in found if not name.endswith(".wav")]
    shown = [Shown("speech", name, finding(found[name])) for name in speech[: SHOWN - 1]]
    return shown + [Shown("sound", name, finding(found[name])) for name in sounds[:1]]


def neighbours(answers: Sequence[Answer]) -> list[Shown]:
    """The sentences that have the nearest other sentence in the run, by cosine over the returned embeddings."""
    texts = [text for event, result in answers for text in embeddings(event, result)]
    if len({item.sentence for item in texts}) < 2:
        return []
    vectors = np.stack([item.vector for item in texts])
    sentences = np.array([item.sentence for item in texts])
    similarity = np.where(sentences[:, None] == sentences[None, :], -np.inf, vectors @ vectors.T)
    shown: list[Shown] = []
    used: set[str] = set()
    for index in np.argsort(-similarity.max(axis=1)):
        nearest = int(np.argmax(similarity[index]))
        pair = {texts[index].sentence, texts[nearest].sentence}
        if used.isdisjoint(pair):
            used |= pair
            found = f"nearest: {texts[nearest].text} ({similarity[index, nearest]:.2f})"
            shown.append(Shown("sentence", texts[index].text, found))
    return shown[:SHOWN]


def letters(found: Sequence[tuple[PlannedEvent, Outcome]]) -> list[Shown]:
    """One dead letter of each defect, with its reason."""
    shown: dict[str, Shown] = {}
    for event, outcome in found:
        letter = outcome.content
        assert isinstance(letter, DeadLetter)
        kind = str(event.defect or "not planted")
        shown.setdefault(kind, Shown(kind, f"{letter.stage}/{letter.code}", letter.message))
    return list(shown.values())[:LETTERS_SHOWN]


def _by_origin(answers: Sequence[Answer], modality: Modality) -> dict[str, PartOutput]:
    """The first output for each bundled file or sound of a modality."""
    found: dict[str, PartOutput] = {}
    for event, result in answers:
        outputs = {output.part: output for output in result.outputs}
        for part, origin in zip(event.request.parts, event.origins, strict=True):
            if part.modality is modality and part.name in outputs:
                found.setdefault(origin, outputs[part.name])
    return found
