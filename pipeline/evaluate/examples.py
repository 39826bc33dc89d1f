"""What the parts of events held, made small enough to be looked at and listened to in a report. Pure."""

from __future__ import annotations

import io
import math
import warnings
import wave
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from headrace.pipeline.codecs import audio, image, video
from headrace.pipeline.codecs.tensor import describe
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.evaluate.evaluation import Case, Example, Position
from headrace.pipeline.evaluate.store import numbers
from headrace.pipeline.limits import MAX_IMAGE_PIXELS, MAX_JPEG_SCANS
from headrace.pipeline.records import InferenceRequest, Modality, Part, Reference, Tensor
from headrace.pipeline.routing import media_type

TOTAL_BYTES = 3_000_000
"""Of all examples of a report: in base64, which it holds them in, a third more."""
TEXT_CHARACTERS = 2_000
SIDE_PIXELS = 320
JPEG_QUALITIES = (85, 60, 30)
"""The first that fits is taken."""
RATE_HZ = 16_000
SOUND_SECONDS = 10.0
LEAST_SOUND_SECONDS = 0.5
"""What is shorter for want of room says nothing."""
WAV_HEADER_BYTES = 44
TENSOR_VALUES = 32

FirstFrame = Callable[[bytes], bytes | None]
"""A frame of an MP4 as a JPEG file; None if it has none that can be decoded."""


