"""The resilience demo from nothing to the verdict: a stack of its own, one worker, three things that go wrong."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from headrace.connectors.embedded.stack import Stack
from headrace.connectors.embedded.supervisor import wait_for_workers
from headrace.connectors.kafka.admin import ensure_topics
from headrace.connectors.registry import ConfluentRegistry
from headrace.pipeline.demo import assets
from headrace.pipeline.demo.commands import Commands
from headrace.pipeline.demo.figures import check_writable
from headrace.pipeline.demo.logs import keep_logs
from headrace.pipeline.demo.resilience import scene
from headrace.pipeline.demo.resilience.counting import count
from headrace.pipeline.demo.resilience.course import Course
from headrace.pipeline.demo.resilience.events import Planner
from headrace.pipeline.demo.resilience.outcome import Report
from headrace.pipeline.demo.resilience.traffic import Traffic
from headrace.pipeline.demo.stage import DATA, on_stage
from headrace.pipeline.demo.telling import Narrator
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.outcomes import OutcomeDecoder
from headrace.pipeline.settings_file import load_settings
from headrace.pipeline.setup import register_contracts, topic_specs

NAME = "demo-resilience"
SCENE = "scene"
LOGS = Path("build/demo-resilience-logs")
FINDINGS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    seed: int = 7
    json_path: Path = Path("build/demo-resilience.json")


def write_files(folder: Path) -> None:
    """Write the demo's files, for following it by hand.

    Raises:
        ConfigError: the folder cannot be written, or holds something.
        StackError: the bundled models could not be made ready.
    """
    bundled = Stack().prepare().repository
    try:
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"{folder}/ is not empty: name another folder")
        scene.write_scene(folder, bundled, assets.load())
    except OSError as error:
        raise ConfigError(f"{folder}/ cannot be written ({error.strerror}): name another folder") from error


def run(options: Options, console: Console) -> Report:
    """The whole demo. Whatever happens, Ctrl-C too, nothing is left running and no temporary folder behind.

    Raises:
        ConfigError: the figures could not be written where ``options`` says.
        StackError: something could not be started, or did not happen; logs are under ``build/demo-resilience-logs``.
    """
    narrator = Narrator(console, time.monotonic())
    check_writable(options.json_path)

    def play(folder: Path, stack: Stack) -> Report:
        report = _play(options, narrator, stack, folder)
        if not report.passed:
            keep_logs(folder / DATA, LOGS, console)
        return report

    report = on_stage(NAME, LOGS, console, play, models=[Path(SCENE, scene.MODELS)])
    _say_verdict(narrator, report)
    console.print()
    return report


def _play(options: Options, narrator: Narrator, stack: Stack, folder: Path) -> Report:
    began = time.monotonic()
    here, data = folder / SCENE, assets.load()
    scene.write_scene(here, stack.prepare().repository, data)
    narrator.say("starting Kafka, schema registry and Triton on free ports")
    stack.start()
    environment = stack.endpoints.environment()
    config = here / scene.CONFIG
    settings = load_settings(config, {**os.environ, **environment})
    with ConfluentRegistry.of(settings.registry) as registry:
        narrator.say("registering schemas, creating topics, starting a worker")
        ids = register_contracts(registry, settings)
        ensure_topics(settings.kafka.bootstrap_servers, topic_specs(settings), settings.kafka.client)
        stack.workers.start(1, config)
        wait_for_workers(stack)
        commands = Commands(here, folder / DATA / "commands", environment, narrator.command)
        decoder = OutcomeDecoder(registry, settings.topics.dead_letters)
        with Traffic(settings, ids.request, decoder, Planner(options.seed, data)) as traffic:
            course = Course(stack, settings, here, commands, traffic, narrator)
            course.play()
        narrator.title("What the topics hold")
        counted = count(settings, registry, traffic.sent)
    return Report(counted, tuple(course.breaker.states), course.crashes, options.seed, time.monotonic() - began)


def _say_verdict(narrator: Narrator, report: Report) -> None:
    """Whether each event has its one outcome; what is wrong if not."""
    count = report.count
    narrator.say(
        f"{count.sent} events: {count.results} results, {count.dead_letters - count.redriven} dead letters that stay, "
        f"{count.duplicates} doubled, {count.missing} missing"
    )
    if report.passed:
        narrator.say("every event has exactly one outcome, and the one it had to have", "bold green")
        return
    narrator.say("not as it must be:", "bold red")
    for finding in count.findings[:FINDINGS_SHOWN]:
        narrator.say(f"  {finding}")
    if (more := len(count.findings) - FINDINGS_SHOWN) > 0:
        narrator.say(f"  and {more} more: see the JSON file")
    if not count.findings:
        narrator.say(f"  breaker {report.breaker_words}, {report.crashes} crashes, answered by {count.answered_by}")
