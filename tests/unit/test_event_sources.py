from __future__ import annotations

import io
import os
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.pipeline.compose import Event, EventOptions
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.event_sources import (
    Bad,
    Folder,
    Glob,
    Input,
    Lines,
    Single,
    Skipped,
    count,
    items_of,
)
from headrace.pipeline.records import Modality, Part

JPEG = b"\xff\xd8\xff\xe0 rest of it"


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``photos`` in the current folder: known, unknown and hidden files, on two levels, made in no order."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "sub/a.jpg", "a.jpg", "notes.txt", ".hidden.jpg", "sub/.git/x.jpg", "c/z.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"hello" if name.endswith(".txt") else JPEG)
    return tmp_path / "photos"


def given(*arguments: str, as_text: bool = False, stdin: bytes = b"") -> Input:
    items = items_of(arguments, as_text=as_text)
    return Input(items, EventOptions(), io.BytesIO(stdin), 1000, lambda: 5)


def origins(source: Input) -> list[tuple[type, str]]:
    return [(type(made), made.origin) for made in source.events()]


def test_arguments_are_words_files_folders_globs_and_standard_input(photos: Path) -> None:
    arguments = ("some words", "photos/a.jpg", "photos", "photos/*.jpg", "-", "why?", "a/b")
    assert items_of(arguments, as_text=False) == (
        Single("some words", False),
        Single("photos/a.jpg", False),
        Folder(Path("photos")),
        Glob("photos/*.jpg"),
        Lines(),
        Single("why?", False),
        Single("a/b", False),
    )
    assert items_of(arguments, as_text=True) == tuple(Single(argument, True) for argument in arguments)


@pytest.mark.parametrize("argument", ["photo[s]/*.png", "*.png", "none/*", "nowhere/"])
def test_pattern_or_folder_that_is_not_there_is_refused(photos: Path, argument: str) -> None:
    with pytest.raises(ConfigError, match="--text to send these words"):
        items_of([argument], as_text=False)


def test_standard_input_is_read_once(photos: Path) -> None:
    with pytest.raises(ConfigError, match="give - once"):
        items_of(["-", "-"], as_text=False)


def test_folder_is_searched_to_the_bottom_in_order_without_hidden_files(photos: Path) -> None:
    assert origins(given("photos")) == [
        (Event, "photos/a.jpg"),
        (Event, "photos/b.jpg"),
        (Event, "photos/c/z.jpg"),
        (Skipped, "photos/notes.txt"),
        (Event, "photos/sub/a.jpg"),
    ]
    assert count(given("photos").items) == 5


def test_glob_is_taken_in_order_and_goes_down_if_it_says_so(photos: Path) -> None:
    assert origins(given("photos/*.*")) == [
        (Event, "photos/a.jpg"),
        (Event, "photos/b.jpg"),
        (Skipped, "photos/notes.txt"),
    ]
    assert origins(given("photos/**/a.jpg")) == [(Event, "photos/a.jpg"), (Event, "photos/sub/a.jpg")]


def test_folder_link_that_leads_back_is_not_followed(photos: Path) -> None:
    (photos / "sub" / "up").symlink_to(photos)
    (photos / "link.jpg").symlink_to(photos / "a.jpg")
    assert count([Folder(photos)]) == 6


def test_folder_that_cannot_be_read_is_bad_and_the_rest_goes_on(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: Path) -> Iterator[os.DirEntry[str]]:
        if path.name == "c":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root can read a folder without permissions
    assert (Bad, "photos/c") in origins(given("photos"))
    assert origins(given("photos"))[-1] == (Event, "photos/sub/a.jpg")
    assert count(given("photos").items) == 4
    with pytest.raises(ConfigError, match="photos/c cannot be read: Permission denied"):
        given("photos").together()


def test_singles_are_told_from_streams(photos: Path) -> None:
    assert given("words", "photos/a.jpg").one_by_one
    assert not given("words", "photos").one_by_one
    assert given("words", "-").has_lines
    assert count(given("a", "b").items) == 2
    assert count(given("a", "-").items) is None


def test_unknown_file_is_bad_by_name_and_skipped_in_a_folder(photos: Path) -> None:
    assert origins(given("photos/notes.txt")) == [(Bad, "photos/notes.txt")]
    (skipped,) = [made for made in given("photos").events() if isinstance(made, Skipped)]
    assert skipped.reason == "neither JPEG, PNG, WAV nor MP4"


