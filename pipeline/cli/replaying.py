"""The course of one ``headrace replay``: plan it, put the run there, perform it, say how far it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from headrace import __version__
from headrace.connectors.kafka.history import KafkaTopicHistory
from headrace.connectors.kafka.ranges import read_ranges
from headrace.connectors.kafka.runs import RunStore
from headrace.connectors.registry import ConfluentRegistry
from headrace.connectors.triton import TritonInferenceClient
from headrace.pipeline.config import Settings
from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.errors import ConfigError, PoisonError
from headrace.pipeline.evaluate.answer_topics import RESERVED
from headrace.pipeline.exit_codes import ExitCode
from headrace.pipeline.interpreter import set_for_a_worker
from headrace.pipeline.ports import InferenceClient
from headrace.pipeline.replay.chosen import Choice, chosen
from headrace.pipeline.replay.connect import Replay, decoding
from headrace.pipeline.replay.manifest import Pin, Plan, Progress, Run, RunState, check_run_id
from headrace.pipeline.replay.pacing import Rate
from headrace.pipeline.replay.planning import git_revision, limited, pinned
from headrace.pipeline.replay.ranges import bound, resolve, total
from headrace.pipeline.replay.rules import check_routes, forced_pins
from headrace.pipeline.replay.settings import CallLimits, run_topics, settings_sha256

T = TypeVar("T")
BEHIND_LIVE_NICE = 10
"""So much a replay steps back for what else runs on its machine: it has time."""
LINE_SECONDS = 5.0
"""Between lines of progress where there is no terminal."""
JSON_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a user asks of a run, in the words of the command line."""

    topic: str
    begin: str
    end: str
    routes: tuple[str, ...]
    models: tuple[str, ...]
    filters: tuple[str, ...]
    limit: int | None
    run: str | None


def planned(settings: Settings, wishes: Wishes) -> Plan:
    """What a new run is to do, but for the models that it names: those are Triton's to know (see ``begin_run``).

    Raises:
        ConfigError: something that was asked for cannot be, or there is a run of that id.
        UnavailableError, FatalError: Kafka or the registry does not let us.
    """
    now_ms = time.time_ns() // 1_000_000
    wanted = chosen(wishes.filters)
    begin, end = bound(wishes.begin, now_ms), bound(wishes.end, now_ms)
    check_routes(wishes.routes, settings.routes)
    forced_pins(wishes.models, settings.routes)
    run_id = check_run_id(wishes.run or _made_id(now_ms, wishes.models))
    if run_id in RESERVED:
        raise ConfigError(f"--run {run_id}: to `headrace evaluate` that is no run; give it another id")
    kafka = settings.kafka
    with ConfluentRegistry.of(settings.registry) as registry:
        RunStore(settings, registry).check_new(run_id)
        history = KafkaTopicHistory(kafka.bootstrap_servers, wishes.topic, kafka.client)
        ranges = resolve(history, begin, end)
        if wishes.limit is not None:
            records = read_ranges(kafka, wishes.topic, ranges, settings.topics.max_message_bytes)
            ranges = limited(ranges, wishes.limit, records, Choice(wanted, decoding(registry, settings)).takes)
    results, dead_letters, progress = run_topics(settings, run_id)
    return Plan(
        run=run_id,
        topic=wishes.topic,
        ranges=ranges,
        filters=wishes.filters,
        limit=wishes.limit,
        routes=wishes.routes,
        models=(),
        results_topic=results,
        dead_letters_topic=dead_letters,
        progress_topic=progress,
        partitions=len(history.partitions),
        settings_sha256=settings_sha256(settings),
        git_revision=git_revision(Path.cwd()),
        headrace_version=__version__,
        created_ms=now_ms,
    )


def begin_run(settings: Settings, plan: Plan, models: tuple[str, ...]) -> Run:
    """Ask Triton what answers, and put the run into the runs topic.

    Args:
        settings: of the pipeline, with the Triton that the run is to have.
        plan: made by ``planned``.
        models: those that are asked for, in the words of the command line.

    Raises:
        ConfigError: a model that was asked for is not served, or there is a run of that id.
        UnavailableError, FatalError: Kafka, the registry or Triton does not let us.
    """
    replayed = [route for route in settings.routes if not plan.routes or route.name in plan.routes]
    plan = replace(plan, models=_pins(settings, replayed, forced_pins(models, settings.routes)))
    run = Run(plan, RunState.RUNNING, plan.created_ms)
    with ConfluentRegistry.of(settings.registry) as registry:
        RunStore(settings, registry).begin(run)
    return run


