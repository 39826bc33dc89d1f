"""The replay demo's files and verdict: what each version does to a photo, what is labelled, what counts as passed."""

from __future__ import annotations

import importlib.util
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from headrace.pipeline.compose import EventOptions
from headrace.pipeline.demo import assets
from headrace.pipeline.demo.check import Verdict
from headrace.pipeline.demo.commands import Commands, Json
from headrace.pipeline.demo.replay import scene
from headrace.pipeline.demo.replay.cameras import CAMERAS, UPSIDE_DOWN, taken, turned_round
from headrace.pipeline.demo.replay.events import SUBJECTS, PlannedEvent, plan
from headrace.pipeline.demo.replay.outcome import Judged, Report, read_judged
from headrace.pipeline.demo.replay.versions import MODEL, write_model, write_version
from headrace.pipeline.errors import StackError
from headrace.pipeline.evaluate.evaluation import Analysis, Evaluation, Side
from headrace.pipeline.evaluate.gate import judge, load_gate
from headrace.pipeline.evaluate.labels import read_labels
from headrace.pipeline.evaluate.measures import Interval, Measure, Slice
from headrace.pipeline.evaluate.report.metrics_file import metrics_json
from headrace.pipeline.event_lines import event_of_line
from headrace.pipeline.records import Modality
from headrace.pipeline.settings_file import load_settings

TEMPLATES = Path(__file__).resolve().parents[2] / "triton_models"
EVENTS = 300
PLENTY = 50_000_000


@pytest.fixture(scope="module")
def data() -> assets.Assets:
    return assets.load()


