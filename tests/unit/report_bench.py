"""Evaluations to report on: one with everything in it, one with nothing."""

from __future__ import annotations

import dataclasses
import itertools
import math
from functools import cache
from statistics import NormalDist

import numpy as np

from headrace.pipeline.demo import assets
from headrace.pipeline.evaluate.evaluation import (
    Analysis,
    Calibration,
    CalibrationBin,
    Case,
    Confusion,
    Evaluation,
    Example,
    FailureCount,
    Histogram,
    Position,
    Side,
)
from headrace.pipeline.evaluate.gate import Gate, judge
from headrace.pipeline.evaluate.measures import Interval, Measure, Slice
from headrace.pipeline.evaluate.statistics import drift

TOPIC = "inference.requests"
MAX_PLOT_BYTES = 20_000
"""Of one plot: how many a report has is bounded."""
THRESHOLDS = [
    {"metric": "accuracy", "route": "image", "max_drop": 0.02, "judged": "interval"},
    {"metric": "accuracy", "route": "image", "slice": {"by": "source"}, "max_drop": 0.03, "min_records": 50},
    {"metric": "cosine.*", "route": "text", "min": 0.98},
    {"metric": "failed", "route": "*", "max_rise": 0.005},
    {"metric": "inference_ms.p95", "route": "*", "max_rise": 5},
]


def interval(value: float, width: float) -> Interval:
    return Interval(value, value - width, value + width)


def measure(
    name: str,
    route: str,
    value: float,
    drop: float | None = None,
    *,
    by: str = "",
    of: str = "",
    records: int = 680,
    width: float = 0.01,
    paired: int | None = None,
) -> Measure:
    """``drop``: how much less than the baseline it is; None without a baseline. ``paired``: ``records`` if left out."""
    sliced = Slice(by, of) if by else None
    mine = interval(value, width)
    if drop is None:
        return Measure(name, route, sliced, records, mine)
    p_value = 2 * NormalDist().cdf(-abs(drop) / width * 1.96)
    theirs, pairs = interval(value + drop, width), records if paired is None else paired
    return Measure(name, route, sliced, records, mine, theirs, interval(-drop, width), p_value, pairs)


def whole_measures() -> list[Measure]:
    found = [
        measure("accuracy", "image", 0.871, 0.031, width=0.012),
        measure("agreement", "image", 0.928, width=0.014),
        measure("score", "image", 0.713, 0.012, width=0.015),
        measure("calibration_error", "image", 0.061, -0.022, width=0.009),
        measure("cosine.EMBEDDING", "text", 0.9981, width=0.0004),
        measure("max_abs.EMBEDDING", "text", 0.0042, width=0.0003),
        measure("segments_overlap", "audio", 0.973, width=0.008),
        measure("text_agreement", "speech", 0.912, width=0.021),
        measure("text_distance", "speech", 0.024, width=0.006),
        measure("brand.mentions", "speech", 1.31, -0.11, width=0.07),
        measure("failed", "*", 0.0155, 0.001, width=0.002, records=2000),
    ]
    for route, took in (("image", 21.4), ("text", 6.2), ("audio", 12.9), ("speech", 184.0)):
        found += [
            measure("inference_ms", route, took, 0.09 * took, width=0.03 * took),
            measure("inference_ms.p95", route, 1.9 * took, 0.1 * took, width=0.2 * took),
            measure("waiting_ms", route, 4.2, -0.1, width=0.4),
            measure("cost_ms", route, took / 5, 0.02 * took, width=0.005 * took),
        ]
    return found


def sliced_measures() -> list[Measure]:
    rng = np.random.default_rng(1)
    found = []
    for number in range(12):
        drop = 0.19 if number == 7 else float(rng.normal(0.0, 0.02))
        camera = f"/cameras/{number}"
        count = int(rng.integers(40, 90))
        found += [
            measure("accuracy", "image", 0.90 - drop, drop, by="source", of=camera, width=0.045, records=count),
            measure("agreement", "image", 0.95 - abs(drop), by="source", of=camera, width=0.03, records=count),
            measure("inference_ms", "image", 21.0 + number, -1.0, by="source", of=camera, width=2.0, records=count),
        ]
    found += [
        measure("accuracy", "image", 0.86, 0.04, by="header.light", of="dusk", width=0.03, records=310),
        measure("accuracy", "image", 0.88, 0.02, by="header.light", of="day", width=0.03, records=370),
        measure("cosine.EMBEDDING", "text", 0.9921, by="header.language", of="日本語", width=0.002, records=41),
        measure("cosine.EMBEDDING", "text", 0.9989, by="header.language", of="English", width=0.001, records=402),
    ]
    for hour in range(9, 21):
        drop = 0.01 + 0.006 * (hour - 9) + float(rng.normal(0, 0.006))
        start = f"2026-11-27T{hour:02d}:00:00Z"
        found += [
            measure("accuracy", "image", 0.90 - drop, drop, by="time", of=start, width=0.03, records=60),
            measure("agreement", "image", 0.96 - drop, by="time", of=start, width=0.02, records=60),
            measure("cosine.EMBEDDING", "text", 0.998 - drop / 90, by="time", of=start, width=0.0008, records=50),
            measure("inference_ms", "image", 20 + 3 * math.sin(hour), 1.2, by="time", of=start, width=1.5, records=60),
        ]
    return found


