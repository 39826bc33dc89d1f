"""What the demo sends: a plan of events, good and bad, that depends on nothing but the seed. Pure."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from headrace.pipeline import wire
from headrace.pipeline.avro import Contract
from headrace.pipeline.demo import augment
from headrace.pipeline.demo.assets import Assets
from headrace.pipeline.demo.check import Expected
from headrace.pipeline.records import InferenceRequest, Modality, Part
from headrace.pipeline.wire import Poison

SOURCE = "headrace/demo"
BAD_SHARE = 0.03
KEYS = 40
"""Distinct record keys: as many senders whose results stay in order."""
UNKNOWN_MODEL_NAME = "no_such_model"
UNKNOWN_SCHEMA_ID = 2_000_000_000
SPEECH_PART = "speech"
SOUND_PART = "sound"
"""Which of a recording's two kinds it is, the name of its part says."""
TRUNCATED_WAV_BYTES = 30
"""Inside the header of 44 bytes."""
JPEG_HUFFMAN_TABLE = b"\xff\xc4"
JPEG_END = b"\xff\xd9"


class Kind(enum.StrEnum):
    """What an event carries."""

    TEXT = "text"
    PHOTO = "photo"
    SPEECH = "speech"
    SOUND = "sound"
    TEXT_PHOTO = "text and photo"
    TEXT_SPEECH = "text and speech"
    ALL = "text, photo and speech"


SHARES = {
    Kind.TEXT: 0.36,
    Kind.PHOTO: 0.22,
    Kind.SPEECH: 0.14,
    Kind.SOUND: 0.08,
    Kind.TEXT_PHOTO: 0.10,
    Kind.TEXT_SPEECH: 0.06,
    Kind.ALL: 0.04,
}


class Defect(enum.StrEnum):
    """How a planted event is bad."""

    CORRUPT_AVRO = "corrupt Avro"
    CORRUPT_JPEG = "corrupt JPEG"
    TRUNCATED_WAV = "truncated WAV"
    UNKNOWN_MODEL = "unknown model"
    UNKNOWN_SCHEMA = "unknown schema id"
    EMPTY_PARTS = "no parts"
    EMPTY_VALUE = "empty value"


_KIND_OF_DEFECT = {Defect.CORRUPT_JPEG: Kind.PHOTO, Defect.TRUNCATED_WAV: Kind.SPEECH}

EXPECTED_CODES = {
    Defect.CORRUPT_AVRO: frozenset({Poison.CORRUPT.value, Poison.TRAILING_BYTES.value}),
    Defect.CORRUPT_JPEG: frozenset({"MODEL_REJECTED"}),  # its header is sound: only the model finds out, in its batch
    Defect.TRUNCATED_WAV: frozenset({"BAD_AUDIO"}),
    Defect.UNKNOWN_MODEL: frozenset({"UNKNOWN_MODEL"}),
    Defect.UNKNOWN_SCHEMA: frozenset({Poison.UNKNOWN_SCHEMA.value}),
    Defect.EMPTY_PARTS: frozenset({Poison.NO_PARTS.value}),
    Defect.EMPTY_VALUE: frozenset({Poison.EMPTY_VALUE.value}),
}
"""The reasons that a dead letter of each defect may give."""


@dataclass(frozen=True, slots=True)
class PlannedEvent:
    """One event before it is encoded. ``origins``: the bundled file, sentence or sound each part is made of."""

    index: int
    kind: Kind
    key: bytes
    request: InferenceRequest
    origins: tuple[str, ...]
    defect: Defect | None = None

    @property
    def expected(self) -> Expected:
        """What must come of it."""
        return Expected(EXPECTED_CODES[self.defect] if self.defect else frozenset())


@dataclass(frozen=True, slots=True)
class Encoded:
    """An event and its record's value, ready to send."""

    event: PlannedEvent
    value: bytes


def plan(count: int, seed: int, assets: Assets, time_ms: int) -> Iterator[PlannedEvent]:
    """The events in the order of sending, made one by one.

    Args:
        count: how many, at least 40, so that every kind and every defect occurs.
        seed: the same seed gives the same events, byte by byte.
        assets: the bundled data.
        time_ms: the event time they all carry.
    """
    rng = np.random.default_rng(seed)
    kinds = rng.choice([*SHARES], size=count, p=[*SHARES.values()])
    kinds[: len(Kind)] = [*Kind]
    rng.shuffle(kinds)
    defects = _places(rng, count)
    for index in range(count):
        defect = defects.get(index)
        kind = _KIND_OF_DEFECT.get(defect, Kind.TEXT) if defect else Kind(kinds[index])
        usable = _jpegs_only(assets) if defect is Defect.CORRUPT_JPEG else assets
        event = _event(np.random.default_rng([seed, index]), index, kind, usable, time_ms)
        yield _spoil(event, defect) if defect else event


