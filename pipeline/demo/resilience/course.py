"""The three parts of the demo, one after the other, while texts flow all the time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.text import Text

from headrace.connectors.embedded.http import call
from headrace.connectors.embedded.stack import Stack
from headrace.connectors.embedded.state import Member
from headrace.connectors.embedded.supervisor import is_answering
from headrace.pipeline.breaker import BreakerState
from headrace.pipeline.config import Settings
from headrace.pipeline.demo.commands import Commands
from headrace.pipeline.demo.resilience import scene
from headrace.pipeline.demo.resilience.breaker_watch import BreakerWatch
from headrace.pipeline.demo.resilience.events import FATES, Kind
from headrace.pipeline.demo.resilience.traffic import Traffic, now_ms
from headrace.pipeline.demo.telling import Narrator
from headrace.pipeline.errors import StackError
from headrace.pipeline.records import InferenceResult

EARLY, LATE, STUCK, SOUNDS, BROKEN_PHOTOS = 6, 4, 4, 6, 2
"""How many events of each kind; amounts wait in both delay topics, or in the first only."""
PHOTOS_PER_SECOND = 4.0
ENOUGH = 6
"""Answers by a model that show that it answers."""
LOOK_SECONDS = 0.1
TELL_SECONDS = 1.0
SYNC_SECONDS = 0.5
"""As often as ``headrace up`` looks for models."""
STEP_SECONDS = 90.0
"""For any step: on two cores that are free, each takes less than 15 s."""
COMMAND_SECONDS = 90.0
STYLES = {BreakerState.CLOSED: "bold green", BreakerState.OPEN: "bold red", BreakerState.HALF_OPEN: "bold yellow"}
_HERE = f"-c {scene.CONFIG}"


class Course:
    """Plays the parts.

    Args:
        stack: started, with the scene's model, and one worker that was just started.
        settings: of the pipeline.
        folder: the scene's.
        commands: runs commands there.
        traffic: sends and reads.
        narrator: tells people.
    """

    def __init__(
        self,
        stack: Stack,
        settings: Settings,
        folder: Path,
        commands: Commands,
        traffic: Traffic,
        narrator: Narrator,
    ) -> None:
        self.breaker = BreakerWatch(scene.PHOTOS, scene.PHOTO_MODEL)
        self.crashes = 0
        """How often a worker ended by itself, or not as it was told."""
        self._stack = stack
        self._settings = settings
        self._folder = folder
        self._commands = commands
        self._traffic = traffic
        self._narrator = narrator
        self._since = 0
        self._photo_at = self._look_at = self._sync_at = self._tell_at = 0.0
        self._told: Counter[str] = Counter()
        self._pid = self._worker.pid

    def play(self) -> None:
        """All of it; then the worker, having answered everything, is stopped.

        Raises:
            StackError: something did not happen in time, or a command failed.
            UnavailableError, FatalError: Kafka or the registry does not let us.
        """
        self._retries()
        self._breaker()
        self._dead_letters()
        self._traffic.end_texts()
        self._until(lambda: not self._traffic.unanswered, "the last answers")
        self._stop_worker()

    def _retries(self) -> None:
        say, traffic = self._narrator.say, self._traffic
        first, second = (self._settings.delay_topic(delay) for delay in scene.DELAYS)
        self._begin("1  A model fails for a while: retries")
        self._move(scene.RATES, scene.AWAY)
        say(f"{EARLY} amounts for the model {scene.AMOUNT_MODEL}, which answers with an error without that file")
        self._send_amounts(Kind.AMOUNT, EARLY)
        self._until(lambda: traffic.put_off()[second] >= EARLY, f"records in {second}")
        say(f"{LATE} more")
        self._send_amounts(Kind.AMOUNT, LATE)
        self._until(lambda: traffic.put_off()[first] >= EARLY + LATE, f"records in {first}")
        self._move(f"{scene.AWAY}/{scene.RATES}", ".")
        self._until(lambda: len(traffic.results(Kind.AMOUNT)) >= EARLY + LATE, "results of what was put off")
        self._tell_new()
        self._say_texts()

    def _send_amounts(self, kind: Kind, count: int) -> None:
        for _ in range(count):
            self._traffic.send(self._traffic.planner.amount(kind, now_ms()))

    def _tell_new(self) -> None:
        """How many events were put off, and at which attempt amounts were answered, as far as that was not told yet."""
        now = Counter(f"put off to {topic}" for topic in self._traffic.put_off().elements())
        now.update(f"answered, at attempt {result.attempt}" for result in self._traffic.results(Kind.AMOUNT))
        for what, count in (now - self._told).items():
            self._narrator.say(f"{count} {what}", "green" if what.startswith("answered") else "yellow")
        self._told = now

    def _breaker(self) -> None:
        say = self._narrator.say
        self._begin("2  A model is gone: its breaker opens, another model answers")
        say(f"photos at {PHOTOS_PER_SECOND:g}/s for the model {scene.PHOTO_MODEL}; its breaker is closed")
        self._until(lambda: self._answered_by(scene.PHOTO_MODEL) >= ENOUGH, f"answers of {scene.PHOTO_MODEL}", True)
        self._move(f"{scene.MODELS}/{scene.PHOTO_MODEL}", scene.AWAY)
        self._until(lambda: self._answered_by(scene.FALLBACK) >= ENOUGH, f"answers of {scene.FALLBACK}", True)
        say(f"{self._answered_by(scene.FALLBACK)} photos were answered by the fallback, {scene.FALLBACK}", "green")
        self._move(f"{scene.AWAY}/{scene.PHOTO_MODEL}", scene.MODELS)
        self._until(lambda: self.breaker.state is BreakerState.CLOSED, "the breaker to close", True)
        before = self._answered_by(scene.PHOTO_MODEL)
        self._until(lambda: self._answered_by(scene.PHOTO_MODEL) >= before + ENOUGH, "answers of the model", True)
        self._traffic.flush()
        sent = sum(event.kind is Kind.PHOTO for event in self._traffic.sent)
        self._until(lambda: len(self._traffic.results(Kind.PHOTO)) >= sent, "the last photos")
        by = [f"{self._answered_by(model)} by {model}" for model in (scene.PHOTO_MODEL, scene.FALLBACK)]
        say(f"{sent} photos, {sent} results: {', '.join(by)}", "green")
        self._say_texts()

    def _dead_letters(self) -> None:
        say, traffic = self._narrator.say, self._traffic
        self._begin("3  Events that nobody can answer: dead letters, the fix, a redrive")
        self._move(scene.RATES, scene.AWAY)
        say(f"{STUCK} amounts again, {SOUNDS} sounds, which no route takes, and {BROKEN_PHOTOS} broken photos")
        self._send_amounts(Kind.STUCK, STUCK)
        for _ in range(SOUNDS):
            traffic.send(traffic.planner.sound(now_ms()))
        for _ in range(BROKEN_PHOTOS):
            traffic.send(traffic.planner.broken_photo(now_ms()))
        self._until(lambda: len(traffic.dead_letters()) >= STUCK + SOUNDS + BROKEN_PHOTOS, "the dead letters")
        self._tell_new()
        self._run("headrace dlq stats", "stats-before", show=True)
        say("the fix: the file, and a route for sounds; workers read their settings when they start")
        self._move(f"{scene.AWAY}/{scene.RATES}", ".")
        self._run(f"cat {scene.MISSING_ROUTE} >> {scene.CONFIG}", "fix", settings=False)
        self._stop_worker()
        self._stack.workers.start(1, self._folder / scene.CONFIG)
        self._pid = self._worker.pid
        self._until(lambda: is_answering(self._worker), "the worker to be ready again")
        say("the worker is started again; a broken photo remains one, the others are redriven")
        codes = sorted({fate.code for fate in FATES.values() if fate.redriven})
        chosen = " ".join(f"--code {code}" for code in codes)
        self._run(f"headrace dlq redrive {chosen} --yes", "redrive", show=True)
        redriven = (Kind.SOUND, Kind.STUCK)
        self._until(
            lambda: sum(len(traffic.results(kind)) for kind in redriven) >= SOUNDS + STUCK,
            "results of what was redriven",
        )
        say(f"{SOUNDS + STUCK} events that were redriven have their results", "green")
        self._run("headrace dlq stats", "stats-after", show=True)

    # --- steps

    def _begin(self, title: str) -> None:
        self._narrator.title(title)
        self._since = len(self._traffic.seen)

    def _until(self, done: Callable[[], bool], what: str, photos: bool = False) -> None:
        """Let everything flow until then.

        Raises:
            StackError: it does not come.
        """
        deadline = time.monotonic() + STEP_SECONDS
        while not done():
            if time.monotonic() > deadline:
                raise StackError(f"waited {STEP_SECONDS:.0f} s in vain for {what}")
            self._flow(photos)

    def _flow(self, photos: bool = False) -> None:
        now = time.monotonic()
        if photos and now >= self._photo_at:
            self._photo_at = now + 1 / PHOTOS_PER_SECOND
            self._traffic.send(self._traffic.planner.photo(now_ms()))
        if photos and now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            self._look()
        if now >= self._tell_at:
            self._tell_at = now + TELL_SECONDS
            self._tell_new()
        if now >= self._sync_at:
            self._sync_at = now + SYNC_SECONDS
            for line in self._stack.sync_models():
                self._narrator.say(line.replace(f"{self._folder}/", ""))
        self._traffic.tick()

    def _look(self) -> None:
        """At the breaker, as the worker measures it."""
        endpoint = self._worker.endpoint
        status, body = call(int(endpoint.rpartition(":")[2]), "GET", "/metrics", STEP_SECONDS)
        if status != 200:
            raise StackError(f"{self._worker.name} does not tell what it measures: HTTP status {status}")
        for state in self.breaker.look(body.decode()):
            words = {
                BreakerState.OPEN: "not called any more",
                BreakerState.HALF_OPEN: "one call is made, to find out",
                BreakerState.CLOSED: "it answers again",
            }
            line = Text.assemble(f"breaker of {scene.PHOTO_MODEL}: ", (state.value, STYLES[state]), f", {words[state]}")
            self._narrator.say(line)

    def _answered_by(self, model: str) -> int:
        results: list[InferenceResult] = self._traffic.results(Kind.PHOTO)
        return sum(result.outputs[0].model == model for result in results)

    def _say_texts(self) -> None:
        """Whether anything held them up."""
        texts = self._traffic.results(Kind.TEXT, self._since)
        median_ms = self._traffic.median_ms(Kind.TEXT, self._since)
        self._narrator.say(f"meanwhile {len(texts)} texts were answered, after {median_ms:.0f} ms (median)")

    def _run(self, line: str, name: str, *, show: bool = False, settings: bool = True) -> None:
        """Run a command, while everything flows; ``show`` what it prints."""
        typed = f"{line} {_HERE}" if settings else line
        self._commands.run(typed, name, COMMAND_SECONDS, meanwhile=self._flow)
        if show:
            self._narrator.printed(self._commands.printed(name))

    def _move(self, source: str, target: str) -> None:
        self._run(f"mv {source} {target}", f"move-{source.replace('/', '-')}", settings=False)

    @property
    def _worker(self) -> Member:
        (member,) = self._stack.workers.members()
        return member

    def _stop_worker(self) -> None:
        if self._worker.pid != self._pid:
            self.crashes += 1
            self._narrator.say(f"{self._worker.name} ended by itself, and was started again", "bold red")
        for slot, code in self._stack.workers.stop().items():
            if code:
                self.crashes += 1
                self._narrator.say(f"worker {slot} was told to end, and failed (exit status {code})", "bold red")
