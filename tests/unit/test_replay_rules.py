"""What a replay answers otherwise than live, by its rules alone and through the processor."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from headrace.pipeline.config_routes import Match, RouteSettings
from headrace.pipeline.errors import ConfigError, PoisonError
from headrace.pipeline.ports import OffsetCommit
from headrace.pipeline.records import InferenceRequest, Modality, Part
from headrace.pipeline.replay.manifest import Pin
from headrace.pipeline.replay.rules import ReplayRules, check_routes, forced_pins
from headrace.pipeline.routing import Assignment, Router
from headrace.pipeline.user_code import Record, RejectError
from tests.unit.fakes import EPOCH_MS, on_virtual_time, request, request_value, settle, text_part
from tests.unit.processor_bench import P0, ROUTE, Bench, answer, letter_of, result_of

PHOTOS = RouteSettings(name="photos", model="image_jpeg", version="4", match=Match(modality=(Modality.IMAGE,)))
TEXT = RouteSettings(name="text", model="echo", match=Match(modality=(Modality.TEXT,)))
SOUND = RouteSettings(name="sound", model="echo", match=Match(modality=(Modality.AUDIO,)))
ROUTES = (PHOTOS, TEXT, SOUND)
PINS = {
    "photos": Pin("photos", "image_jpeg", "4"),
    "text": Pin("text", "echo", "3"),
    "sound": Pin("sound", "echo", "3"),
}
PHOTO = Part("photo", Modality.IMAGE, "image/jpeg", b"jpeg")
CLIP = Part("clip", Modality.AUDIO, "audio/wav", b"wav")
EVENT = request(text_part("one", "first"), PHOTO, CLIP, text_part("two", "last"))


def rules(*routes: str, **pins: Pin) -> ReplayRules:
    return ReplayRules(frozenset(routes), {**PINS, **pins})


def applied(
    told: ReplayRules, event: InferenceRequest = EVENT
) -> tuple[InferenceRequest, list[tuple[int, str, str, str]]]:
    """The request, and of each assignment the part, its route and what answers."""
    changed, plan = told.apply(event, Router(ROUTES).plan(event, ()))
    return changed, [(each.part_index, each.route.name, each.model, each.version) for each in plan]


# --- routes ---------------------------------------------------------------------------------------------------------


def test_without_routes_every_part_is_answered() -> None:
    event, answered = applied(rules())
    assert event is EVENT
    assert answered == [
        (0, "text", "echo", "3"),
        (1, "photos", "image_jpeg", "4"),
        (2, "sound", "echo", "3"),
        (3, "text", "echo", "3"),
    ]


@pytest.mark.parametrize(
    ("routes", "parts"),
    [
        (("text",), ["first", "last"]),
        (("sound", "photos"), ["photo", "clip"]),
        (("photos",), ["photo"]),
        (("text", "photos", "sound"), ["first", "photo", "clip", "last"]),
        (("another",), []),
    ],
)
def test_parts_of_other_routes_are_left_out_and_the_rest_counted_anew(
    routes: tuple[str, ...], parts: list[str]
) -> None:
    event, answered = applied(rules(*routes))
    assert [part.name for part in event.parts] == parts
    assert [index for index, *_ in answered] == list(range(len(parts)))
    assert {route for _, route, *_ in answered} <= set(routes)
    assert replace(event, parts=EVENT.parts) == EVENT


# --- pins -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (request(text_part()), ("echo", "3")),
        (request(text_part(), model="echo"), ("echo", "3")),
        (request(text_part(), model="echo", model_version="2"), ("echo", "2")),
        (request(PHOTO), ("image_jpeg", "4")),
        (request(PHOTO, model="image_jpeg", model_version="2"), ("image_jpeg", "2")),
    ],
)
def test_pin_stands_for_a_version_that_nobody_names(event: InferenceRequest, expected: tuple[str, str]) -> None:
    _, answered = applied(rules(), event)
    assert [(model, version) for _, _, model, version in answered] == [expected]


def test_pin_of_a_model_that_was_not_served_leaves_the_version_open() -> None:
    _, answered = applied(rules(text=Pin("text", "echo", "")), request(text_part()))
    assert answered == [(0, "text", "echo", "")]


@pytest.mark.parametrize(
    "event",
    [
        request(text_part()),
        request(text_part(), model="echo"),
        request(text_part(), model="echo", model_version="2"),
    ],
)
def test_forced_pin_answers_whatever_the_event_names(event: InferenceRequest) -> None:
    _, answered = applied(rules(text=Pin("text", "better", "9", forced=True)), event)
    assert answered == [(0, "text", "better", "9")]


def test_forced_pin_is_for_its_own_route_only() -> None:
    _, answered = applied(rules("text", "sound", text=Pin("text", "echo", "9", forced=True)))
    assert answered == [(0, "text", "echo", "9"), (1, "sound", "echo", "3"), (2, "text", "echo", "9")]


def test_route_stays_the_settings_one_though_another_model_answers() -> None:
    _, plan = rules(text=Pin("text", "better", "9", forced=True)).apply(EVENT, [Assignment(0, TEXT, "echo", "")])
    assert [each.route for each in plan] == [TEXT]


# --- what --model and --route say -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {}),
        (["echo:4"], {"text": ("echo", "4"), "sound": ("echo", "4")}),
        (["echo"], {"text": ("echo", ""), "sound": ("echo", "")}),
        (["text=echo:4"], {"text": ("echo", "4")}),
        (["text=better:1", "sound=worse"], {"text": ("better", "1"), "sound": ("worse", "")}),
        (["text=echo:04"], {"text": ("echo", "4")}),
        (["image_jpeg:2", "text=better:1"], {"photos": ("image_jpeg", "2"), "text": ("better", "1")}),
    ],
)
def test_forced_pins_are_of_the_routes_that_are_meant(options: list[str], expected: dict[str, tuple[str, str]]) -> None:
    assert forced_pins(options, ROUTES) == expected


WRITE = "write NAME:VERSION or ROUTE=NAME:VERSION, with a number as version"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["echo:latest"], f"--model echo:latest: {WRITE}"),
        (["echo:-1"], f"--model echo:-1: {WRITE}"),
        (["echo:²"], f"--model echo:²: {WRITE}"),
        ([f"echo:{10**18}"], f"--model echo:{10**18}: {WRITE}"),
        (["echo:1:2"], f"--model echo:1:2: {WRITE}"),
        ([":4"], f"--model :4: {WRITE}"),
        (["text="], f"--model text=: {WRITE}"),
        (["words=echo:4"], "there is no route words; routes: photos, text, sound"),
        (
            ["better:1"],
            "--model better:1: no route has model better; write ROUTE=better:1 for one that has another "
            "(models with a route: echo, image_jpeg)",
        ),
        (["echo:4", "text=better:1"], "--model: route text is given two models"),
        (["sound=echo", "echo:4"], "--model: route sound is given two models"),
    ],
)
def test_model_that_no_route_can_be_given_is_refused(options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        forced_pins(options, ROUTES)


def test_unknown_routes_are_refused_all_at_once() -> None:
    check_routes(["text", "photos"], ROUTES)
    with pytest.raises(ConfigError, match=r"^there is no route a, b; routes: photos, text, sound$"):
        check_routes(["a", "text", "b"], ROUTES)


# --- through the processor ------------------------------------------------------------------------------------------

IMAGES = {"name": "photos", "model": "image_jpeg", "match": {"modality": ["IMAGE"]}}


def bench_of(*routes: str, **pins: Pin) -> Bench:
    text = {**ROUTE, "also_to": [{"topic": "copies"}]}
    return Bench(text, IMAGES, rules=rules(*routes, **pins), emitted={"alerts": "json"})


@on_virtual_time
async def test_replayed_record_is_answered_though_its_deadline_is_long_past() -> None:
    bench = bench_of()
    task = await bench.open_text(("deadline", b"%d" % (EPOCH_MS - 10**9)))
    assert task.deadline_ms is None
    bench.processor.finish(task, answer(task))
    assert result_of(bench.output()).request_id == request().id


@on_virtual_time
async def test_record_whose_parts_are_all_left_out_is_done_without_outputs() -> None:
    bench = bench_of("photos")
    assert await bench.open((b"k", request_value(), ())) == {}
    unit = bench.flow.collect(1000)
    assert unit is not None
    assert (unit.commit.outputs, unit.commit.offsets, unit.commit.records) == ((), (OffsetCommit(P0, 1, ""),), 1)


@on_virtual_time
async def test_result_holds_the_parts_that_are_replayed() -> None:
    bench = bench_of("photos")
    parts = (text_part(), PHOTO, text_part("two", "last"))
    tasks = await bench.open((b"k", request_value(*parts), ()))
    assert {route: len(some) for route, some in tasks.items()} == {"photos": 1}
    [task] = tasks["photos"]
    assert (task.part, task.model, task.version) == (PHOTO, "image_jpeg", "4")
    bench.processor.finish(task, answer(task))
    assert [output.part for output in result_of(bench.output()).outputs] == ["photo"]


@on_virtual_time
async def test_record_waits_for_all_its_replayed_parts() -> None:
    bench = bench_of("text")
    parts = (text_part(), PHOTO, text_part("two", "last"))
    first, last = (await bench.open((b"k", request_value(*parts), ())))["text"]
    bench.processor.finish(last, answer(last))
    assert bench.committed() == []
    bench.processor.finish(first, answer(first))
    assert [output.part for output in result_of(bench.output()).outputs] == ["text", "last"]


@on_virtual_time
async def test_dead_letter_names_the_model_that_was_forced() -> None:
    bench = bench_of(text=Pin("text", "better", "9", forced=True))
    task = await bench.open_text(model="echo", model_version="2")
    assert (task.model, task.version) == ("better", "9")
    bench.processor.finish(task, PoisonError("infer", "MODEL_REJECTED", "no"))
    letter = bench.letter()
    assert (letter.route, letter.model) == ("text", "better")


@on_virtual_time
async def test_what_user_code_emits_and_second_records_are_not_written() -> None:
    bench = bench_of()
    seen: list[bool] = []

    def note(record: Record) -> None:
        record.emit("alerts", {"of": record.request.id})
        seen.append(record.result is not None)

    bench.user_code.before.append(note)
    bench.user_code.after["text"].append(note)
    task = await bench.open_text()
    bench.processor.finish(task, answer(task))
    await settle()
    assert seen == [False, True]
    assert result_of(bench.output()).request_id == request().id


@on_virtual_time
async def test_event_that_user_code_refuses_is_a_dead_letter_as_live() -> None:
    bench = bench_of()

    def refuse(record: Record) -> None:
        raise RejectError("TOO_DARK", "the photo is black")

    bench.user_code.before.append(refuse)
    await bench.open((b"k", request_value(), ()))
    assert letter_of(bench.output()).code == "TOO_DARK"
