import struct
import zlib

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.pipeline import limits
from headrace.triton_models.serving import image

PLENTY = 50_000_000


def photo(width: int = 40, height: int = 30) -> NDArray[np.uint8]:
    rows, columns = np.indices((height, width))
    return np.stack([rows * 5, columns * 5, rows + columns], axis=2).astype(np.uint8)


def encoded(kind: str, width: int = 40, height: int = 30, options: tuple[int, ...] = ()) -> bytes:
    done, content = cv2.imencode(kind, photo(width, height), list(options))
    assert done
    return content.tobytes()


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)])
def test_decode_takes_every_kind_of_jpeg(options: tuple[int, ...]) -> None:
    decoded = image.decode(encoded(".jpg", options=options), PLENTY)
    assert decoded.shape == (30, 40, 3)
    assert np.abs(decoded.astype(int) - photo()).mean() < 6


def test_decode_of_a_png_is_exact() -> None:
    assert np.array_equal(image.decode(encoded(".png"), PLENTY), photo())


@pytest.mark.parametrize("kind", [".jpg", ".png"])
def test_decode_refuses_an_image_cut_short_anywhere(kind: str) -> None:
    content = encoded(kind)
    for length in range(len(content) - 1):
        with pytest.raises(image.ImageError):
            image.decode(content[:length], PLENTY)


def test_decode_refuses_a_png_with_a_flipped_bit() -> None:
    content = bytearray(encoded(".png"))
    content[len(content) // 2] ^= 1
    with pytest.raises(image.ImageError, match="checksum"):
        image.decode(bytes(content), PLENTY)


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", bytes(1000), b"\xff" * 1000]
)
def test_decode_refuses_what_is_no_image(content: bytes) -> None:
    with pytest.raises(image.ImageError):
        image.decode(content, PLENTY)


def test_decode_refuses_random_bytes_after_a_jpeg_start() -> None:
    random = np.random.default_rng(1)
    for _ in range(200):
        with pytest.raises(image.ImageError):
            image.decode(b"\xff\xd8\xff" + random.bytes(200), PLENTY)


def with_scans(count: int) -> bytes:
    """A progressive JPEG that goes over its pixels again and again."""
    content = encoded(".jpg", options=(cv2.IMWRITE_JPEG_PROGRESSIVE, 1))
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * (count - content.count(b"\xff\xda")) + content[-2:]


def test_decode_counts_the_scans_of_a_jpeg() -> None:
    assert image.decode(with_scans(64), PLENTY).shape == (30, 40, 3)
    with pytest.raises(image.ImageError, match="more than 64 scans: save it with fewer"):
        image.decode(with_scans(65), PLENTY)


def test_decode_counts_no_scans_outside_of_the_image() -> None:
    """A thumbnail before it, and the video that a telephone appends to a photo."""
    content = encoded(".jpg")
    thumbnail = b"\xff\xe1" + struct.pack(">H", 202) + b"\xff\xda" * 100
    assert image.decode(content[:2] + thumbnail + content[2:] + b"\xff\xda\x00\x02" * 100, PLENTY).shape == (30, 40, 3)


def test_decode_counts_the_segments_of_a_jpeg() -> None:
    content = encoded(".jpg")
    with pytest.raises(image.ImageError, match="more than 10000 segments"):
        image.decode(content[:2] + b"\xff\xe1\0\2" * 10_000 + content[2:], PLENTY)


@pytest.mark.parametrize("fill", [b"\xff\xff", b"\xff\xd0", b"\xff\x01"])
def test_decode_takes_what_may_stand_before_a_segment(fill: bytes) -> None:
    content = encoded(".jpg")
    assert image.decode(content[:2] + fill + content[2:], PLENTY).shape == (30, 40, 3)


@pytest.mark.parametrize("marker", [b"\xff\x00", b"\xff\x01", b"\xff\xd0", b"\xff\xd7"])
def test_decode_reads_the_header_that_the_decoder_reads(marker: bytes) -> None:
    """A decoder sees no segment in these, and goes on at the frame that one would hide."""
    small, large = encoded(".jpg", 40, 30), encoded(".jpg", 400, 300)
    hidden = large[2:]
    content = small[:2] + marker + struct.pack(">H", len(hidden) + 2) + hidden + small[2:]
    with pytest.raises(image.ImageError):
        image.decode(content, 40 * 30)


def test_limits_are_those_of_the_contract() -> None:
    assert image.MAX_JPEG_SCANS == limits.MAX_JPEG_SCANS
    assert image.MAX_JPEG_SEGMENTS == limits.MAX_JPEG_SEGMENTS


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(side: int) -> bytes:
    return png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))


def png_bomb(side: int) -> bytes:
    """A valid PNG header that claims ``side`` squared pixels, without them."""
    pixels = png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + png_header(side) + pixels


def test_decode_refuses_a_decompression_bomb_by_its_header() -> None:
    with pytest.raises(image.ImageError, match="60000 x 60000 pixels; at most 50000000"):
        image.decode(png_bomb(60_000), PLENTY)


@pytest.mark.parametrize("sides", [(60_000, 8), (8, 60_000), (8, 8)])
def test_decode_refuses_a_second_header_of_a_png(sides: tuple[int, int]) -> None:
    first, second = sides
    content = png_bomb(first)
    position = 8 + len(png_header(first))
    with pytest.raises(image.ImageError, match="it has two headers"):
        image.decode(content[:position] + png_header(second) + content[position:], PLENTY)


@pytest.mark.parametrize("kind", [".jpg", ".png"])
def test_decode_counts_pixels_exactly(kind: str) -> None:
    assert image.decode(encoded(kind, 40, 30), 1200).shape == (30, 40, 3)
    with pytest.raises(image.ImageError, match="40 x 30"):
        image.decode(encoded(kind, 40, 30), 1199)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (300, 40), (224, 224), (900, 1200)])
def test_prepare_gives_the_classifier_its_size(width: int, height: int) -> None:
    prepared = image.prepare(photo(width, height))
    assert prepared.shape == (224, 224, 3)
    assert prepared.dtype == np.uint8


def test_prepare_turns_bgr_into_rgb() -> None:
    blue = np.zeros((300, 300, 3), np.uint8)
    blue[..., 0] = 255
    assert image.prepare(blue)[100, 100].tolist() == [0, 0, 255]


def test_top_is_ordered_by_probability() -> None:
    classes, scores = image.top(np.array([[0.1, 0.5, 0.0, 0.4], [0.7, 0.1, 0.15, 0.05]], np.float32), 3)
    assert classes.tolist() == [[1, 3, 0], [0, 2, 1]]
    assert scores[:, 0].tolist() == pytest.approx([0.5, 0.7])
