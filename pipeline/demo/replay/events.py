"""The demo's history: events of photos, texts and sounds, and what the photos show. Pure."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.pipeline.demo import augment
from headrace.pipeline.demo.assets import Assets, Photo
from headrace.pipeline.demo.replay import cameras

SUBJECTS = {
    "camera.jpg": "tripod",
    "clock.png": "wall clock",
    "coffee.jpg": "espresso",
    "officer.jpg": "military uniform",
    "stairs.jpg": "bannister",
    "temple.jpg": "palace",
}
"""What a photo shows, where one of the model's 1,000 classes says it and no other does. As people see it: some of them
the model gets wrong."""
LABELLED_SHARE = 0.6
"""Of the photos: the others show what has no class, or several. Nobody labels everything."""
SHARES = {"photo": 0.55, "captioned": 0.05, "text": 0.25, "sound": 0.15}
SPEECH_SHARE = 0.7
SENDERS = 400
PHOTO_PART = "photo"


@dataclass(frozen=True, slots=True)
class PlannedPart:
    """One part: a text, or a file that is to be written.

    Attributes:
        name: the part's.
        text: None if it is a file.
        file: its path beside the events' file.
        data: the file's bytes.
        label: what it shows; None if nobody said.
    """

    name: str
    text: str | None = None
    file: str = ""
    data: bytes = b""
    label: str | None = None


@dataclass(frozen=True, slots=True)
class PlannedEvent:
    """An event before it is sent."""

    id: str
    type: str
    source: str
    key: str
    parts: tuple[PlannedPart, ...]

    def line(self) -> dict[str, Any]:
        """As ``headrace send -`` reads it."""
        parts = [
            {"name": part.name, **({"file": part.file} if part.text is None else {"text": part.text})}
            for part in self.parts
        ]
        return {"id": self.id, "type": self.type, "source": self.source, "key": self.key, "parts": parts}


def plan(count: int, seed: int, assets: Assets) -> Iterator[PlannedEvent]:
    """The events in the order of sending, made one by one.

    Args:
        count: how many.
        seed: the same seed gives the same events, byte by byte, and of more events these are the first.
        assets: the bundled data.
    """
    rng = np.random.default_rng(seed)
    shots = _shots(rng, assets)
    for index in range(count):
        kind = str(rng.choice([*SHARES], p=[*SHARES.values()]))
        shot = next(shots) if kind in ("photo", "captioned") else None
        yield _event(np.random.default_rng([seed, index]), index, kind, shot, assets)


@dataclass(frozen=True, slots=True)
class _Shot:
    """Which camera is to see what."""

    camera: str
    photo: Photo


def _shots(rng: np.random.Generator, assets: Assets) -> Iterator[_Shot]:
    """For ever. Each camera sees each labelled photo as often as any other, so that they can be compared."""
    labelled = [photo for photo in assets.photos if photo.name in SUBJECTS]
    others = [photo for photo in assets.photos if photo.name not in SUBJECTS]
    due: Iterator[_Shot] = itertools.chain.from_iterable(_rounds(rng, labelled))
    while True:
        if rng.random() < LABELLED_SHARE:
            yield next(due)
        else:
            camera = cameras.CAMERAS[int(rng.integers(len(cameras.CAMERAS)))]
            yield _Shot(camera, others[int(rng.integers(len(others)))])


def _rounds(rng: np.random.Generator, photos: list[Photo]) -> Iterator[list[_Shot]]:
    every = [_Shot(camera, photo) for camera in cameras.CAMERAS for photo in photos]
    while True:
        yield [every[place] for place in rng.permutation(len(every))]


def _event(rng: np.random.Generator, index: int, kind: str, shot: _Shot | None, assets: Assets) -> PlannedEvent:
    source, parts = "chat/web", []
    if shot is not None:
        source = shot.camera
        parts.append(_photo(rng, index, shot))
    if kind in ("text", "captioned"):
        parts.append(PlannedPart("text", text=_sentence(rng, assets)))
    if kind == "sound":
        source = "phones/line-1"
        parts.append(_sound(rng, index, assets))
    return PlannedEvent(
        id=str(uuid.UUID(bytes=rng.bytes(16), version=4)),
        type=f"demo.{kind}",
        source=source,
        key=f"sender-{int(rng.integers(SENDERS)):03d}",
        parts=tuple(parts),
    )


def _photo(rng: np.random.Generator, index: int, shot: _Shot) -> PlannedPart:
    data = cameras.taken(rng, shot.camera, shot.photo)
    return PlannedPart(PHOTO_PART, file=f"media/{index:05d}.jpg", data=data, label=SUBJECTS.get(shot.photo.name))


def _sentence(rng: np.random.Generator, assets: Assets) -> str:
    group = assets.sentences[int(rng.integers(len(assets.sentences)))]
    return augment.sentence(rng, group[int(rng.integers(len(group)))])


def _sound(rng: np.random.Generator, index: int, assets: Assets) -> PlannedPart:
    if rng.random() < SPEECH_SHARE:
        data = augment.speech(rng, assets.speech[int(rng.integers(len(assets.speech)))])
    else:
        _, data = augment.sound(rng)
    return PlannedPart("sound", file=f"media/{index:05d}.wav", data=data)
