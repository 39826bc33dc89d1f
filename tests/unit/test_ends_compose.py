from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from headrace.pipeline.compose import media_of, named_apart, part_of, requests_of
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.records import Modality

JPEG = b"\xff\xd8\xff\xe0 rest of it"
PNG = b"\x89PNG\r\n\x1a\n rest of it"
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt "


@pytest.mark.parametrize(
    ("content", "modality", "content_type"),
    [
        (JPEG, Modality.IMAGE, "image/jpeg"),
        (PNG, Modality.IMAGE, "image/png"),
        (WAV, Modality.AUDIO, "audio/wav"),
    ],
)
def test_file_is_known_by_its_first_bytes_not_its_name(
    tmp_path: Path, content: bytes, modality: Modality, content_type: str
) -> None:
    path = tmp_path / "mislabelled.txt"
    path.write_bytes(content)
    part = part_of(str(path))
    assert (part.modality, part.content_type, part.content) == (modality, content_type, content)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"RIFF\x24\x00\x00\x00AVI LIST", b"GIF89a", b"\xff\xd8"])
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


def test_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "photo.jpg"
    path.write_bytes(JPEG)
    monkeypatch.setattr(Path, "read_bytes", refuse)  # root can read a file without permissions
    with pytest.raises(ConfigError, match="Permission denied"):
        part_of(str(path))


def test_parts_of_one_name_are_numbered() -> None:
    parts = [part_of(words) for words in ("a", "b", "c")]
    assert [part.name for part in named_apart(parts)] == ["text", "text-2", "text-3"]


def test_requests_are_one_for_each_part_or_one_together() -> None:
    parts = [part_of("a"), part_of("b")]
    apart = requests_of(parts, together=False, event_type="t", source="s", time_ms=5)
    together = requests_of(parts, together=True, event_type="t", source="s", time_ms=5, model="m")
    assert [[part.name for part in request.parts] for request in apart] == [["text"], ["text"]]
    assert [[part.name for part in request.parts] for request in together] == [["text", "text-2"]]
    assert together[0].model == "m"
    assert len({uuid.UUID(request.id) for request in (*apart, *together)}) == 3