@pytest.fixture(scope="module")
def events(data: assets.Assets) -> list[PlannedEvent]:
    return list(plan(EVENTS, 7, data))


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled image model as it is rendered, without its weights."""
    repository = tmp_path_factory.mktemp("bundled")
    version = repository / "image_jpeg" / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_bytes((TEMPLATES / "image_jpeg" / "config.pbtxt").read_bytes())
    (version / "model.py").write_bytes((TEMPLATES / "image_jpeg" / "1" / "model.py").read_bytes())
    (version / "serving").mkdir()
    for file in (TEMPLATES / "serving").glob("*.py"):
        (version / "serving" / file.name).write_bytes(file.read_bytes())
    return repository


@pytest.fixture(scope="module")
def pixels_of(bundled: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, ModuleType]:
    """Version → its module that makes pixels."""
    folder = tmp_path_factory.mktemp("versions")
    found = {}
    for version in (1, 2, 3):
        write_version(bundled, folder / str(version), version)
        spec = importlib.util.spec_from_file_location(f"pixels_{version}", folder / str(version) / "serving/image.py")
        assert spec is not None
        assert spec.loader is not None
        found[version] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found[version])
    return found


# --- photos and versions


def jpeg(data: assets.Assets, name: str = "coffee.jpg") -> bytes:
    (photo,) = (photo for photo in data.photos if photo.name == name)
    return photo.data


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def test_photo_turned_round_looks_the_same_to_whoever_heeds_exif(data: assets.Assets) -> None:
    upright = cv2.imdecode(np.frombuffer(jpeg(data), np.uint8), cv2.IMREAD_COLOR)
    stored = np.frombuffer(turned_round(jpeg(data)), np.uint8)
    assert upright is not None
    heeded = cv2.imdecode(stored, cv2.IMREAD_COLOR)
    ignored = cv2.imdecode(stored, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert heeded is not None
    assert ignored is not None
    assert difference(heeded, upright) < 3
    assert difference(cv2.rotate(ignored, cv2.ROTATE_180), upright) < 3
    assert difference(ignored, upright) > 20


def test_only_one_camera_hangs_upside_down(data: assets.Assets) -> None:
    photo = data.photos[0]
    marked = {camera for camera in CAMERAS if b"Exif\0\0" in taken(np.random.default_rng(1), camera, photo)}
    assert marked == {UPSIDE_DOWN}


@pytest.mark.parametrize(("version", "upright"), [(1, True), (2, False), (3, True)])
def test_version_heeds_orientation_but_for_the_second(
    pixels_of: dict[int, ModuleType], data: assets.Assets, version: int, upright: bool
) -> None:
    image = pixels_of[version]
    as_is, turned = (image.decode(each, PLENTY) for each in (jpeg(data), turned_round(jpeg(data))))
    assert (difference(as_is, turned) < 3) is upright


def test_next_versions_see_the_whole_square(pixels_of: dict[int, ModuleType]) -> None:
    framed = np.zeros((448, 448, 3), np.uint8)
    framed[20:-20, 20:-20] = 255
    corners = {version: int(image.prepare(framed)[0, 0].max()) for version, image in pixels_of.items()}
    assert corners == {1: 255, 2: 0, 3: 0}


def test_version_that_does_not_fit_the_bundled_model_is_refused(bundled: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "image_jpeg" / "1" / "serving"
    other.mkdir(parents=True)
    (other / "image.py").write_text("# other code\n")
    with pytest.raises(StackError, match="versions do not fit it"):
        write_version(tmp_path / "other", tmp_path / "2", 2)


def test_model_has_a_name_of_its_own_and_serves_all_versions(bundled: Path, tmp_path: Path) -> None:
    write_model(bundled, tmp_path / "models")
    config = (tmp_path / "models" / MODEL / "config.pbtxt").read_text()
    assert f'name: "{MODEL}"' in config
    assert "version_policy: { all { } }" in config
    assert (tmp_path / "models" / MODEL / "1" / "model.py").exists()


# --- events and files


def test_plan_is_the_same_for_the_same_seed(data: assets.Assets) -> None:
    longer, shorter, other = (list(plan(count, seed, data)) for count, seed in ((40, 7), (30, 7), (30, 8)))
    assert shorter == longer[:30]
    assert shorter != other


def test_events_are_of_every_modality_and_most_photos_are_labelled(events: list[PlannedEvent]) -> None:
    kinds = Counter(event.type for event in events)
    assert kinds.keys() == {"demo.photo", "demo.captioned", "demo.text", "demo.sound"}
    photos = [part for event in events for part in event.parts if part.name == "photo"]
    assert 0.5 < len(photos) / len(events) < 0.7
    assert 0.5 < sum(part.label is not None for part in photos) / len(photos) < 0.7
    assert len({event.id for event in events}) == EVENTS


def test_cameras_see_the_labelled_photos_equally_often(events: list[PlannedEvent]) -> None:
    seen = Counter((event.source, part.label) for event in events for part in event.parts if part.label is not None)
    assert len(seen) == len(CAMERAS) * len(SUBJECTS)
    assert max(seen.values()) - min(seen.values()) <= 1


def test_scene_is_what_headrace_reads(bundled: Path, tmp_path: Path, events: list[PlannedEvent]) -> None:
    folder = tmp_path / "scene"
    scene.write_scene(folder, bundled, events)
    routes = {route.model: route.version for route in load_settings(folder / scene.CONFIG, {}).routes}
    assert routes == {"text_embedding": "", MODEL: "1", "audio_vad": ""}
    assert load_gate(folder / scene.GATE).thresholds
    truths = list(read_labels(folder / scene.LABELS))
    assert {truth.id: truth.label for truth in truths} == {
        event.id: part.label for event in events for part in event.parts if part.label is not None
    }
    lines = (folder / scene.EVENTS).read_bytes().splitlines()
    assert len(lines) == EVENTS
    first = {event.type: (event, line) for event, line in reversed(list(zip(events, lines, strict=True)))}
    modalities = {"photo": Modality.IMAGE, "text": Modality.TEXT, "sound": Modality.AUDIO}
    for event, line in first.values():
        request = event_of_line(line.replace(b"media/", f"{folder}/media/".encode()), 1, EventOptions(), 0, PLENTY)
        assert (request.request.id, request.request.source) == (event.id, event.source)
        assert {part.name: part.modality for part in request.request.parts} == {
            part.name: modalities[part.name] for part in event.parts
        }
    assert {path.name for path in (folder / "next").iterdir()} == {"2", "3"}


# --- commands


def test_command_runs_where_it_is_told_and_its_objects_are_seen(tmp_path: Path) -> None:
    shown: list[str] = []
    seen: list[Json] = []
    commands = Commands(tmp_path, tmp_path / "logs", {"WORD": "mill"}, shown.append)

    def watch(line: Json) -> bool:
        seen.append(line)
        return False

    line = 'echo "{\\"word\\": \\"$WORD\\", \\"at\\": \\"$PWD\\"}"; echo no object'
    assert commands.run(line, "echo", 20, watch=watch) == 0
    assert (seen, shown) == ([{"word": "mill", "at": str(tmp_path)}], [line])


def test_command_is_killed_when_enough_is_seen(tmp_path: Path) -> None:
    commands = Commands(tmp_path, tmp_path / "logs", {}, lambda _: None)
    line = "echo '{\"n\": 1}'; echo '{\"n\": 2}'; exec sleep 60"
    assert commands.run(line, "loop", 20, watch=lambda said: said["n"] == 2) is None


def test_command_that_fails_says_what_it_printed_last(tmp_path: Path) -> None:
    commands = Commands(tmp_path, tmp_path / "logs", {}, lambda _: None)
    with pytest.raises(StackError, match=r"ended with 3; log [^\n]*\n\s+no such thing"):
        commands.run("echo no such thing; exit 3", "bad", 20)
    assert commands.run("exit 3", "fine", 20, fine=(0, 3)) == 3


def test_headrace_in_a_command_is_this_one(tmp_path: Path) -> None:
    commands = Commands(tmp_path, tmp_path / "logs", {}, lambda _: None)
    commands.run("headrace --version", "version", 60)
    assert (tmp_path / "logs" / "version.log").read_text().startswith("headrace, version")


# --- verdict

ONCE = Verdict(sent=300, results=300, dead_letters=0, duplicates=0, missing=0, findings=())
REFUSED = Judged(False, (f"source:{UPSIDE_DOWN}",), ("accuracy fell",))
TAKEN = Judged(True, (), ())
GOOD = Report((ONCE, ONCE), 2, REFUSED, TAKEN, Path("build/replay-demo/before/report.html"))


def test_last_line_has_the_figures() -> None:
    assert GOOD.passed
    assert GOOD.last_line() == (
        "replay-demo: replayed=300 resumed=2 duplicates=0 missing=0 gate_before=fail slice=source:cameras/hall "
        "gate_after=pass report=build/replay-demo/before/report.html"
    )


@pytest.mark.parametrize(
    "bad",
    [
        replace(GOOD, counts=(ONCE, replace(ONCE, duplicates=1))),
        replace(GOOD, counts=(replace(ONCE, results=299, missing=1), ONCE)),
        replace(GOOD, resumed=1),
        replace(GOOD, before=TAKEN),
        replace(GOOD, before=replace(REFUSED, failed_slices=("all", f"source:{UPSIDE_DOWN}"))),
        replace(GOOD, after=REFUSED),
    ],
)
def test_whatever_is_not_as_it_must_be_fails_the_demo(bad: Report) -> None:
    assert not bad.passed


def accuracy(of: Slice | None, drop: float) -> Measure:
    value = Interval(0.6 - drop, 0.5, 0.7)
    return Measure(
        "accuracy", scene.ROUTE, of, 100, value, Interval(0.6, 0.5, 0.7), Interval(-drop, -0.3, 0.1), 0.01, 100
    )


def test_slice_that_a_gate_refuses_is_read_from_the_metrics(
    bundled: Path, tmp_path: Path, events: list[PlannedEvent]
) -> None:
    """By the demo's own gate, which is about each camera, and not only about all of them together."""
    scene.write_scene(tmp_path / "scene", bundled, events[:20])
    gate = load_gate(tmp_path / "scene" / scene.GATE)
    same = Interval(1.0, 1.0, 1.0)
    measures = (
        accuracy(None, -0.02),
        accuracy(Slice("source", "cameras/north"), -0.09),
        accuracy(Slice("source", UPSIDE_DOWN), 0.26),
        Measure("cosine.EMBEDDING", "text", None, 100, same),
        Measure("segments_overlap", "audio", None, 100, same),
        Measure("missing", "*", None, 300, Interval(0.0, 0.0, 0.0)),
    )
    side = Side("run v2", (), 300, 0, 0)
    evaluation = Evaluation(
        Analysis(300, measures, (), (), (), (), (), side, side),
        *("inference.requests", "0:0–300", (), scene.LABELS, scene.GATE, judge(gate, measures), None, None, 0, 1.0),
    )
    (tmp_path / "metrics.json").write_text(metrics_json(evaluation))
    judged = read_judged(tmp_path / "metrics.json")
    assert (judged.passed, judged.failed_slices) == (False, REFUSED.failed_slices)
    assert "source=cameras/hall" in judged.problems[0]
