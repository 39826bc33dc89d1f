"""The course of one ``headrace evaluate``: find what is compared, gather it, analyse it, judge it, write it down."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from headrace.connectors.kafka.runs import RunStore
from headrace.connectors.registry import ConfluentRegistry
from headrace.connectors.video.sampler import ProcessSampler
from headrace.pipeline.cli.gathering import EventsAt, Gathering, Progress
from headrace.pipeline.cli.gathering_jobs import Scope
from headrace.pipeline.cli.processes import usual_count
from headrace.pipeline.config import Settings
from headrace.pipeline.config_video import Sampling, VideoSettings
from headrace.pipeline.errors import ConfigError, PoisonError
from headrace.pipeline.evaluate.analysis import AnalysisRequest, analyse
from headrace.pipeline.evaluate.answer_topics import (
    LIVE,
    NONE,
    SHADOW,
    AnswerTopics,
    live_answers,
    run_answers,
    shadow_answers,
)
from headrace.pipeline.evaluate.comparators import load_comparator
from headrace.pipeline.evaluate.compare import Files
from headrace.pipeline.evaluate.compared import LeftOut, replayed_parts, shadowed_parts
from headrace.pipeline.evaluate.evaluation import Analysis, Evaluation
from headrace.pipeline.evaluate.examples import SIDE_PIXELS, with_examples
from headrace.pipeline.evaluate.gate import Gate, judge, load_gate
from headrace.pipeline.evaluate.junit import junit_xml
from headrace.pipeline.evaluate.measures import HEADER
from headrace.pipeline.evaluate.report import metrics_json, render_html, render_markdown
from headrace.pipeline.evaluate.store import connect
from headrace.pipeline.inference import plan_of
from headrace.pipeline.replay.manifest import Run, RunState
from headrace.pipeline.replay.ranges import PartitionRange, bound
from headrace.pipeline.replay.settings import settings_sha256

JUDGED_BY_LABELS = ("accuracy", "text_accuracy")
ONE_FRAME = VideoSettings(sample=Sampling.COUNT, count=1, max_side_pixels=SIDE_PIXELS)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a user asks for, in the words of the command line."""

    candidate: str
    against: str
    partial: bool
    topic: str | None
    begin: str
    end: str
    filters: tuple[str, ...]
    labels: str | None
    gate: Path | None
    slices: tuple[str, ...]
    comparators: tuple[str, ...]
    out: Path
    junit: Path | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is evaluated: which events it was to answer, and where its answers are; of a run, also that."""

    scope: Scope
    answers: AnswerTopics
    run: Run | None


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An evaluation, and what is to be said beside it."""

    evaluation: Evaluation
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """The files of an evaluation."""

    report: Path
    markdown: Path
    metrics: Path


def evaluate(settings: Settings, wishes: Wishes, progress: Progress) -> Evaluated:
    """Compare, and judge what comes of it.

    Raises:
        ConfigError: something that was asked for cannot be.
        UnavailableError, FatalError: Kafka or the registry does not let us.
        OSError: nothing can be written where the report is to be.
    """
    began = time.monotonic()
    now_ms = time.time_ns() // 1_000_000
    gate = load_gate(wishes.gate) if wishes.gate else None
    _check_names(settings, wishes)
    with (
        ConfluentRegistry.of(settings.registry) as registry,
        tempfile.TemporaryDirectory(prefix="headrace-evaluate-") as folder,
        closing(Gathering(settings, progress, usual_count())) as gathering,
    ):
        runs = RunStore(settings, registry)
        candidate = _candidate(settings, wishes, runs, gathering, now_ms)
        baseline = _baseline(settings, wishes, runs, candidate)
        wishes.out.mkdir(parents=True, exist_ok=True)  # that it cannot be is found out before all is read
        analysis, notes = _analysed(wishes, gate, gathering, candidate, baseline, Path(folder))
        with closing(EventsAt(settings, registry, candidate.scope.topic)) as event_at:
            worst = tuple(with_examples(analysis.worst, event_at, _frame))
    plan = candidate.run.plan if candidate.run else None
    if plan is not None and plan.settings_sha256 != settings_sha256(settings):
        notes.append("the settings' routes or user code have changed since the run began")
    evaluation = Evaluation(
        analysis=replace(analysis, worst=worst),
        topic=candidate.scope.topic,
        ranges=", ".join(map(_in_words, candidate.scope.ranges)),
        filters=candidate.scope.filters,
        labels=wishes.labels,
        gate=str(wishes.gate) if wishes.gate else None,
        checks=judge(gate, analysis.measures, analysis.slices) if gate else (),
        settings_sha256=plan.settings_sha256 if plan else None,
        git_revision=plan.git_revision if plan else None,
        created_ms=now_ms,
        seconds=time.monotonic() - began,
    )
    return Evaluated(evaluation, tuple(notes))


def write(evaluation: Evaluation, wishes: Wishes) -> Written:
    """The evaluation's files. Raises OSError."""
    folder, junit = wishes.out, wishes.junit
    written = Written(folder / "report.html", folder / "report.md", folder / "metrics.json")
    written.report.write_text(render_html(evaluation), encoding="utf-8")
    written.markdown.write_text(render_markdown(evaluation), encoding="utf-8")
    written.metrics.write_text(metrics_json(evaluation), encoding="utf-8")
    if junit is not None:
        junit.parent.mkdir(parents=True, exist_ok=True)
        junit.write_bytes(junit_xml(evaluation.checks, f"headrace evaluate {evaluation.analysis.candidate.title}"))
    return written