def resume_run(settings: Settings, run_id: str) -> Run:
    """The run to go on with.

    Raises:
        ConfigError: there is no such run, it is complete, or the settings have other routes now.
        UnavailableError, FatalError: Kafka or the registry does not let us.
    """
    with ConfluentRegistry.of(settings.registry) as registry:
        run = RunStore(settings, registry).named(run_id)
    if run.state is RunState.COMPLETE:
        raise ConfigError(f"run {run_id} is complete: there is nothing to go on with")
    plan = run.plan
    named = {route.name for route in settings.routes if not plan.routes or route.name in plan.routes}
    if changed := sorted(named ^ {pin.route for pin in plan.models}):
        raise ConfigError(
            f"run {run_id} was planned with other routes ({', '.join(changed)}): give it the settings that it began "
            "with, or begin a new run"
        )
    if plan.settings_sha256 != settings_sha256(settings):
        click.echo("the settings' routes or user code have changed since the run began", err=True)
    return run


def require_served(settings: Settings, run: Run) -> None:
    """Raises ConfigError if a version that the run is to have is not served: each of its events would be a dead letter.

    A model that was not served when the run was planned has no version in it: as live, its events have no result.
    """

    async def ask(inference: InferenceClient) -> None:
        for pin in [pin for pin in run.plan.models if pin.version]:
            try:
                await inference.signature(pin.model, pin.version)
            except PoisonError as error:
                raise ConfigError(
                    f"route {pin.route}: {error.message}; go on with run {run.plan.run} by --resume, and name the "
                    "model's repository by --model-repository, or replay without --own-triton"
                ) from error

    _asked(settings, ask)


def perform(
    settings: Settings,
    run: Run,
    rate: Rate,
    limits: CallLimits,
    *,
    as_json: bool,
    resume: bool,
    own: str = "",
    check: Callable[[], None] = lambda: None,
) -> int:
    """Replay, and say how far it is. Returns the exit code.

    Args:
        settings: of the pipeline.
        run: must be in the runs topic.
        rate: how fast.
        limits: of the infer calls.
        as_json: how progress is told.
        resume: whether another process began it.
        own: options to repeat when it is gone on with.
        check: called now and then; what it raises ends the replay.

    Raises:
        FatalError: it cannot go on.
    """
    with contextlib.suppress(OSError):
        os.nice(BEHIND_LIVE_NICE)
    set_for_a_worker()
    plan = run.plan
    replay = Replay(settings, run, rate, limits, resume=resume)
    view = _JsonView(plan) if as_json else _TextView(plan)
    view.begin(run)
    try:
        ended = asyncio.run(_until_signal(replay, view, check))
    finally:
        view.stop()
    view.end(ended)
    if ended.state is RunState.COMPLETE:
        return ExitCode.OK
    click.echo(f"stopped: headrace replay --resume {plan.run}{own} goes on with it", err=True)
    return ExitCode.INTERRUPTED


async def _until_signal(replay: Replay, view: _View, check: Callable[[], None]) -> Run:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop_or_break_off() -> None:
        if stop.is_set():  # asked twice: whatever it waits for is not waited for
            loop.remove_signal_handler(signal.SIGINT)
            loop.remove_signal_handler(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
        stop.set()

    def tell() -> None:
        check()
        view.tell(replay)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop_or_break_off)
    return await replay.perform(stop, tell)


def _pins(settings: Settings, routes: list[RouteSettings], forced: dict[str, tuple[str, str]]) -> tuple[Pin, ...]:
    return _asked(settings, lambda inference: pinned(routes, forced, inference))


def _asked(settings: Settings, ask: Callable[[InferenceClient], Awaitable[T]]) -> T:
    """What Triton says, by a client of its own."""

    async def answer() -> T:
        inference = TritonInferenceClient.of(settings.triton)
        try:
            return await ask(inference)
        finally:
            await inference.close()

    return asyncio.run(answer())


