"""Every codec: what passes, and what is refused with which code."""

import contextlib
import re
import struct
import time
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.codecs import Row, to_row
from headrace.pipeline.codecs.tensor import serialize_bytes
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.limits import MAX_JPEG_SEGMENTS, MAX_TEXT_BYTES, MAX_WAV_CHUNKS
from headrace.pipeline.ports import TensorSpec
from headrace.pipeline.records import Content, Modality, Part, Reference, Tensor

ENCODED = TensorSpec("DATA", "BYTES", (1,))


def part(modality: Modality, content: Content, content_type: str = "") -> Part:
    return Part("p", modality, content_type, content)


def refusal(refused: Part, spec: TensorSpec = ENCODED) -> tuple[str, str]:
    with pytest.raises(PoisonError, match=r"^part 'p': ") as caught:
        to_row(refused, spec)
    assert caught.value.stage == "prepare"
    return caught.value.code, caught.value.message


def photo(extension: str, width: int = 40, height: int = 30) -> bytes:
    pixels = np.random.default_rng(7).integers(0, 255, (height, width, 3), dtype=np.uint8)
    done, data = cv2.imencode(extension, pixels)
    assert done
    return data.tobytes()


def wav(
    samples_bytes: int = 3200,
    kind: int = 1,
    channels: int = 1,
    rate_hz: int = 16_000,
    bits: int = 16,
    block_bytes: int | None = None,
    stated_bytes: int | None = None,
) -> bytes:
    block = channels * bits // 8 if block_bytes is None else block_bytes
    chunk = struct.pack("<HHIIHH", kind, channels, rate_hz, rate_hz * block, block, bits)
    stated = samples_bytes if stated_bytes is None else stated_bytes
    extra = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # an odd chunk is padded
    body = b"WAVE" + b"fmt " + struct.pack("<I", 16) + chunk + extra + b"data" + struct.pack("<I", stated)
    return b"RIFF" + struct.pack("<I", len(body) + samples_bytes) + body + b"\0" * samples_bytes


MP4 = b"\0\0\0\x18ftypisom" + b"\0" * 12
JPEG, PNG = photo(".jpg"), photo(".png")


# --- all ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modality", "content", "content_type"),
    [
        (Modality.TEXT, "mühle".encode(), "text/plain"),
        (Modality.IMAGE, JPEG, "image/jpeg"),
        (Modality.IMAGE, JPEG, "image/jpg"),
        (Modality.IMAGE, PNG, "IMAGE/PNG; q=1"),
        (Modality.IMAGE, PNG, ""),
        (Modality.IMAGE, JPEG, "application/octet-stream"),
        (Modality.AUDIO, wav(), "audio/wav"),
        (Modality.AUDIO, wav(kind=3, bits=32), "audio/x-wav"),
        (Modality.AUDIO, wav(channels=2, rate_hz=44_100), ""),
        (Modality.AUDIO, b"\x01\x02" * 160, "audio/pcm;rate=16000"),
        (Modality.VIDEO, MP4, "video/mp4"),
    ],
)
@pytest.mark.parametrize("shape", [(1,), (-1,), (1, 1)])
def test_sound_content_passes_unchanged(
    modality: Modality, content: bytes, content_type: str, shape: tuple[int, ...]
) -> None:
    row = to_row(part(modality, content, content_type), TensorSpec("DATA", "BYTES", shape))
    assert row == Row((content,), len(content), tuple(1 for _ in shape))


@pytest.mark.parametrize("modality", [m for m in Modality if m is not Modality.TENSOR])
def test_empty_content_is_refused(modality: Modality) -> None:
    assert refusal(part(modality, b""))[0] == "EMPTY_CONTENT"


@pytest.mark.parametrize("modality", list(Modality))
def test_reference_is_refused(modality: Modality) -> None:
    code, message = refusal(part(modality, Reference("s3://bucket/key", 5, b"")))
    assert code == "REFERENCE_UNSUPPORTED"
    assert "send the content" in message


@pytest.mark.parametrize("modality", [Modality.IMAGE, Modality.AUDIO, Modality.VIDEO])
def test_string_is_no_binary_content(modality: Modality) -> None:
    assert refusal(part(modality, "words"))[0] == "BAD_CONTENT"


@pytest.mark.parametrize(("modality", "content"), [(Modality.TEXT, "words"), (Modality.VIDEO, MP4)])
@pytest.mark.parametrize("spec", [TensorSpec("X", "FP32", (1,)), TensorSpec("X", "BYTES", (2,))])
def test_encoded_content_needs_an_input_of_one_element(modality: Modality, content: Content, spec: TensorSpec) -> None:
    code, message = refusal(part(modality, content), spec)
    assert code == "MODALITY_MISMATCH"
    assert f"input X takes {spec.datatype}" in message


