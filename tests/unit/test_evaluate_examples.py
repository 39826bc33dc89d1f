"""What parts held is shown small, and nothing that a sender can write keeps the rest of a report from being made."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import wavfile

from headrace.pipeline.evaluate.evaluation import Case, Position
from headrace.pipeline.evaluate.examples import RATE_HZ, SIDE_PIXELS, TEXT_CHARACTERS, example, with_examples
from headrace.pipeline.records import Content, InferenceRequest, Modality, Part, Reference, Tensor
from tests.unit.fakes import request
from tests.unit.strategies import PARTS, examples

DATA = Path(__file__).parents[2] / "pipeline" / "demo" / "data"
ROOM = 200_000


def part(modality: Modality, content: Content, content_type: str = "") -> Part:
    return Part("p", modality, content_type, content)


def no_frame(_: bytes) -> bytes | None:
    return None


def pixels(data: bytes) -> np.ndarray:
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert found is not None
    return found


def wav(rate_hz: int, samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    wavfile.write(file, rate_hz, samples)
    return file.getvalue()


def tone(rate_hz: int, seconds: float, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate_hz * seconds)) / rate_hz)).astype(np.float32)


def heard(data: bytes) -> np.ndarray:
    with wave.open(io.BytesIO(data)) as reader:
        assert (reader.getnchannels(), reader.getsampwidth(), reader.getframerate()) == (1, 2, RATE_HZ)
        return np.frombuffer(reader.readframes(reader.getnframes()), "<i2").astype(np.float32) / 32_768


@pytest.mark.parametrize("name", ["coffee.jpg", "coins.png"])
def test_image_is_scaled_to_a_small_jpeg(name: str) -> None:
    data = (DATA / "photos" / name).read_bytes()
    height, width = pixels(data).shape[:2]
    shown = example(part(Modality.IMAGE, data, "image/*"), ROOM, no_frame)
    assert shown.media_type == "image/jpeg"
    assert shown.caption == f"image {width} × {height}"
    small = pixels(shown.data)
    assert max(small.shape[:2]) == SIDE_PIXELS
    assert small.shape[1] / small.shape[0] == pytest.approx(width / height, rel=0.01)


def test_image_without_room_is_told_in_words() -> None:
    data = (DATA / "photos" / "coffee.jpg").read_bytes()
    shown = example(part(Modality.IMAGE, data, "image/jpeg"), 100, no_frame)
    assert (shown.media_type, shown.data) == ("", b"")
    assert shown.caption.startswith("image ")


def test_raw_pixels_are_shown_in_their_colours() -> None:
    red = np.zeros((40, 80, 3), np.uint8)
    red[..., 0] = 250
    shown = example(part(Modality.TENSOR, Tensor("UINT8", (40, 80, 3), red.tobytes())), ROOM, no_frame)
    assert shown.caption == "tensor UINT8[40,80,3]"
    blue, green, strong = pixels(shown.data).reshape(-1, 3).mean(axis=0)
    assert strong > 240
    assert max(blue, green) < 10


@pytest.mark.parametrize(
    ("rate_hz", "dtype"),
    [(16_000, "int16"), (44_100, "int16"), (8_000, "uint8"), (48_000, "int32"), (22_050, "float32")],
)
def test_sound_becomes_wav_that_every_browser_plays(rate_hz: int, dtype: str) -> None:
    sound = tone(rate_hz, 1.0)
    scale = {"int16": 32_767, "int32": 2**31 - 1, "uint8": 127, "float32": 1}[dtype]
    samples = (sound.astype(np.float64) * scale + (128 if dtype == "uint8" else 0)).astype(dtype)
    data = wav(rate_hz, np.stack([samples, samples], axis=1))
    shown = example(part(Modality.AUDIO, data, "audio/wav"), ROOM, no_frame)
    assert shown.media_type == "audio/wav"
    assert shown.caption == f"audio 1.0 s, {rate_hz:,} Hz"
    middle = slice(2_000, -2_000)  # the ends ring
    np.testing.assert_allclose(heard(shown.data)[middle], tone(RATE_HZ, 1.0)[middle], atol=0.02)


@pytest.mark.parametrize(("content_type", "order"), [("audio/pcm", "<i2"), ("audio/l16", ">i2")])
def test_raw_sound_is_shown_in_either_order_of_bytes(content_type: str, order: str) -> None:
    raw = (tone(RATE_HZ, 0.7) * 32_767).astype(order).tobytes()
    shown = example(part(Modality.AUDIO, raw, content_type), ROOM, no_frame)
    np.testing.assert_allclose(heard(shown.data), tone(RATE_HZ, 0.7), atol=0.001)


def test_long_sound_is_cut_to_ten_seconds_and_to_its_room() -> None:
    data = wav(8_000, np.stack([tone(8_000, 30.0)] * 2, axis=1))
    whole = example(part(Modality.AUDIO, data, "audio/wav"), 10 * ROOM, no_frame)
    assert len(heard(whole.data)) == 10 * RATE_HZ
    assert whole.caption == "audio 30.0 s, 8,000 Hz, the first 10.0 s of it"
    cut = example(part(Modality.AUDIO, data, "audio/wav"), 64_044, no_frame)
    assert len(cut.data) == 64_044
    assert cut.caption.endswith("the first 2.0 s of it")
    assert example(part(Modality.AUDIO, data, "audio/wav"), 1_000, no_frame).data == b""


def test_text_is_cut() -> None:
    assert example(part(Modality.TEXT, "Grüße"), ROOM, no_frame).data == "Grüße".encode()
    shown = example(part(Modality.TEXT, b"x" * 5_000), ROOM, no_frame)
    assert len(shown.data.decode()) == TEXT_CHARACTERS
    assert shown.caption == "text of 5,000 characters, the first 2,000 of them"


def test_tensor_is_shown_by_its_first_values() -> None:
    values = np.arange(100, dtype="<f4") / 4
    shown = example(part(Modality.TENSOR, Tensor("FP32", (10, 10), values.tobytes())), ROOM, no_frame)
    assert shown.caption == "tensor FP32[10,10]"
    assert shown.data.decode().startswith("0 0.25 0.5 ")
    assert shown.data.decode().endswith(" 7.75 …")


def test_video_is_shown_by_a_frame() -> None:
    video = b"\x00\x00\x00\x18ftypmp42" + bytes(16)
    frame = (DATA / "photos" / "coffee.jpg").read_bytes()
    shown = example(part(Modality.VIDEO, video, "video/mp4"), ROOM, {video: frame}.get)
    assert shown.media_type == "image/jpeg"
    assert shown.caption == "video of 28 bytes, one frame of it"
    assert example(part(Modality.VIDEO, video, "video/mp4"), ROOM, no_frame).caption == "video of 28 bytes"


def test_content_that_is_kept_elsewhere_is_named() -> None:
    shown = example(part(Modality.IMAGE, Reference("s3://b/k", 1_234, bytes(32)), "image/png"), ROOM, no_frame)
    assert (shown.media_type, shown.data) == ("", b"")
    assert shown.caption == "image (image/png) of 1,234 bytes, kept at s3://b/k"


@pytest.mark.parametrize(
    ("modality", "content", "content_type"),
    [
        (Modality.IMAGE, b"\xff\xd8\xff" + b"\xff\xda" * 100, "image/jpeg"),
        (Modality.IMAGE, b"GIF89a", "image/gif"),
        (Modality.AUDIO, b"RIFF\x04\x00\x00\x00WAVE", "audio/wav"),
        (Modality.AUDIO, b"OggS", "audio/ogg"),
        (Modality.VIDEO, b"no video", "video/webm"),
        (Modality.TENSOR, b"bytes", "application/x-own"),
    ],
)
def test_content_of_an_unknown_kind_is_told_in_words(modality: Modality, content: bytes, content_type: str) -> None:
    shown = example(part(modality, content, content_type), ROOM, no_frame)
    assert (shown.media_type, shown.data) == ("", b"")
    assert shown.caption == f"{modality.lower()} ({content_type}) of {len(content)} bytes"


@settings(max_examples=examples(200))
@given(PARTS, st.integers(0, 4_000))
def test_any_part_is_shown_within_its_room(each: Part, room: int) -> None:
    shown = example(each, room, no_frame)
    assert len(shown.data) <= room
    assert bool(shown.media_type) >= bool(shown.data)
    assert shown.caption


# --- all of a report


def case(offset: int, name: str = "p") -> Case:
    return Case(Position("in", 0, offset), name, "r", "accuracy", 0.0, "/s", "t", None, "a", "b")


def test_examples_share_the_room_and_leave_what_they_do_not_need() -> None:
    long = wav(RATE_HZ, (tone(RATE_HZ, 9.0) * 32_767).astype(np.int16))
    events: dict[int, InferenceRequest] = {
        0: request(part(Modality.TEXT, "short")),
        1: request(part(Modality.AUDIO, long, "audio/wav")),
        2: request(part(Modality.AUDIO, long, "audio/wav")),
    }
    found = list(with_examples([case(0), case(1), case(2)], lambda at: events[at.offset], no_frame, 300_000))
    sizes = [len(each.example.data) for each in found if each.example]
    assert sizes[0] == 5
    assert sizes[1] == pytest.approx(150_000, abs=10)
    assert sum(sizes) == pytest.approx(300_000, abs=10)


def test_case_whose_event_is_gone_or_has_no_such_part_stays_without_an_example() -> None:
    events = {0: request(part(Modality.TEXT, "short"))}
    found = list(with_examples([case(0, "other"), case(1)], lambda at: events.get(at.offset), no_frame))
    assert found == [case(0, "other"), case(1)]