def _made_id(now_ms: int, models: tuple[str, ...]) -> str:
    """Of the time and what is tried: unique enough for a person, and it sorts."""
    time_of = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y%m%d-%H%M%S")
    tried = "-".join(pin.rpartition("=")[2].replace(":", "-v") for pin in models)
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in tried.lower())
    return f"{time_of}-{kept}"[:63].rstrip("-")


class _View:
    """What is said on the way. Progress is of offsets, of which some may have no record."""

    seconds = LINE_SECONDS

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._offsets = total(plan.ranges)
        self._told = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._first_answered = 0

    def begin(self, run: Run) -> None:
        """Before the first record."""

    def tell(self, replay: Replay) -> None:
        """Now and then."""
        now = time.monotonic()
        progress, remaining = replay.progress, replay.remaining
        if progress is None or remaining is None:
            return
        if self._first is None:
            self._first, self._first_answered = (now, remaining), progress.results + progress.dead_letters
        if now - self._told >= self.seconds:
            self._told = now
            self.show(self.numbers(progress, remaining, now, replay.waiting_for))

    def numbers(self, progress: Progress, remaining: int, now: float, waiting_for: tuple[str, ...]) -> dict[str, Any]:
        """How far it is, in numbers."""
        assert self._first is not None
        seconds = now - self._first[0]
        done = self._first[1] - remaining
        speed = done / seconds if seconds > 0 else 0.0
        answered = progress.results + progress.dead_letters - self._first_answered
        return {
            "run": progress.run,
            "state": "running",
            "offsets": self._offsets,
            "remaining_offsets": remaining,
            "results": progress.results,
            "dead_letters": progress.dead_letters,
            "resumed": progress.resumed,
            "per_second": round(answered / seconds, 1) if seconds > 0 else 0.0,
            "eta_seconds": round(remaining / speed, 1) if speed > 0 else None,
            "active_seconds": round(progress.active_seconds, 3),
            "waiting_for": list(waiting_for),
        }

    def show(self, progress: dict[str, Any]) -> None:
        """One state of affairs."""

    def stop(self) -> None:
        """Nothing more is shown."""

    def end(self, run: Run) -> None:
        """The outcome."""


class _JsonView(_View):
    seconds = JSON_SECONDS

    def show(self, progress: dict[str, Any]) -> None:
        click.echo(json.dumps(progress))

    def end(self, run: Run) -> None:
        remaining = 0 if run.state is RunState.COMPLETE else None
        last = {
            "run": run.plan.run,
            "state": run.state.value.lower(),
            "offsets": self._offsets,
            "remaining_offsets": remaining,
            "results": run.results,
            "dead_letters": run.dead_letters,
            "resumed": run.resumed,
            "active_seconds": round(run.active_seconds, 3),
            "results_topic": run.plan.results_topic,
            "dead_letters_topic": run.plan.dead_letters_topic,
        }
        click.echo(json.dumps(last))


class _TextView(_View):
    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._bar: Any = None
        if sys.stderr.isatty():
            from headrace.pipeline.cli.replay_bar import ReplayBar

            self._bar = ReplayBar(self._offsets)
            self.seconds = 0.2

    def begin(self, run: Run) -> None:
        plan = run.plan
        models = ", ".join(sorted({f"{pin.model}:{pin.version}" for pin in plan.models}))
        click.echo(
            f"run {plan.run}: {self._offsets:,} offsets of {plan.topic} in {len(plan.ranges)} partitions", err=True
        )
        click.echo(f"answered by {models}", err=True)

    def show(self, progress: dict[str, Any]) -> None:
        if self._bar is not None:
            self._bar.update(progress)
            return
        done = self._offsets - progress["remaining_offsets"]
        eta = progress["eta_seconds"]
        click.echo(
            f"{done:,} of {self._offsets:,} offsets, {progress['results']:,} results, "
            f"{progress['dead_letters']:,} dead letters, {progress['per_second']:,.1f}/s"
            + ("" if eta is None else f", {eta:,.0f} s to go")
            + (f"; waiting for {', '.join(progress['waiting_for'])}" if progress["waiting_for"] else ""),
            err=True,
        )

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def end(self, run: Run) -> None:
        click.echo(
            f"replay: run={run.plan.run} state={run.state.value.lower()} results={run.results} "
            f"dead_letters={run.dead_letters} resumed={run.resumed} seconds={run.active_seconds:.1f}"
        )