def test_lines_are_events_until_one_is_bad_and_go_on_after_it(photos: Path) -> None:
    source = given("-", stdin=b'{"text": "a"}\n\noops\n' + b"x" * 2000 + b'\n{"text": "b"}\n')
    assert origins(source) == [(Event, "line 1"), (Bad, "line 3"), (Bad, "line 4"), (Event, "line 5")]


def test_together_is_one_event_of_all_parts(photos: Path) -> None:
    event = given("words", "photos", "photos/a.jpg").together()
    names = [part.name for part in event.request.parts]
    assert names == ["text", "image", "image-2", "image-3", "image-4", "image-5"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["-"], "lists its parts itself"), (["w"] * 257, "at most 256 parts"), (["photos/*.txt"], "nothing to send")],
)
def test_together_refuses_what_is_no_event(photos: Path, arguments: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        given(*arguments).together()


def test_large_folder_is_not_held_in_memory(tmp_path: Path) -> None:
    """Twenty files of a megabyte each, of which one is held at a time."""
    for number in range(20):
        (tmp_path / f"{number}.jpg").write_bytes(JPEG + bytes(1_000_000))
    source = replace(given(str(tmp_path)), limit_bytes=2_000_000)
    tracemalloc.start()
    try:
        assert sum(_sizes(source)) == 20 * (len(JPEG) + 1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def _sizes(source: Input) -> Iterator[int]:
    for made in source.events():
        assert isinstance(made, Event)
        content = made.request.parts[0].content
        assert isinstance(content, bytes)
        yield len(content)


def test_glob_follows_no_link_that_leads_back(photos: Path) -> None:
    for name in ("up", "down", "round"):
        (photos / "sub" / name).symlink_to(photos)
    (photos / "link.jpg").symlink_to(photos / "a.jpg")
    assert [origin for _, origin in origins(given("photos/**/*.jpg"))] == [
        "photos/a.jpg",
        "photos/b.jpg",
        "photos/c/z.jpg",
        "photos/link.jpg",
        "photos/sub/a.jpg",
    ]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("photos/**", ["a.jpg", "b.jpg", "c/z.jpg", "notes.txt", "sub/a.jpg"]),
        ("photos/**.jpg", ["a.jpg", "b.jpg"]),
        ("photos/.h*", [".hidden.jpg"]),
        ("photos/sub/.git/*", ["sub/.git/x.jpg"]),
        ("photos/sub/../[ab].jpg", ["sub/../a.jpg", "sub/../b.jpg"]),
    ],
)
def test_glob_is_a_shells(photos: Path, pattern: str, found: list[str]) -> None:
    for prefix in ("", f"{photos.parent}/"):
        assert [origin for _, origin in origins(given(prefix + pattern))] == [
            f"{prefix}photos/{name}" for name in found
        ]


def test_path_that_cannot_be_looked_at_is_bad_and_the_rest_goes_on(photos: Path) -> None:
    here = Path.cwd()
    os.chdir(photos / "c")
    for _ in range(20):
        Path("d" * 250).mkdir()
        os.chdir("d" * 250)
    os.chdir(here)
    found = origins(given("photos"))
    assert found[-1] == (Event, "photos/sub/a.jpg")
    (bad,) = [made for made in given("photos").events() if isinstance(made, Bad)]
    assert str(bad.error).endswith("cannot be read: File name too long")


def test_file_that_no_event_can_hold_is_not_read(photos: Path) -> None:
    for name in ("a.jpg", "notes.txt"):
        with (photos / name).open("ab") as file:
            file.truncate(10**12)  # takes no room
    assert origins(given("photos"))[0] == (Bad, "photos/a.jpg")
    assert (Skipped, "photos/notes.txt") in origins(given("photos"))
    (made,) = given("photos/a.jpg").events()
    assert isinstance(made, Bad)
    assert str(made.error).startswith("photos/a.jpg has more than 1,000 bytes: ")
    (made,) = for_model("photos/notes.txt").events()
    assert isinstance(made, Bad)


def for_model(*arguments: str) -> Input:
    return replace(given(*arguments), options=EventOptions(model="content_type"))


def test_file_of_another_kind_is_for_a_model_that_is_named(photos: Path) -> None:
    (made,) = for_model("photos/notes.txt").events()
    assert isinstance(made, Event)
    assert made.request.parts == (Part("file", Modality.TEXT, "application/octet-stream", b"hello"),)
    names = [part.name for part in for_model("photos/notes.txt", "photos/a.jpg", "words").together().request.parts]
    assert names == ["file", "image", "text"]
    assert (Skipped, "photos/notes.txt") in origins(for_model("photos"))