def histogram(name: str, route: str, edges: list[float], mine: list[float], theirs: list[float] | None) -> Histogram:
    counts = [tuple(map(int, np.histogram(each, edges)[0])) for each in (mine, theirs or [])]
    if theirs is None:
        return Histogram(name, route, tuple(edges), counts[0])
    apart = drift(np.array(mine), np.array(theirs))
    return Histogram(name, route, tuple(edges), counts[0], counts[1], apart)


def histograms() -> tuple[Histogram, ...]:
    rng = np.random.default_rng(2)
    unit = list(map(float, np.linspace(0, 1, 41)))
    near_one = list(map(float, np.linspace(0.98, 1, 41)))
    times = list(map(float, np.geomspace(1, 1000, 61)))
    scores = [list(rng.beta(a, 2, 680)) for a in (4.0, 4.6)]
    found = [
        histogram("score", "image", unit, scores[0], scores[1]),
        histogram("cosine.EMBEDDING", "text", near_one, list(1 - rng.gamma(2, 0.001, 480)), None),
        histogram("segments_overlap", "audio", unit, list(rng.beta(30, 1.2, 240)), None),
        histogram("text_distance", "speech", unit, list(rng.beta(1, 30, 240)), None),
    ]
    for route, took in (("image", 20.0), ("text", 6.0), ("audio", 12.0)):
        mine, theirs = (list(rng.lognormal(math.log(each), 0.4, 680)) for each in (took, took * 1.1))
        found.append(histogram("inference_ms", route, times, mine, theirs))
    return tuple(found)


def calibrations() -> tuple[Calibration, ...]:
    def bins(believed: float) -> tuple[CalibrationBin, ...]:
        scores = [0.05 + 0.1 * number for number in range(10)]
        return tuple(
            CalibrationBin(score, min(1.0, score**believed), 20 + 8 * place) for place, score in enumerate(scores)
        )

    return (Calibration("image", "candidate", bins(1.35), 0.061), Calibration("image", "baseline", bins(1.08), 0.039))


