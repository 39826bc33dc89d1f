"""The demo from nothing to the verdict: a stack of its own, two workers, a run, and what came of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from headrace.connectors.embedded.locks import file_lock
from headrace.connectors.embedded.owners import temporary_folder
from headrace.connectors.embedded.stack import Stack
from headrace.connectors.embedded.supervisor import wait_for_workers
from headrace.connectors.kafka.admin import ensure_topics
from headrace.connectors.registry import ConfluentRegistry
from headrace.pipeline.config import Settings
from headrace.pipeline.demo import assets, showcase
from headrace.pipeline.demo.drive import Drive
from headrace.pipeline.demo.events import Encoded, encode, plan
from headrace.pipeline.demo.figures import check_writable
from headrace.pipeline.demo.interrupts import Interrupts
from headrace.pipeline.demo.logs import keep_logs
from headrace.pipeline.demo.observe import Observations
from headrace.pipeline.demo.report import Report, show_results, show_verdict
from headrace.pipeline.demo.telling import Narrator
from headrace.pipeline.demo.view import LiveView, PlainView, View
from headrace.pipeline.errors import ConfigError, StackError
from headrace.pipeline.outcomes import OutcomeDecoder
from headrace.pipeline.settings_file import load_settings
from headrace.pipeline.setup import register_contracts, topic_specs

WORKERS = 2
MAX_RATE = 40.0
"""Events a second that the bundled models keep up with on two cores."""
LOGS = Path("build/demo-logs")
IN_USE_SECONDS = 1.0


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
        ConfigError: the figures or the data could not be written where ``options`` says.
        StackError: the stack or a worker could not be started or kept running; logs are under ``build/demo-logs``.
    """
    began = time.monotonic()
    check_writable(options.json_path)
    left = f"; data and logs are in {options.keep}/" if options.keep else " and removed"
    bye = f"interrupted: everything is stopped{left}"
    with Interrupts(lambda: console.print(bye)) as interrupts, contextlib.ExitStack() as cleanup:
        folder = temporary_folder("demo")
        cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
        data_dir = cleanup.enter_context(_kept(options.keep)) if options.keep else folder / "stack"
        stack = Stack(data_dir)
        cleanup.callback(stack.stop if options.keep else stack.kill)  # what is removed anyway need not be saved first
        with interrupts.allowed():
            try:
                Narrator(console, began).say("starting Kafka, schema registry and Triton on free ports")
                stack.start()
                report, observations = _with_stack(options, console, stack, folder, began)
            except StackError as error:
                if not keep_logs(data_dir, LOGS, console) or options.keep:
                    raise
                raise StackError(str(error).replace(str(data_dir), str(LOGS))) from error  # it names logs, mostly
            except Exception:
                keep_logs(data_dir, LOGS, console)
                raise
            if not report.passed:
                keep_logs(data_dir, LOGS, console)
    answers = observations.answers()
    results = [*showcase.photos(answers), *showcase.neighbours(answers), *showcase.audio(answers)]
    show_results(console, results, showcase.letters(observations.letters()))
    show_verdict(console, report, _next_steps(options, report))
    return report


@contextlib.contextmanager
def _kept(folder: Path) -> Iterator[Path]:
    """The folder, absolute and without an earlier run's data, whose events would be strays in this one.

    The lock is beside it: a run that goes on there must not lose its data, nor the lock itself.

    Raises:
        ConfigError: it cannot be made or emptied.
        StackError: another demo uses it.
    """
    absolute = folder.absolute()
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(file_lock(absolute.with_name(f"{folder.name}.lock"), IN_USE_SECONDS, f"{folder}/"))
            if absolute.exists():
                shutil.rmtree(absolute)
            absolute.mkdir()
        except OSError as error:
            raise ConfigError(
                f"{folder}/ cannot be used ({error.strerror}): run the demo in a folder of your own"
            ) from error
        yield absolute


def _with_stack(
    options: Options, console: Console, stack: Stack, folder: Path, began: float
) -> tuple[Report, Observations]:
    data = assets.load()
    config = folder / "pipeline.yaml"
    config.write_text("name: headrace-demo\n", "utf-8")  # built-in settings, whatever HEADRACE_CONFIG says
    settings = load_settings(config, {**os.environ, **stack.endpoints.environment()})
    with ConfluentRegistry.of(settings.registry) as registry:
        Narrator(console, began).say("registering schemas, creating topics, starting two workers")
        ids = register_contracts(registry, settings)
        ensure_topics(settings.kafka.bootstrap_servers, topic_specs(settings), settings.kafka.client)
        stack.workers.start(WORKERS, config)
        events = _encoded(options, data, ids.request)
        wait_for_workers(stack)
        rate = min(MAX_RATE, options.events / options.seconds)
        Narrator(console, began).say(_plan_line(options, settings, rate))
        decoder = OutcomeDecoder(registry, settings.topics.dead_letters)
        view: View = LiveView(console) if console.is_terminal else PlainView(console)
        drive = Drive(settings, stack.workers, decoder, view, zero=began, rate=rate, kill=options.kill)
        drive.run(events)
    observations = drive.observations
    report = Report(
        verdict=observations.verdict(data.sentences),
        figures=observations.figures(time.monotonic(), finished=True),
        seed=options.seed,
        crashes=drive.watch.crashes,
        unreadable=len(observations.unreadable),
        total_seconds=time.monotonic() - began,
    )
    return report, observations


def _encoded(options: Options, data: assets.Assets, schema_id: int) -> list[Encoded]:
    """All events before the first is sent, so that making them takes no time from the measured run."""
    planned = plan(options.events, options.seed, data, round(time.time() * 1000))
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
