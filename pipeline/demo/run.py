"""The demo from nothing to the verdict: a stack of its own, two workers, a run, and what came of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console

from headrace.connectors.embedded.owners import temporary_folder
from headrace.connectors.embedded.stack import Stack
from headrace.connectors.embedded.supervisor import wait_for_workers
from headrace.connectors.kafka.admin import ensure_topics
from headrace.connectors.registry import ConfluentRegistry
from headrace.pipeline.config import Settings
from headrace.pipeline.demo import assets, showcase
from headrace.pipeline.demo.drive import Drive, Encoded
from headrace.pipeline.demo.events import encode, plan
from headrace.pipeline.demo.observe import Observations
from headrace.pipeline.demo.report import Report, show_results, show_verdict
from headrace.pipeline.demo.view import LiveView, PlainView, View
from headrace.pipeline.outcomes import OutcomeDecoder
from headrace.pipeline.settings_file import load_settings
from headrace.pipeline.setup import register_contracts, topic_specs

WORKERS = 2
MAX_RATE = 40.0
"""Events a second that the bundled models keep up with on two cores."""
LOGS = Path("build/demo-logs")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says. ``seconds`` is how long sending takes, if the rate that needs is not too high.

    ``keep`` is a folder for data and logs; what was there is removed first.
    """

    events: int = 480
    seed: int = 7
    seconds: float = 28.0
    kill: bool = True
    keep: Path | None = None
    json_path: Path = Path("build/demo.json")


def run(options: Options, console: Console) -> Report:
    """The whole demo. Whatever happens, Ctrl-C too, nothing is left running and no temporary folder behind.

    Raises:
        StackError: the stack or a worker could not be started or kept running; logs are under ``build/demo-logs``.
    """
    began = time.monotonic()
    with _one_interrupt(console), contextlib.ExitStack() as resources:
        folder = temporary_folder("demo")
        resources.callback(shutil.rmtree, folder, ignore_errors=True)
        _say(console, began, "starting Kafka, schema registry and Triton on free ports")
        if options.keep is not None:
            shutil.rmtree(options.keep, ignore_errors=True)  # an earlier run's events would be strays in this one
        stack = resources.enter_context(Stack(options.keep.absolute() if options.keep else None))
        try:
            report, observations = _with_stack(options, console, stack, folder, began)
        except Exception:
            _save_logs(stack)
            raise
        if not report.passed:
            _save_logs(stack)
    report.write(options.json_path)
    answers = observations.answers()
    results = [*showcase.photos(answers), *showcase.neighbours(answers), *showcase.audio(answers)]
    show_results(console, results, showcase.letters(observations.letters()))
    show_verdict(console, report, _next_steps(options, report))
    return report


def _with_stack(
    options: Options, console: Console, stack: Stack, folder: Path, began: float
) -> tuple[Report, Observations]:
    config = folder / "pipeline.yaml"
    config.write_text("name: headrace-demo\n", "utf-8")  # built-in settings, whatever HEADRACE_CONFIG says
    settings = load_settings(config, {**os.environ, **stack.endpoints.environment()})
    with ConfluentRegistry(settings.registry.url, settings.registry.timeout_seconds) as registry:
        _say(console, began, "registering schemas, creating topics, starting two workers")
        ids = register_contracts(registry, settings)
        ensure_topics(settings.kafka.bootstrap_servers, topic_specs(settings), settings.kafka.client)
        stack.workers.start(WORKERS, config)
        events = _encoded(options, ids.request)
        wait_for_workers(stack)
        rate = min(MAX_RATE, options.events / options.seconds)
        _say(console, began, _plan_line(options, settings, rate))
        decoder = OutcomeDecoder(registry, settings.topics.dead_letters)
        view: View = LiveView(console) if console.is_terminal else PlainView(console)
        drive = Drive(settings, stack.workers, decoder, view, zero=began, rate=rate, kill=options.kill)
        drive.run(events)
    observations = drive.observations
    report = Report(
        verdict=observations.checker.verdict(),
        figures=observations.figures(time.monotonic(), finished=True),
        seed=options.seed,
        crashes=drive.crashes,
        unreadable=len(observations.unreadable),
        total_seconds=time.monotonic() - began,
    )
    return report, observations


def _encoded(options: Options, schema_id: int) -> list[Encoded]:
    """All events before the first is sent, so that making them takes no time from the measured run."""
    planned = plan(options.events, options.seed, assets.load(), round(time.time() * 1000))
    return [Encoded(event, encode(event, schema_id)) for event in planned]


def _plan_line(options: Options, settings: Settings, rate: float) -> str:
    killing = ", one worker killed halfway" if options.kill else ""
    return f"sending {options.events} events at {rate:.0f}/s into {settings.topics.partitions} partitions{killing}"


def _next_steps(options: Options, report: Report) -> list[tuple[str, str]]:
    steps = [
        (str(options.json_path), "these figures and more"),
        ("headrace up --detach", "the same stack, to stay"),
        ('headrace send "a river turns the mill" --wait', "one event and its result"),
        ("headrace tail", "results as they are committed"),
        ("headrace dlq list", "dead letters and their reasons"),
    ]
    if not report.passed:
        steps.insert(0, (f"{LOGS}/", "logs of workers and servers"))
    if options.keep is not None:
        steps.insert(0, (f"{options.keep}/", "data and logs of this run"))
    return steps


def _save_logs(stack: Stack) -> None:
    """Copy logs out of the folder that is about to be removed."""
    LOGS.mkdir(parents=True, exist_ok=True)
    for path in (Path(member.log) for member in stack.members()):
        for log in (path, Path(f"{path}.1")):
            if log.exists():
                shutil.copy(log, LOGS / log.name)


@contextlib.contextmanager
def _one_interrupt(console: Console) -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP ends the demo; more of them cannot disturb the cleaning up."""
    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in watched:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in watched}
    try:
        yield
    except KeyboardInterrupt:
        console.print("interrupted: everything is stopped and removed")
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(console: Console, began: float, text: str) -> None:
    console.print(f"{time.monotonic() - began:5.1f} s  {text}", highlight=False, markup=False, soft_wrap=True)
