"""What the demo sends, and what must come of it. Pure."""

from __future__ import annotations

import enum
import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from headrace.pipeline.demo import augment
from headrace.pipeline.demo.assets import Assets, Photo
from headrace.pipeline.demo.events import without_scan
from headrace.pipeline.demo.resilience import scene
from headrace.pipeline.records import InferenceRequest, Modality, Part, Tensor

SOURCE = "headrace/demo-resilience"


class Kind(enum.StrEnum):
    """What an event is there to show."""

    TEXT = "text"
    AMOUNT = "amount that was put off"
    STUCK = "amount that was put off too often"
    PHOTO = "photo"
    SOUND = "sound without a route"
    BROKEN = "broken photo"


@dataclass(frozen=True, slots=True)
class Fate:
    """What must come of an event.

    Attributes:
        models: any of them may answer it; none if nobody can.
        put_off: least times that it waits in a delay topic.
        code: of its dead letter; empty if it has none.
        redriven: whether the dead letter is redriven, and answered then.
    """

    models: frozenset[str]
    put_off: int = 0
    code: str = ""
    redriven: bool = False


FATES: Mapping[Kind, Fate] = {
    Kind.TEXT: Fate(frozenset({scene.TEXT_MODEL})),
    Kind.AMOUNT: Fate(frozenset({scene.AMOUNT_MODEL}), put_off=1),
    Kind.STUCK: Fate(
        frozenset({scene.AMOUNT_MODEL}), put_off=len(scene.DELAYS), code="RETRIES_EXHAUSTED", redriven=True
    ),
    Kind.PHOTO: Fate(frozenset({scene.PHOTO_MODEL, scene.FALLBACK})),
    Kind.SOUND: Fate(frozenset({scene.SOUND_MODEL}), code="NO_ROUTE", redriven=True),
    Kind.BROKEN: Fate(frozenset(), code="MODEL_REJECTED"),
}


@dataclass(frozen=True, slots=True)
class Planned:
    """An event before it is sent."""

    kind: Kind
    key: bytes
    request: InferenceRequest


class Planner:
    """Makes events, one by one.

    Args:
        seed: the same seed and the same calls give the same events, but for times.
        assets: the bundled data.
    """

    def __init__(self, seed: int, assets: Assets) -> None:
        self._rng = np.random.default_rng(seed)
        self._sentences = [sentence for group in assets.sentences for sentence in group]
        self._jpegs = [photo for photo in assets.photos if photo.content_type == "image/jpeg"]
        self._speech = assets.speech

    def text(self, now_ms: int) -> Planned:
        """A sentence. All times are epoch milliseconds."""
        words = augment.sentence(self._rng, self._sentences[int(self._rng.integers(len(self._sentences)))])
        return self._event(Kind.TEXT, Part("text", Modality.TEXT, "text/plain", words), now_ms)

    def photo(self, now_ms: int) -> Planned:
        return self._event(Kind.PHOTO, self._photo_part(), now_ms)

    def broken_photo(self, now_ms: int) -> Planned:
        """Its format and size can be read, pixels there are none: the model refuses it."""
        return self._event(Kind.BROKEN, without_scan(self._photo_part()), now_ms)

    def sound(self, now_ms: int) -> Planned:
        clip = self._speech[int(self._rng.integers(len(self._speech)))]
        part = Part("sound", Modality.AUDIO, "audio/wav", augment.speech(self._rng, clip))
        return self._event(Kind.SOUND, part, now_ms)

    def amount(self, kind: Kind, now_ms: int) -> Planned:
        """A number, for the model that needs a file."""
        tensor = Tensor("FP32", (1,), struct.pack("<f", self._rng.uniform(1, 100)))
        return self._event(kind, Part("amount", Modality.TENSOR, "", tensor), now_ms)

    def _photo_part(self) -> Part:
        original: Photo = self._jpegs[int(self._rng.integers(len(self._jpegs)))]
        photo = augment.photo(self._rng, original)
        return Part("photo", Modality.IMAGE, photo.content_type, photo.data)

    def _event(self, kind: Kind, part: Part, now_ms: int) -> Planned:
        identity = uuid.UUID(bytes=self._rng.bytes(16), version=4)
        request = InferenceRequest(
            id=str(identity),
            type=f"demo.{kind.name.lower()}",
            source=SOURCE,
            time_ms=now_ms,
            parts=(part,),
        )
        return Planned(kind, identity.bytes[:2].hex().encode(), request)