@given(st.sampled_from(Modality), st.binary(max_size=200) | st.text(max_size=50), st.text(max_size=20))
def test_any_content_passes_or_is_poison(modality: Modality, content: bytes | str, content_type: str) -> None:
    with contextlib.suppress(PoisonError):
        to_row(part(modality, content, content_type), ENCODED)


@pytest.mark.parametrize(
    ("modality", "whole", "content_type"),
    [(Modality.IMAGE, JPEG, ""), (Modality.IMAGE, PNG, ""), (Modality.AUDIO, wav(64), ""), (Modality.VIDEO, MP4, "")],
)
def test_every_truncation_and_flipped_byte_passes_or_is_poison(
    modality: Modality, whole: bytes, content_type: str
) -> None:
    damaged = [whole[:size] for size in range(1, min(len(whole), 700))]
    damaged += [whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :] for i in range(min(len(whole), 700))]
    refused = 0
    for content in damaged:
        try:
            to_row(part(modality, content, content_type), ENCODED)
        except PoisonError:
            refused += 1
    assert refused > 8


# --- text -----------------------------------------------------------------------------------------------------------


def test_string_becomes_utf8() -> None:
    assert to_row(part(Modality.TEXT, "mühle"), ENCODED).value == ("mühle".encode(),)


@pytest.mark.parametrize(
    ("content", "content_type", "code"),
    [
        (b"\xff\xfe", "", "BAD_TEXT"),
        ("\ud800", "", "BAD_TEXT"),
        ("words", "text/plain; charset=latin-1", "UNSUPPORTED_CONTENT_TYPE"),
        ("x" * (MAX_TEXT_BYTES + 1), "", "TOO_LARGE"),
    ],
)
def test_bad_text_is_refused(content: Content, content_type: str, code: str) -> None:
    assert refusal(part(Modality.TEXT, content, content_type))[0] == code


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf8"', "us-ascii"])
def test_utf8_by_any_name_passes(charset: str) -> None:
    assert to_row(part(Modality.TEXT, "a", f"text/plain; charset={charset}"), ENCODED).weight_bytes == 1


# --- image ----------------------------------------------------------------------------------------------------------


def resized_png(width: int, height: int) -> bytes:
    return PNG[:16] + struct.pack(">II", width, height) + PNG[24:]


def resized_jpeg(width: int, height: int) -> bytes:
    frame = JPEG.index(b"\xff\xc0")
    return JPEG[: frame + 5] + struct.pack(">HH", height, width) + JPEG[frame + 9 :]


@pytest.mark.parametrize(
    ("content", "content_type", "code"),
    [
        (JPEG, "image/png", "CONTENT_TYPE_MISMATCH"),
        (PNG, "image/jpeg", "CONTENT_TYPE_MISMATCH"),
        (b"GIF89a" + b"\0" * 50, "image/gif", "UNSUPPORTED_CONTENT_TYPE"),
        (b"GIF89a" + b"\0" * 50, "", "BAD_IMAGE"),
        (b"\0" * 50, "image/jpeg", "BAD_IMAGE"),
        (JPEG[:20], "", "BAD_IMAGE"),
        (JPEG[:2] + b"\xff\xd9" + b"\0" * 20, "", "BAD_IMAGE"),
        (PNG[:20], "", "BAD_IMAGE"),
        (PNG[:12] + b"JUNK" + PNG[16:], "", "BAD_IMAGE"),
        (resized_png(0, 30), "", "BAD_IMAGE"),
        (resized_jpeg(30, 0), "", "BAD_IMAGE"),
        (resized_png(20_000, 30), "", "TOO_LARGE"),
        (resized_png(16_000, 16_000), "", "TOO_LARGE"),
        (resized_jpeg(65_535, 10), "", "TOO_LARGE"),
    ],
)
def test_bad_image_is_refused(content: bytes, content_type: str, code: str) -> None:
    assert refusal(part(Modality.IMAGE, content, content_type))[0] == code


@pytest.mark.parametrize("build", [resized_jpeg, resized_png])
def test_size_comes_from_the_header(build: Callable[[int, int], bytes]) -> None:
    assert "20000 x 25 pixels" in refusal(part(Modality.IMAGE, build(20_000, 25)))[1]


def test_jpeg_with_fill_bytes_and_restart_markers_passes() -> None:
    content = JPEG[:2] + b"\xff\xd0" + b"\xff\xff\xff" + JPEG[2:]
    assert to_row(part(Modality.IMAGE, content), ENCODED).value == (content,)


def test_jpeg_of_fill_bytes_costs_the_event_loop_nothing() -> None:
    """Taken one by one, these are seven seconds in which nothing else happens."""
    begun = time.process_time()
    assert refusal(part(Modality.IMAGE, b"\xff\xd8" + b"\xff" * (64 << 20)))[0] == "BAD_IMAGE"
    assert time.process_time() - begun < 2


