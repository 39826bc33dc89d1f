from __future__ import annotations

from typing import Any

import pytest

from headrace.pipeline.config_routes import Match, RouteSettings
from headrace.pipeline.outcomes import Outcome
from headrace.pipeline.records import (
    DeadLetter,
    InferenceResult,
    Label,
    Modality,
    PartOutput,
    Provenance,
    Segment,
    SourceRecord,
    Timings,
)
from headrace.pipeline.selection import Selection, Wanted

ROUTES = (
    RouteSettings(name="photos", model="image_jpeg", match=Match(modality=(Modality.IMAGE,))),
    RouteSettings(name="words", model="text_embedding", match=Match(modality=(Modality.TEXT,))),
    RouteSettings(name="rest", model="identity"),
)
CAT = PartOutput("image", "photos", "image_jpeg", "1", labels=(Label("Tabby", 0.7), Label("tiger cat", 0.2)))
WORDS = PartOutput("text", "words", "text_embedding", "1")
CLIP = PartOutput("clip", "rest", "identity", "1", segments=(Segment(0, 1, label="rain", score=0.4), Segment(1, 2)))
WHERE = Provenance("requests", 0, 7, 0)
HEADERS = (("tenant", b"other"), ("tenant", b"acme-eu"), ("none", None))


def result(*outputs: PartOutput, key: bytes | None = b"k\xff") -> Outcome:
    content = InferenceResult("id-1", "OK", outputs, WHERE, Timings(0, 0, 0), 1, "w", 0)
    return Outcome(SourceRecord(WHERE, key, b"", HEADERS), content)


def letter(route: str | None, model: str | None) -> Outcome:
    content = DeadLetter(None, b"", (), WHERE, "infer", "X", "x", 1, 0, 0, "w", "id-1", route, model)
    return Outcome(SourceRecord(WHERE, b"k", b"", HEADERS), content)


def chosen(outcome: Outcome, **wanted: Any) -> list[str]:
    selection = Selection(Wanted(**wanted), ROUTES)
    assert isinstance(outcome.content, InferenceResult)
    found = [output.part for output in selection.matching(outcome.content)]
    assert selection.takes(outcome) is bool(found)
    return found


@pytest.mark.parametrize(
    ("wanted", "parts"),
    [
        ({}, ["image", "text", "clip"]),
        ({"models": ("image*", "identity")}, ["image", "clip"]),
        ({"models": ("IMAGE*",)}, []),
        ({"routes": ("words",)}, ["text"]),
        ({"parts": ("clip", "te?t")}, ["text", "clip"]),
        ({"labels": ("tabby",)}, ["image"]),
        ({"labels": ("*CAT", "nothing")}, ["image"]),
        ({"labels": ("rain",)}, ["clip"]),
        ({"min_score": 0.3}, ["image", "clip"]),
        ({"min_score": 0.5}, ["image"]),
        ({"labels": ("*cat",), "min_score": 0.5}, []),
        ({"labels": ("tabby",), "min_score": 0.7}, ["image"]),
        ({"labels": ("tabby",), "models": ("identity",)}, []),
        ({"modalities": (Modality.IMAGE,)}, ["image", "clip"]),
        ({"modalities": (Modality.AUDIO,)}, ["clip"]),
        ({"modalities": (Modality.TEXT, Modality.IMAGE), "routes": ("words",)}, ["text"]),
    ],
)
def test_parts_must_match_all_that_is_given(wanted: dict[str, Any], parts: list[str]) -> None:
    assert chosen(result(CAT, WORDS, CLIP), **wanted) == parts


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"keys": ("k\\xff",)}, True),
        ({"keys": ("k*",)}, True),
        ({"keys": ("k",)}, False),
        ({"requests": ("id-?",)}, True),
        ({"requests": ("id",)}, False),
        ({"headers": (("tenant", "acme*"),)}, True),
        ({"headers": (("tenant", "other"),)}, False),
        ({"headers": (("tenant", "acme*"), ("none", "*"))}, False),
        ({"headers": (("missing", "*"),)}, False),
    ],
)
def test_record_must_match_all_that_is_given(wanted: dict[str, Any], expected: bool) -> None:
    assert Selection(Wanted(**wanted), ROUTES).takes(result(CAT)) is expected
    dead_letter_matches = expected or wanted == {"keys": ("k",)}  # its key is k
    if wanted != {"keys": ("k\\xff",)}:
        assert Selection(Wanted(**wanted), ROUTES).takes(letter("photos", "image_jpeg")) is dead_letter_matches


def test_record_without_a_key_matches_no_key() -> None:
    assert not Selection(Wanted(keys=("*",)), ROUTES).takes(result(CAT, key=None))
    assert Selection(Wanted(), ROUTES).takes(result(CAT, key=None))


@pytest.mark.parametrize(
    ("wanted", "route", "model", "expected"),
    [
        ({}, None, None, True),
        ({"models": ("image*",)}, "photos", "image_jpeg", True),
        ({"models": ("image*",)}, None, None, False),
        ({"routes": ("words",)}, "photos", "image_jpeg", False),
        ({"labels": ("*",)}, "photos", "image_jpeg", False),
        ({"parts": ("*",)}, "photos", "image_jpeg", False),
        ({"min_score": 0.0}, "photos", "image_jpeg", False),
    ],
)
def test_dead_letter_is_chosen_by_what_it_knows(
    wanted: dict[str, Any], route: str | None, model: str | None, expected: bool
) -> None:
    assert Selection(Wanted(**wanted), ROUTES).takes(letter(route, model)) is expected


def test_result_without_parts_is_shown_unless_parts_are_looked_for() -> None:
    assert Selection(Wanted(), ROUTES).takes(result())
    assert not Selection(Wanted(models=("*",)), ROUTES).takes(result())
