"""The steps of the replay demo, each by the commands that a person would type in the scene's folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from headrace.connectors.embedded.http import answers_ok
from headrace.connectors.embedded.stack import Stack
from headrace.pipeline.demo.check import Position
from headrace.pipeline.demo.commands import Commands, Json
from headrace.pipeline.demo.replay import scene
from headrace.pipeline.demo.replay.outcome import Judged, read_judged
from headrace.pipeline.demo.replay.versions import MODEL
from headrace.pipeline.errors import StackError
from headrace.pipeline.exit_codes import ExitCode

COMMAND_SECONDS = 600.0
"""For any of them; on two cores that are free each takes less than a minute."""
LIVE_RATE = 60
"""Events a second that the bundled models keep up with on two cores."""
LOAD_SECONDS = 60.0
POLL_SECONDS = 0.25
TOLD_SECONDS = 5.0
LEAST_REPLAY_SECONDS = 20.0
"""A replay that is to be killed is held to a rate at which it takes so long, or it might be over before."""
_HERE = f"-c {scene.CONFIG}"


def run_name(version: int) -> str:
    """Of the run that a version answers."""
    return f"v{version}"


class Course:
    """The steps, in any order that makes sense.

    Args:
        stack: started, with the scene's models and a worker.
        folder: the scene's.
        commands: runs them there.
        topic: where the events go.
        events: how many there are.
        say: tells people what happens.
    """

    def __init__(
        self, stack: Stack, folder: Path, commands: Commands, topic: str, events: int, say: Callable[[str], None]
    ) -> None:
        self._stack = stack
        self._folder = folder
        self._commands = commands
        self._topic = topic
        self._events = events
        self._say = say
        self._told = 0.0

    def live(self) -> list[Position]:
        """Send the events and wait for their results; returns where they lie.

        Raises:
            StackError: one has none.
        """
        sent, answered = [], 0

        def seen(line: Json) -> bool:
            nonlocal answered
            if line["kind"] == "sent":
                sent.append(Position(line["topic"], line["partition"], line["offset"]))
            else:
                answered += 1
            self._tell(f"{len(sent):,} sent, {answered:,} answered")
            return False

        line = (
            f"headrace send - --rate {LIVE_RATE} --wait --timeout {COMMAND_SECONDS:.0f} --json {_HERE} < {scene.EVENTS}"
        )
        self._commands.run(line, "send", COMMAND_SECONDS, watch=seen)
        return sent

    def add_version(self, version: int) -> None:
        """Put a version beside the others, and wait until Triton serves it.

        Raises:
            StackError: it does not.
        """
        self._commands.run(f"cp -r next/{version} {scene.MODELS}/{MODEL}/", f"copy-{version}", COMMAND_SECONDS)
        port = int(self._stack.endpoints.triton_http.rpartition(":")[2])
        deadline = time.monotonic() + LOAD_SECONDS
        while not answers_ok(port, f"/v2/models/{MODEL}/versions/{version}/ready"):
            if time.monotonic() > deadline:
                trouble = "; ".join(state.trouble for state in self._stack.user_models() if state.trouble)
                raise StackError(f"Triton did not load version {version} in {LOAD_SECONDS:.0f} s: {trouble}")
            time.sleep(POLL_SECONDS)
            self._stack.sync_models()  # as `headrace up` does all the time

    def replay(self, version: int, kills: int) -> int:
        """Have a version answer the events; SIGKILL the process on the way, at even distances, and go on each time.

        Returns:
            How often the run says that it was gone on with.

        Raises:
            StackError: it failed, or was over too early.
        """
        run = run_name(version)
        rate = f" --rate {max(1, round(self._events / LEAST_REPLAY_SECONDS))}" if kills else ""
        begin = f"headrace replay {self._topic} --model {MODEL}:{version} --run {run}"
        resume = f"headrace replay --resume {run}"
        for number in range(kills):
            self._replay_until_killed(
                f"{resume if number else begin}{rate}", f"{run}-{number}", self._events * (number + 1) // (kills + 1)
            )
        last: Json = {}

        def seen(line: Json) -> bool:
            nonlocal last
            last = line
            self._tell(self._progress(line))
            return False

        line = f"{resume if kills else begin}{rate} --json {_HERE}"
        self._commands.run(line, f"{run}-{kills}", COMMAND_SECONDS, watch=seen)
        return int(last["resumed"])

    def _replay_until_killed(self, line: str, log: str, outcomes: int) -> None:
        def seen(said: Json) -> bool:
            self._tell(self._progress(said))
            if said["state"] != "running" or said["results"] + said["dead_letters"] < outcomes:
                return False
            self._say(f"SIGKILL, after {said['results'] + said['dead_letters']:,} of {self._events:,} outcomes")
            return True

        if self._commands.run(f"{line} --json {_HERE}", log, COMMAND_SECONDS, watch=seen) is not None:
            raise StackError("the replay was over before it could be killed: give the demo more --events")

    def judge(self, version: int, out: str) -> Judged:
        """Compare a version's run with what was live and with the labels, and let the gate decide.

        Args:
            version: whose run.
            out: the folder for the reports, in the scene's.
        """
        line = f"headrace evaluate {run_name(version)} --labels {scene.LABELS} --gate {scene.GATE} --out {out} {_HERE}"
        fine = (ExitCode.OK, ExitCode.FAILED)
        code = self._commands.run(line, f"evaluate-{version}", COMMAND_SECONDS, fine=fine)
        judged = read_judged(self._folder / out / "metrics.json")
        if judged.passed is not (code == ExitCode.OK):
            raise StackError(f"`{line}` ended with {code}, but its metrics say that the gate is {judged.word}")
        return judged

    def _progress(self, line: Json) -> str:
        return f"{line['results']:,} of {self._events:,} results, {line.get('per_second', 0):,.0f}/s"

    def _tell(self, text: str) -> None:
        """Now and then."""
        if time.monotonic() - self._told >= TOLD_SECONDS:
            self._told = time.monotonic()
            self._say(text)