# --- what is compared


def _check_names(settings: Settings, wishes: Wishes) -> None:
    """What would otherwise be found out when all is read. Raises ConfigError."""
    if wrong := [each for each in wishes.slices if not each.removeprefix(HEADER) or not each.startswith(HEADER)]:
        raise ConfigError(f"--slice {wrong[0]}: write header.NAME; by the other things there are slices anyway")
    folder = settings.user_code.path or str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    for path in wishes.comparators:
        load_comparator(path)


def _candidate(settings: Settings, wishes: Wishes, runs: RunStore, gathering: Gathering, now_ms: int) -> Candidate:
    if wishes.candidate != SHADOW:
        run = _finished(runs.named(wishes.candidate), wishes.partial)
        plan = run.plan
        parts_of = partial(replayed_parts, settings.routes, plan.routes)
        return Candidate(Scope(plan.topic, plan.ranges, plan.filters, plan.routes, parts_of), run_answers(plan), run)
    routes = tuple(route.name for route in settings.routes if route.shadow)
    if not routes:
        raise ConfigError("no route has a shadow (routes[].shadow): there is nothing to evaluate")
    topic = wishes.topic or settings.topics.requests[0]
    ranges = gathering.ranges(topic, bound(wishes.begin, now_ms), bound(wishes.end, now_ms))
    scope = Scope(topic, ranges, wishes.filters, routes, partial(shadowed_parts, settings.routes), undecodable=False)
    return Candidate(scope, shadow_answers(settings), None)


def _baseline(settings: Settings, wishes: Wishes, runs: RunStore, candidate: Candidate) -> AnswerTopics | None:
    if wishes.against == NONE:
        return None
    if wishes.against == LIVE:
        return live_answers(settings)
    plan = _finished(runs.named(wishes.against), wishes.partial).plan
    if plan.topic != candidate.scope.topic:
        raise ConfigError(f"run {plan.run} is of {plan.topic}, not of {candidate.scope.topic}: no event is in both")
    return run_answers(plan)


def _finished(run: Run, partial: bool) -> Run:
    if run.state is not RunState.COMPLETE and not partial:
        raise ConfigError(
            f"run {run.plan.run} is not complete ({run.state.lower()}): `headrace replay --resume {run.plan.run}` goes "
            "on with it; --partial compares what it has"
        )
    return run


def _in_words(held: PartitionRange) -> str:
    return f"{held.partition}:{held.start:,}–{held.end:,}"


# --- the comparison


def _analysed(
    wishes: Wishes,
    gate: Gate | None,
    gathering: Gathering,
    candidate: Candidate,
    baseline: AnswerTopics | None,
    folder: Path,
) -> tuple[Analysis, list[str]]:
    """What comes of the comparison, and what is to be said beside it."""
    scope, answers = candidate.scope, candidate.answers
    candidate_failures, baseline_failures = (folder / f"failures-{side}-*.parquet" for side in "cb")
    files = Files(
        events=folder / "events-*.parquet",
        candidate=folder / "candidate-*.parquet",
        baseline=folder / "baseline-*.parquet" if baseline else None,
        truths=folder / "truths.parquet" if wishes.labels else None,
        candidate_failures=candidate_failures if answers.dead_letters else None,
        baseline_failures=baseline_failures if baseline else None,
    )
    with connect(folder / "spill") as database:
        if wishes.labels and files.truths:
            gathering.truths(files.truths, wishes.labels, database, folder / "labels.parquet")
        events = gathering.events(files.events, scope)
        if not events.count:
            raise ConfigError(f"{scope.topic} has no event in the range that is chosen: there is nothing to compare")
        left_out = gathering.answers(files.candidate, candidate_failures, answers, scope, events)
        notes = _notes(answers, left_out)
        if answers.own and left_out.others:
            notes.append(
                f"{answers.title}: {left_out.others:,} outcomes of events that its range and filters leave out"
            )
        if baseline and files.baseline:
            notes += _notes(baseline, gathering.answers(files.baseline, baseline_failures, baseline, scope, events))
        gathering.close()
        gathering.progress.begin("analysing", 0)
        judged = gate.slices if gate else ()
        request = AnalysisRequest(
            candidate_title=answers.title,
            baseline_title=baseline.title if baseline else None,
            slices=(*wishes.slices, *(each.by for each in judged if each.by.startswith(HEADER))),
            judged=judged,
            comparators=wishes.comparators,
        )
        analysis = analyse(database, files, folder, request)
    if wishes.labels and not any(measure.name in JUDGED_BY_LABELS for measure in analysis.measures):
        notes.append(f"{wishes.labels}: no label is of an answer that is compared")
    if analysis.labels_left_out:
        notes.append(
            f"{wishes.labels}: {analysis.labels_left_out:,} labels are left out: their events have several parts, and "
            "they do not say which part they are of"
        )
    return analysis, notes


def _notes(side: AnswerTopics, left_out: LeftOut) -> list[str]:
    if not left_out.unreadable:
        return []
    return [f"{side.title}: {left_out.unreadable:,} records are neither result nor dead letter, and left out"]


def _frame(video: bytes) -> bytes | None:
    """A frame of an MP4 as a JPEG; None if it has none that can be decoded."""

    async def sampled() -> bytes:
        sampler = ProcessSampler(1)
        try:
            return (await sampler.sample(video, plan_of(ONE_FRAME, 1))).images[0]
        finally:
            await sampler.close()

    try:
        return asyncio.run(sampled())
    except PoisonError:
        return None
