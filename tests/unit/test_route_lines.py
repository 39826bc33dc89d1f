from __future__ import annotations

import json

from headrace.pipeline.config_routes import Match, RouteSettings
from headrace.pipeline.records import InferenceRequest, Modality, Part
from headrace.pipeline.route_lines import explanation_json, explanation_lines, matches
from headrace.pipeline.routing import Router

ROUTES = (
    RouteSettings(name="photos", model="image", version="2", match=Match(modality=(Modality.IMAGE,))),
    RouteSettings(name="words", model="text", match=Match(modality=(Modality.TEXT,), source=("desk/*",))),
)


def request(*parts: Part, model: str | None = None) -> InferenceRequest:
    return InferenceRequest("1", "note", "desk/1", 0, parts, model=model)


WORDS = Part("body", Modality.TEXT, "text/plain", "x")
CLIP = Part("clip", Modality.VIDEO, "video/mp4", b"x")


def test_match_is_told_in_words() -> None:
    everything = RouteSettings(name="a", model="m")
    full = Match(
        modality=(Modality.IMAGE, Modality.VIDEO),
        content_type=("image/*",),
        type=("t",),
        source=("a", "b"),
        headers={"tier": "gold"},
        explicit=True,
    )
    assert matches(everything) == "everything"
    assert matches(everything.model_copy(update={"match": full})) == (
        "modality IMAGE or VIDEO, content type image/*, type t, source a or b, header tier=gold, "
        "only if the event names the model"
    )


def test_lines_say_what_takes_a_part_and_why_none_before_it() -> None:
    event = request(WORDS)
    assert explanation_lines(event, Router(ROUTES).explain(event, ())) == [
        "part body: TEXT text/plain",
        "  not photos: modality: TEXT, wanted IMAGE",
        "  takes words: modality TEXT, source desk/*; model text",
    ]


def test_lines_end_with_the_dead_letter_that_would_come() -> None:
    event = request(WORDS, CLIP)
    lines = explanation_lines(event, Router(ROUTES).explain(event, ()))
    assert lines[3:6] == ["part clip: VIDEO video/mp4", "  not photos: modality: VIDEO, wanted IMAGE",
                          "  not words: modality: VIDEO, wanted TEXT"]  # fmt: skip
    assert lines[6] == "  no route takes it"
    assert lines[7].startswith("would be a dead letter: route/NO_ROUTE: no route for part 'clip'")


def test_json_says_the_same() -> None:
    event = request(WORDS, CLIP)
    fields = json.loads(json.dumps(explanation_json(event, Router(ROUTES).explain(event, ()), "line 3")))
    assert fields["origin"] == "line 3"
    words, clip = fields["parts"]
    assert (words["route"], words["model"]) == ("words", "text")
    assert words["refused"] == [{"route": "photos", "condition": "modality", "reason": "modality: TEXT, wanted IMAGE"}]
    assert clip["route"] is None
    assert fields["dead_letter"]["code"] == "NO_ROUTE"


def test_version_is_the_one_that_would_be_asked_for() -> None:
    event = request(Part("p", Modality.IMAGE, "", b"x"))
    assert explanation_lines(event, Router(ROUTES).explain(event, ()))[-1].endswith("model image 2")
