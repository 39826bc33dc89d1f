from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from headrace.pipeline.compose import EventOptions, KeyFrom, event_of, media_of, media_part, named_apart, part_of
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.records import Modality

JPEG = b"\xff\xd8\xff\xe0 rest of it"
PNG = b"\x89PNG\r\n\x1a\n rest of it"
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt "
MP4 = b"\x00\x00\x00\x18ftypisom rest of it"
QUICKTIME = b"\x00\x00\x00\x14ftypqt   rest of it"


@pytest.mark.parametrize(
    ("content", "modality", "content_type"),
    [
        (JPEG, Modality.IMAGE, "image/jpeg"),
        (PNG, Modality.IMAGE, "image/png"),
        (WAV, Modality.AUDIO, "audio/wav"),
        (MP4, Modality.VIDEO, "video/mp4"),
        (QUICKTIME, Modality.VIDEO, "video/quicktime"),
    ],
)
def test_file_is_known_by_its_first_bytes_not_its_name(
    tmp_path: Path, content: bytes, modality: Modality, content_type: str
) -> None:
    path = tmp_path / "mislabelled.txt"
    path.write_bytes(content)
    part = part_of(str(path))
    assert (part.modality, part.content_type, part.content) == (modality, content_type, content)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"RIFF", b"RIFF\x24\x00\x00\x00AVI LIST", b"GIF89a", b"\xff\xd8", b"\x00\x00\x00\x18ftyp"),
        *(b"\x00\x00\x00\x18ftypheic", b"\x00\x00\x00\x18ftypM4A "),  # a picture and sound in the same container
    ],
)
def test_other_content_is_of_no_known_kind(content: bytes) -> None:
    assert media_of(content) is None


@pytest.mark.parametrize("words", ["a river turns the mill", "", "x" * 5000, "nul\0inside", "see photo.jpg", "a/b"])
def test_words_are_text(words: str) -> None:
    part = part_of(words)
    assert (part.modality, part.content_type, part.content) == (Modality.TEXT, "text/plain", words)


def test_unknown_file_is_refused_unless_said_to_be_text(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("hello")
    with pytest.raises(ConfigError, match="--text"):
        part_of(str(path))
    assert part_of(str(path), as_text=True).content == str(path)


def test_missing_media_file_is_refused_unless_said_to_be_text() -> None:
    with pytest.raises(ConfigError, match=r"no file holiday\.JPG"):
        part_of("holiday.JPG")
    assert part_of("holiday.JPG", as_text=True).modality is Modality.TEXT


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        media_part(tmp_path)


def test_file_of_no_known_kind_is_no_part(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("hello")
    assert media_part(path) is None


def test_parts_of_one_name_are_numbered() -> None:
    parts = [part_of(words) for words in ("a", "b", "c")]
    assert [part.name for part in named_apart(parts)] == ["text", "text-2", "text-3"]


def test_event_has_what_the_options_say_and_an_id_of_its_own() -> None:
    options = EventOptions("t", "s", "m", "2", key=b"k", headers=(("h", b"1"),), parameters={"top": 3})
    events = [event_of([part_of("a")], options, time_ms=5, origin="a") for _ in range(2)]
    request = events[0].request
    assert (request.type, request.source, request.time_ms) == ("t", "s", 5)
    assert (request.model, request.model_version, request.parameters) == ("m", "2", {"top": 3})
    assert (events[0].key, events[0].headers, events[0].origin) == (b"k", (("h", b"1"),), "a")
    assert len({uuid.UUID(event.request.id) for event in events}) == 2


@pytest.mark.parametrize(("key_from", "key"), [(KeyFrom.NAME, b"cat.jpg"), (KeyFrom.FOLDER, b"pets"), (None, None)])
def test_key_comes_from_the_path_of_a_file(key_from: KeyFrom | None, key: bytes | None) -> None:
    options = EventOptions(key_from=key_from)
    assert event_of([part_of("a")], options, time_ms=0, origin="", path=Path("all/pets/cat.jpg")).key == key
    assert event_of([part_of("a")], options, time_ms=0, origin="").key is None


def test_version_without_a_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="name the model too"):
        event_of([part_of("a")], EventOptions(model_version="2"), time_ms=0, origin="a")