def confusions() -> tuple[Confusion, ...]:
    labels = ("tabby", "tiger cat", "espresso", "cup", "raccoon", "(other)")
    against_truth = (
        (130, 22, 0, 0, 3, 1),
        (9, 118, 0, 0, 0, 2),
        (0, 0, 141, 7, 0, 0),
        (0, 0, 12, 96, 0, 1),
        (2, 0, 0, 0, 88, 4),
        (1, 1, 0, 2, 1, 39),
    )
    flipped = tuple(
        tuple(n if row == column else n // 2 for column, n in enumerate(line)) for row, line in enumerate(against_truth)
    )
    return (Confusion("image", "truth", labels, against_truth), Confusion("image", "baseline", labels, flipped))


def case(
    offset: int,
    route: str,
    metric: str,
    answers: tuple[str | None, str | None, str],
    example: Example | None,
    value: float = 0.0,
) -> Case:
    """``answers``: what should have been, the baseline's, the candidate's."""
    truth, baseline, candidate = answers
    at = Position(TOPIC, offset % 8, offset)
    return Case(at, route, route, metric, value, "/cameras/7", "capture", truth, candidate, baseline, example)


def worst() -> tuple[Case, ...]:
    data = assets.load()
    photos = {photo.name: Example(photo.content_type, photo.data, "image 320 × 240") for photo in data.photos}
    clip = data.speech[0]
    wav = Example("audio/wav", assets.to_wav(clip.samples, clip.rate_hz), "audio 5.1 s, 16 kHz")
    told = Example(
        "text/plain", b"The mill by the river has been turning since the spring floods.", "text, 63 characters"
    )
    return (
        case(118, "image", "accuracy", ("tabby", "tabby 0.71", "tiger cat 0.66"), photos["cat.jpg"]),
        case(342, "image", "accuracy", ("espresso", "espresso 0.83", "cup 0.61"), photos["coffee.jpg"]),
        case(977, "image", "accuracy", ("raccoon", "raccoon 0.58", "tabby 0.52"), photos["raccoon.jpg"]),
        case(501, "text", "cosine.EMBEDDING", (None, "float32 [384]", "float32 [384]"), told, 0.9812),
        case(733, "audio", "segments_overlap", (None, "0.4–4.3 s speech", "0.4–1.2 s, 2.0–4.3 s speech"), wav, 0.79),
        case(1204, "speech", "text_distance", (None, "turn the wheel", "turn the veal"), None, 0.21),
    )  # fmt: skip


@cache
def full() -> Evaluation:
    """Everything: a baseline, labels, a gate that fails, each kind of figure, table and case."""
    measures = (*whole_measures(), *sliced_measures())
    models = ("audio: audio_vad:1", "image: image_jpeg:2", "speech: speech_text:1", "text: text_embedding:1")
    analysis = Analysis(
        events=2000,
        measures=measures,
        histograms=histograms(),
        calibrations=calibrations(),
        confusions=confusions(),
        failures=(
            FailureCount("decode", "image_not_readable", 21, 20),
            FailureCount("infer", "model_rejected", 7, 10),
            FailureCount("route", "no_route", 3, 3),
        ),
        worst=worst(),
        candidate=Side("run 20261127-093000-image-jpeg-v2", models, 1969, 31, 0),
        baseline=Side("live", tuple(each.replace("jpeg:2", "jpeg:1") for each in models), 1967, 33, 0),
    )
    return Evaluation(
        analysis=analysis,
        topic=TOPIC,
        ranges="0:100–351, 1:80–330, 2:91–340, 3:102–352, 4:95–345, 5:99–349, 6:88–339, 7:97–347",
        filters=("modality=IMAGE", "sample=50%"),
        labels="labels.csv",
        gate="gate.yaml",
        checks=judge(Gate.model_validate({"thresholds": THRESHOLDS}), measures),
        settings_sha256="9f2c4be1d0a7c35e88f1b6a2c90d47e3f5a1b2c3d4e5f60718293a4b5c6d7e8f",
        git_revision="2d332c9a1b7e4f60",
        created_ms=1_795_770_000_000,
        seconds=18.42,
    )


def bare() -> Evaluation:
    """Nothing: no event, no baseline, no labels, no gate."""
    analysis = Analysis(0, (), (), (), (), (), (), Side("run 20261127-093000", (), 0, 0, 0), None)
    return Evaluation(analysis, TOPIC, "0:0–0", (), None, None, (), None, None, 1_795_770_000_000, 0.2)


def with_text(text: str) -> Evaluation:
    """One in which each text that comes from events or settings is this one."""
    of = Slice(f"header.{text or '-'}", text)
    held = measure(text, text, 0.5, 0.1)
    timed = measure("accuracy", text, 0.5, 0.1, by="time", of="2026-11-27T09:00:00Z")
    measures = (
        held,
        dataclasses.replace(held, slice=of),
        measure("accuracy", text, 0.5, 0.1),
        timed,
        dataclasses.replace(timed, slice=Slice("time", "2026-11-27T10:00:00Z")),
    )
    examples = (Example(text, text.encode(), text), Example("text/plain", text.encode(), text), None)
    places = itertools.count()
    side = Side(text, (text,), 1, 0, 0)
    analysis = Analysis(
        1,
        measures,
        (Histogram(text, text, (0.0, 0.5, 1.0), (1, 2)),),
        (Calibration(text, "candidate", (CalibrationBin(0.5, 0.5, 3),), 0.0),),
        (Confusion(text, "truth", (text, "(other)"), ((1, 2), (0, 0))),),
        (FailureCount(text, text, 1, 0),),
        tuple(
            Case(Position(text, 0, next(places)), text, text, text, 0.0, text, text, text, text, text, each)
            for each in examples
        ),
        side,
        side,
    )
    threshold = {"thresholds": [{"metric": "*", "slice": {"by": of.by}, "max_drop": 0.01}]}
    checks = judge(Gate.model_validate(threshold), measures)
    return Evaluation(analysis, text, text, (text,), text, text, checks, text, text, 0, 0.0)
