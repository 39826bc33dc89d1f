"""The replay demo from nothing to the verdict: live on one version, two others tried on what was live."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from headrace.connectors.embedded.stack import Stack
from headrace.connectors.embedded.supervisor import wait_for_workers
from headrace.connectors.kafka.admin import ensure_topics
from headrace.connectors.registry import ConfluentRegistry
from headrace.pipeline.demo import assets
from headrace.pipeline.demo.check import Verdict
from headrace.pipeline.demo.commands import Commands
from headrace.pipeline.demo.replay import scene
from headrace.pipeline.demo.replay.counting import count
from headrace.pipeline.demo.replay.course import Course, run_name
from headrace.pipeline.demo.replay.events import plan
from headrace.pipeline.demo.replay.outcome import KILLS, Judged, Report
from headrace.pipeline.demo.stage import DATA, on_stage
from headrace.pipeline.demo.telling import Narrator
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.settings_file import load_settings
from headrace.pipeline.setup import register_contracts, topic_specs

REFUSED, MENDED = 2, 3
"""The version that the gate is to refuse, and the one that it is to take."""
FOLDERS = {REFUSED: "before", MENDED: "after"}
"""Version → where its report goes."""
SCENE = "scene"
LOGS = "logs"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says. Reports go to ``out``, and logs if something fails."""

    events: int = 2000
    seed: int = 7
    out: Path = Path("build/replay-demo")


def write_files(folder: Path, options: Options) -> None:
    """Write the demo's files, for following it by hand.

    Raises:
        ConfigError: the folder cannot be written, or holds something.
        StackError: the bundled models could not be made ready.
    """
    bundled = Stack().prepare().repository
    try:
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"{folder}/ is not empty: name another folder")
        _write_scene(folder, bundled, options)
    except OSError as error:
        raise ConfigError(f"{folder}/ cannot be written ({error.strerror}): name another folder") from error


def run(options: Options, console: Console) -> Report:
    """The whole demo. Whatever happens, Ctrl-C too, nothing is left running and no temporary folder behind.

    Raises:
        ConfigError: the reports cannot be written where ``options`` says.
        StackError: something could not be started, or a command failed; logs are beside the reports.
    """
    began = time.monotonic()
    _make_room(options.out)
    return on_stage(
        "replay-demo",
        options.out / LOGS,
        console,
        lambda folder, stack: _Demo(options, Narrator(console, began), stack, folder).run(),
        models=[Path(SCENE, scene.MODELS)],
    )


def _write_scene(folder: Path, bundled: Path, options: Options) -> None:
    scene.write_scene(folder, bundled, plan(options.events, options.seed, assets.load()))


def _make_room(out: Path) -> None:
    """Now, because after the run it would be a pity; and what an earlier one left must not be taken for this one's."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in (*FOLDERS.values(), LOGS):
            if (out / name).exists():
                shutil.rmtree(out / name)
    except OSError as error:
        raise ConfigError(
            f"{out}/ cannot be written ({error.strerror}): run the demo in a folder of your own, or name another "
            "folder with --out"
        ) from error


class _Demo:
    """One run of it, on a stack that is not started yet."""

    def __init__(self, options: Options, narrator: Narrator, stack: Stack, folder: Path) -> None:
        self._options = options
        self._say = narrator.say
        self._show = narrator.command
        self._stack = stack
        self._scene = folder / SCENE
        self._logs = folder / DATA / "commands"

    def run(self) -> Report:
        self._say(f"writing {self._options.events:,} events, labels, and three versions of a model")
        _write_scene(self._scene, self._stack.prepare().repository, self._options)
        self._say("starting Kafka, schema registry, Triton and a worker, on version 1")
        self._stack.start()
        environment = self._stack.endpoints.environment()
        settings = load_settings(self._scene / scene.CONFIG, environment)
        with ConfluentRegistry.of(settings.registry) as registry:
            register_contracts(registry, settings)
            ensure_topics(settings.kafka.bootstrap_servers, topic_specs(settings), settings.kafka.client)
            self._stack.workers.start(1, self._scene / scene.CONFIG)
            wait_for_workers(self._stack)
            commands = Commands(self._scene, self._logs, environment, self._show)
            course = Course(
                self._stack, self._scene, commands, settings.topics.requests[0], self._options.events, self._say
            )
            sent = course.live()
            self._stack.workers.stop()  # what follows is of history alone
            counts, judged, resumed = [], {}, 0
            for version, kills in ((REFUSED, KILLS), (MENDED, 0)):
                course.add_version(version)
                resumed += course.replay(version, kills)
                counts.append(count(settings, registry, run_name(version), sent))
                self._say_counted(counts[-1])
                judged[version] = course.judge(version, FOLDERS[version])
                shutil.copytree(self._scene / FOLDERS[version], self._options.out / FOLDERS[version])
                self._say_judged(judged[version])
        report = self._options.out / FOLDERS[REFUSED] / "report.html"
        return Report(tuple(counts), resumed, judged[REFUSED], judged[MENDED], report)

    def _say_counted(self, verdict: Verdict) -> None:
        self._say(
            f"the run's topics hold {verdict.results + verdict.dead_letters:,} outcomes of {verdict.sent:,} events, "
            f"{verdict.duplicates} doubled, {verdict.missing} missing"
        )
        for finding in verdict.findings[:5]:
            self._say(f"  {finding}")

    def _say_judged(self, judged: Judged) -> None:
        self._say(f"gate: {judged.word}")
        for problem in judged.problems:
            self._say(f"  {problem}")