def test_jpeg_may_have_so_many_segments_before_its_frame_and_no_more() -> None:
    frame = JPEG.index(b"\xff\xc0")
    before = MAX_JPEG_SEGMENTS - 1 - len(re.findall(rb"\xff[\xe0\xdb]\x00", JPEG[:frame]))
    many, too_many = (JPEG[:2] + b"\xff\xe1\0\2" * count + JPEG[2:] for count in (before, before + 1))
    assert to_row(part(Modality.IMAGE, many), ENCODED).value == (many,)
    assert refusal(part(Modality.IMAGE, too_many)) == (
        "BAD_IMAGE",
        "part 'p': the JPEG has more than 10000 segments before its frame header",
    )


def test_jpeg_cannot_hide_its_frame_behind_what_is_no_marker() -> None:
    """A decoder looks for the next marker after FF 00, and finds the frame that a length there would step over."""
    content = b"\xff\xd8\xff\x00\x00\x15" + resized_jpeg(65_000, 65_000)[2:]
    assert refusal(part(Modality.IMAGE, content))[0] == "BAD_IMAGE"


# --- audio ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "content_type", "code", "says"),
    [
        (b"fLaC" + b"\0" * 50, "audio/flac", "UNSUPPORTED_CONTENT_TYPE", "send audio/wav"),
        (b"\0" * 50, "audio/wav", "BAD_AUDIO", "not a WAV file"),
        (wav()[:30], "", "BAD_AUDIO", "truncated"),
        (wav()[:1000], "", "BAD_AUDIO", "3200 bytes of samples announced"),
        (wav(samples_bytes=0), "", "BAD_AUDIO", "no samples"),
        (wav(kind=85), "", "BAD_AUDIO", "format 85"),
        (wav(bits=12), "", "BAD_AUDIO", "12 bits"),
        (wav(channels=0), "", "BAD_AUDIO", "0 channels"),
        (wav(block_bytes=7), "", "BAD_AUDIO", "contradicts itself"),
        (wav(rate_hz=1), "", "BAD_AUDIO", "sample rate of 1 Hz"),
        (wav()[:12] + b"data" + struct.pack("<I", 4) + b"\0" * 4, "", "BAD_AUDIO", "no fmt chunk"),
        (wav(), "audio/pcm", "CONTENT_TYPE_MISMATCH", "send it as audio/wav"),
        (b"\0" * 5, "audio/pcm", "BAD_AUDIO", "whole number of 16-bit samples"),
        (b"\0" * 4, "audio/l16; rate=8000", "BAD_AUDIO", "rate=16000"),
        (b"\0" * 4, "audio/l16; rate=16000; channels=2", "BAD_AUDIO", "channels=1"),
    ],
)
def test_bad_audio_is_refused(content: bytes, content_type: str, code: str, says: str) -> None:
    actual, message = refusal(part(Modality.AUDIO, content, content_type))
    assert actual == code
    assert says in message


def test_wav_may_have_so_many_chunks_before_its_samples_and_no_more() -> None:
    before = MAX_WAV_CHUNKS - 3  # fmt, LIST and data are there already
    many, too_many = (wav()[:12] + b"junk\0\0\0\0" * count + wav()[12:] for count in (before, before + 1))
    assert to_row(part(Modality.AUDIO, many), ENCODED).value == (many,)
    assert refusal(part(Modality.AUDIO, too_many)) == (
        "BAD_AUDIO",
        "part 'p': the WAV file has more than 10000 chunks before its data",
    )


def test_extensible_wav_is_judged_by_its_sub_format() -> None:
    chunk = struct.pack("<HHIIHHHHI", 0xFFFE, 1, 16_000, 32_000, 2, 16, 22, 16, 4)
    for sub_format, passes in ((1, True), (85, False)):
        body = b"WAVEfmt " + struct.pack("<I", 40) + chunk + struct.pack("<H", sub_format) + b"\0" * 14
        content = b"RIFF\0\0\0\0" + body + b"data" + struct.pack("<I", 4) + b"\0" * 4
        if passes:
            assert to_row(part(Modality.AUDIO, content), ENCODED).value == (content,)
        else:
            assert refusal(part(Modality.AUDIO, content))[0] == "BAD_AUDIO"


def test_l16_is_turned_to_little_endian() -> None:
    assert to_row(part(Modality.AUDIO, b"\x01\x02\x03\x04", "audio/L16"), ENCODED).value == (b"\x02\x01\x04\x03",)


# --- video ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "content_type", "code"),
    [
        (b"\0" * 40, "video/mp4", "BAD_VIDEO"),
        (MP4, "video/webm", "UNSUPPORTED_CONTENT_TYPE"),
        (MP4[:9], "", "BAD_VIDEO"),
    ],
)
def test_bad_video_is_refused(content: bytes, content_type: str, code: str) -> None:
    assert refusal(part(Modality.VIDEO, content, content_type))[0] == code