def encode(event: PlannedEvent, schema_id: int) -> bytes:
    """The record's value as it goes out.

    The encoder for honest senders refuses an event without parts, so everything is written past its checks.
    """
    request = event.request
    fields = {
        "id": request.id,
        "type": request.type,
        "source": request.source,
        "time": request.time_ms,
        "model": request.model,
        "parts": [
            {
                "name": part.name,
                "modality": part.modality.value,
                "content_type": part.content_type,
                "content": part.content,
            }
            for part in request.parts
        ],
    }
    return mangle(wire.encode(Contract.REQUEST, schema_id, fields), event.defect)


def mangle(value: bytes, defect: Defect | None) -> bytes:
    """Defects that are of the record, not of the request."""
    match defect:
        case Defect.CORRUPT_AVRO:
            return value[: 5 + (len(value) - 5) // 2]
        case Defect.UNKNOWN_SCHEMA:
            return value[:1] + UNKNOWN_SCHEMA_ID.to_bytes(4, "big") + value[5:]
        case Defect.EMPTY_VALUE:
            return b""
        case _:
            return value


def _places(rng: np.random.Generator, count: int) -> dict[int, Defect]:
    """Where the bad events are: every defect at least once, in turn, at random places."""
    bad = max(len(Defect), round(count * BAD_SHARE))
    defects = [[*Defect][number % len(Defect)] for number in range(bad)]
    return dict(zip((int(place) for place in rng.choice(count, size=bad, replace=False)), defects, strict=True))


def _spoil(event: PlannedEvent, defect: Defect) -> PlannedEvent:
    request = event.request
    match defect:
        case Defect.CORRUPT_JPEG:
            request = replace(request, parts=tuple(without_scan(part) for part in request.parts))
        case Defect.TRUNCATED_WAV:
            parts = tuple(replace(part, content=_bytes(part)[:TRUNCATED_WAV_BYTES]) for part in request.parts)
            request = replace(request, parts=parts)
        case Defect.UNKNOWN_MODEL:
            request = replace(request, model=UNKNOWN_MODEL_NAME)
        case Defect.EMPTY_PARTS:
            request = replace(request, parts=())
        case Defect.CORRUPT_AVRO | Defect.UNKNOWN_SCHEMA | Defect.EMPTY_VALUE:
            pass  # of the record: see mangle
    return replace(event, request=request, defect=defect)


def _jpegs_only(assets: Assets) -> Assets:
    return replace(assets, photos=tuple(photo for photo in assets.photos if photo.content_type == "image/jpeg"))


def without_scan(part: Part) -> Part:
    """A JPEG that ends behind its frame header: size and format can be read, pixels there are none."""
    content = _bytes(part)
    return replace(part, content=content[: content.index(JPEG_HUFFMAN_TABLE)] + JPEG_END)


def _bytes(part: Part) -> bytes:
    if not isinstance(part.content, bytes):
        raise TypeError(f"part {part.name} holds no bytes")
    return part.content


def _event(rng: np.random.Generator, index: int, kind: Kind, assets: Assets, time_ms: int) -> PlannedEvent:
    made = [maker(rng, assets) for maker in _MAKERS[kind]]
    request = InferenceRequest(
        id=str(uuid.UUID(bytes=rng.bytes(16), version=4)),
        type=f"demo.{kind.name.lower()}",
        source=SOURCE,
        time_ms=time_ms,
        parts=tuple(part for part, _ in made),
    )
    key = f"sender-{int(rng.integers(KEYS)):02d}".encode()
    return PlannedEvent(index, kind, key, request, tuple(origin for _, origin in made))


def _text(rng: np.random.Generator, assets: Assets) -> tuple[Part, str]:
    group = assets.sentences[int(rng.integers(len(assets.sentences)))]
    sentence = group[int(rng.integers(len(group)))]
    return Part("text", Modality.TEXT, "text/plain", augment.sentence(rng, sentence)), sentence


def _photo(rng: np.random.Generator, assets: Assets) -> tuple[Part, str]:
    photo = augment.photo(rng, assets.photos[int(rng.integers(len(assets.photos)))])
    return Part("photo", Modality.IMAGE, photo.content_type, photo.data), photo.name


def _speech(rng: np.random.Generator, assets: Assets) -> tuple[Part, str]:
    clip = assets.speech[int(rng.integers(len(assets.speech)))]
    return Part(SPEECH_PART, Modality.AUDIO, "audio/wav", augment.speech(rng, clip)), clip.name


def _sound(rng: np.random.Generator, _: Assets) -> tuple[Part, str]:
    name, data = augment.sound(rng)
    return Part(SOUND_PART, Modality.AUDIO, "audio/wav", data), name


_Maker = Callable[[np.random.Generator, Assets], tuple[Part, str]]

_MAKERS: dict[Kind, tuple[_Maker, ...]] = {
    Kind.TEXT: (_text,),
    Kind.PHOTO: (_photo,),
    Kind.SPEECH: (_speech,),
    Kind.SOUND: (_sound,),
    Kind.TEXT_PHOTO: (_text, _photo),
    Kind.TEXT_SPEECH: (_text, _speech),
    Kind.ALL: (_text, _photo, _speech),
}