def with_examples(
    cases: Sequence[Case],
    event_at: Callable[[Position], InferenceRequest | None],
    first_frame: FirstFrame,
    total_bytes: int = TOTAL_BYTES,
) -> Iterator[Case]:
    """The cases with what their events' parts held.

    Args:
        cases: in order of how much they matter; what one does not need of its share is left to those behind it.
        event_at: the event at a position; None if it is gone or cannot be decoded.
        first_frame: of a video.
        total_bytes: most of all the examples together.
    """
    left_bytes = total_bytes
    for number, case in enumerate(cases):
        event = event_at(case.at)
        part = next((part for part in event.parts if part.name == case.part), None) if event else None
        if part is None:  # user code may have made it of others
            yield case
            continue
        found = example(part, left_bytes // (len(cases) - number), first_frame)
        left_bytes -= len(found.data)
        yield replace(case, example=found)


def example(part: Part, most_bytes: int, first_frame: FirstFrame) -> Example:
    """What a part held. What cannot be shown, or has no room, is shown in words only."""
    content = part.content
    if isinstance(content, Reference):
        return _in_words(f"{_kind(part)} of {content.size_bytes:,} bytes, kept at {_cut(content.uri, 200)}")
    if isinstance(content, Tensor):
        return _tensor(content, most_bytes)
    if part.modality is Modality.TEXT or isinstance(content, str):
        return _text(content, most_bytes)
    try:
        match part.modality:
            case Modality.IMAGE:
                return _image(image.encoded(part, content), most_bytes)
            case Modality.AUDIO:
                return _audio(part, audio.encoded(part, content), most_bytes)
            case Modality.VIDEO:
                return _video(video.encoded(part, content), most_bytes, first_frame)
    except (PoisonError, ValueError):  # it was answered: the model takes what is not known here
        pass
    return _in_words(f"{_kind(part)} of {len(content):,} bytes")


def _in_words(caption: str) -> Example:
    return Example("", b"", caption)


def _kind(part: Part) -> str:
    named = media_type(part.content_type)
    return f"{part.modality.lower()} ({_cut(named, 60)})" if named else part.modality.lower()


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _text(content: bytes | str, most_bytes: int) -> Example:
    text = content if isinstance(content, str) else content.decode(errors="replace")
    shown = _cut(text, TEXT_CHARACTERS)
    data = shown.encode(errors="replace")
    if len(data) > most_bytes:
        return _in_words(f"text of {len(text):,} characters")
    cut = "" if shown == text else f", the first {TEXT_CHARACTERS:,} of them"
    return Example("text/plain", data, f"text of {len(text):,} characters{cut}")


# --- pictures


def _image(data: bytes, most_bytes: int) -> Example:
    if data.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise ValueError("a JPEG of so many scans takes too long to decode")
    return _picture(_decoded(data), "image", most_bytes)


def _decoded(data: bytes) -> Any:
    """Pixels, uint8 [height, width, 3], blue first, upright. Raises ValueError if it is no image."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ValueError(str(error)) from error
    if pixels is None:
        raise ValueError("it cannot be decoded")
    return pixels


def _picture(pixels: Any, what: str, most_bytes: int) -> Example:
    """A JPEG of pixels, uint8 [height, width, 3], blue first."""
    height, width = pixels.shape[:2]
    caption = f"{what} {width:,} × {height:,}"
    scale = min(1.0, SIDE_PIXELS / max(height, width))
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    for quality in JPEG_QUALITIES:
        _, written = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if written.size <= most_bytes:
            return Example("image/jpeg", written.tobytes(), caption)
    return _in_words(caption)


def _video(data: bytes, most_bytes: int, first_frame: FirstFrame) -> Example:
    caption = f"video of {len(data):,} bytes"
    frame = first_frame(data)
    if frame is None:
        return _in_words(caption)
    shown = _picture(_decoded(frame), "frame", most_bytes)
    return replace(shown, caption=f"{caption}, one frame of it")


# --- sounds


def _audio(part: Part, data: bytes, most_bytes: int) -> Example:
    rate_hz, samples = _samples(part, data)
    seconds = len(samples) / rate_hz
    caption = f"audio {seconds:,.1f} s, {rate_hz:,} Hz"
    room_seconds = (most_bytes - WAV_HEADER_BYTES) / (2 * RATE_HZ)
    shown_seconds = min(seconds, SOUND_SECONDS, room_seconds)
    if shown_seconds < min(seconds, LEAST_SOUND_SECONDS):
        return _in_words(caption)
    sound = _resampled(samples[: math.floor(shown_seconds * rate_hz)], rate_hz)[: math.floor(room_seconds * RATE_HZ)]
    cut = "" if shown_seconds == seconds else f", the first {shown_seconds:.1f} s of it"
    return Example("audio/wav", _wav(sound), caption + cut)


def _samples(part: Part, data: bytes) -> tuple[int, Any]:
    """Rate and samples, -1 to 1, float32 [n], the mean of the channels. Raises ValueError if there are none."""
    from scipy.io import wavfile  # takes a while, and few reports have sounds

    if media_type(part.content_type) in ("audio/pcm", "audio/l16"):
        rate_hz, found = audio.RAW_RATE_HZ, np.frombuffer(data, "<i2")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of chunks beside the samples
            rate_hz, found = wavfile.read(io.BytesIO(data))
    if not found.size:
        raise ValueError("there are no samples")
    if found.dtype == np.uint8:  # 8 bits are unsigned in WAV
        scaled: Any = (found.astype(np.float32) - 128) / 128
    elif np.issubdtype(found.dtype, np.integer):
        scaled = found.astype(np.float32) / -float(np.iinfo(found.dtype).min)
    else:
        scaled = np.nan_to_num(found.astype(np.float32))
    return rate_hz, scaled if scaled.ndim == 1 else scaled.mean(axis=1)


def _resampled(samples: Any, rate_hz: int) -> Any:
    """At ``RATE_HZ``, int16."""
    from scipy.signal import resample_poly

    common = math.gcd(RATE_HZ, rate_hz)
    sound = samples if rate_hz == RATE_HZ else resample_poly(samples, RATE_HZ // common, rate_hz // common)
    return (np.clip(sound, -1, 1) * np.iinfo(np.int16).max).astype("<i2")


def _wav(sound: Any) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE_HZ)
        writer.writeframes(sound.tobytes())
    return file.getvalue()


# --- tensors


def _tensor(tensor: Tensor, most_bytes: int) -> Example:
    """A picture if it may be the pixels of one: bytes, height by width by red, green and blue."""
    caption = f"tensor {describe(tensor.datatype, tensor.shape)}"
    shape = tensor.shape
    is_picture = tensor.datatype == "UINT8" and len(shape) == 3 and shape[2] == 3 and min(shape) > 0
    if is_picture and len(tensor.data) == math.prod(shape) <= 3 * MAX_IMAGE_PIXELS:
        pixels = np.frombuffer(tensor.data, np.uint8).reshape(shape)
        return replace(_picture(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), "", most_bytes), caption=caption)
    try:
        values = numbers(tensor)
    except (KeyError, ValueError):
        values = None
    if values is None or not len(values):
        return _in_words(caption)
    more = " …" if len(values) > TENSOR_VALUES else ""
    data = (" ".join(f"{value:.5g}" for value in values[:TENSOR_VALUES]) + more).encode()
    return Example("text/plain", data, caption) if len(data) <= most_bytes else _in_words(caption)