# --- tensor ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", [Modality.TENSOR, Modality.IMAGE])
def test_tensor_goes_to_a_fitting_input_whatever_its_modality(modality: Modality) -> None:
    content = Tensor("UINT8", (2, 2, 3), bytes(range(12)))
    row = to_row(part(modality, content), TensorSpec("IMAGE", "UINT8", (-1, -1, 3)))
    assert row == Row(bytes(range(12)), 12, (2, 2, 3))


def test_bytes_tensor_is_taken_apart() -> None:
    content = Tensor("BYTES", (3,), serialize_bytes([b"a", b"", b"xyz"]))
    assert to_row(part(Modality.TENSOR, content), TensorSpec("X", "BYTES", (-1,))).value == (b"a", b"", b"xyz")


@pytest.mark.parametrize(
    ("tensor", "spec", "code"),
    [
        (Tensor("FP64", (2,), b"\0" * 16), TensorSpec("X", "FP32", (2,)), "TENSOR_MISMATCH"),
        (Tensor("FP32", (3,), b"\0" * 12), TensorSpec("X", "FP32", (2,)), "TENSOR_MISMATCH"),
        (Tensor("FP32", (1, 2), b"\0" * 8), TensorSpec("X", "FP32", (2,)), "TENSOR_MISMATCH"),
        (Tensor("FP32", (0,), b""), TensorSpec("X", "FP32", (-1,)), "TENSOR_MISMATCH"),
        (Tensor("FP32", (-1,), b""), TensorSpec("X", "FP32", (-1,)), "TENSOR_MISMATCH"),
        (Tensor("FP32", (2,), b"\0" * 7), TensorSpec("X", "FP32", (2,)), "BAD_TENSOR"),
        (Tensor("FP32", (2**40, 2**40), b"\0"), TensorSpec("X", "FP32", (-1, -1)), "BAD_TENSOR"),
        (Tensor("BOOL", (2,), b"\x01\x02"), TensorSpec("X", "BOOL", (2,)), "BAD_TENSOR"),
        (Tensor("BF16", (1,), b"\0\0"), TensorSpec("X", "BF16", (1,)), "UNSUPPORTED_DATATYPE"),
        (Tensor("BYTES", (1,), b"\x05\0\0\0abc"), TensorSpec("X", "BYTES", (1,)), "BAD_TENSOR"),
        (Tensor("BYTES", (1,), b"\x01\0"), TensorSpec("X", "BYTES", (1,)), "BAD_TENSOR"),
        (Tensor("BYTES", (1,), serialize_bytes([b"a", b"b"])), TensorSpec("X", "BYTES", (1,)), "BAD_TENSOR"),
        (Tensor("BYTES", (3,), serialize_bytes([b"a", b"b"])), TensorSpec("X", "BYTES", (3,)), "BAD_TENSOR"),
    ],
)
def test_bad_tensor_is_refused(tensor: Tensor, spec: TensorSpec, code: str) -> None:
    assert refusal(part(Modality.TENSOR, tensor), spec)[0] == code


@pytest.mark.parametrize("content", [b"\0\0\0\0", "1.0"])
def test_tensor_modality_needs_a_tensor(content: Content) -> None:
    assert refusal(part(Modality.TENSOR, content), TensorSpec("X", "FP32", (1,)))[0] == "BAD_CONTENT"


@given(st.lists(st.binary(max_size=6), max_size=6), st.binary(max_size=6))
def test_bytes_elements_come_apart_as_they_were_put_together(elements: list[bytes], junk: bytes) -> None:
    spec = TensorSpec("X", "BYTES", (-1,))
    content = Tensor("BYTES", (len(elements),), serialize_bytes(elements) + junk)
    if junk or not elements:
        refusal(part(Modality.TENSOR, content), spec)
    else:
        assert to_row(part(Modality.TENSOR, content), spec).value == tuple(elements)


@pytest.mark.parametrize("modality", [each for each in Modality if each is not Modality.TENSOR])
@pytest.mark.parametrize("content", [b"", b"\xff\0 neither", b"\xff\xd8\xff cut short", "words", "\ud800"])
def test_input_named_content_takes_anything_as_it_is(modality: Modality, content: Content) -> None:
    row = to_row(part(modality, content, "application/x-whatever"), TensorSpec("CONTENT", "BYTES", (1,)))
    assert row.value == ((content.encode(errors="replace") if isinstance(content, str) else content),)


def test_input_named_content_of_another_kind_is_an_input_as_any() -> None:
    refused = part(Modality.IMAGE, photo(".png"))
    assert refusal(refused, TensorSpec("CONTENT", "FP32", (4,)))[0] == "MODALITY_MISMATCH"
