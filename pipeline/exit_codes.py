"""What the exit code of each command says: declared once, for ``--help``, docs/exit-codes.md and the commands."""

from __future__ import annotations

import enum
import textwrap
from collections.abc import Mapping


class ExitCode(enum.IntEnum):
    """Of the ``headrace`` command."""

    OK = 0
    FAILED = 1
    WRONG_INPUT = 2
    SLOT_TAKEN = 3
    DEAD_LETTER = 4
    NO_OUTCOME = 5
    INTERRUPTED = 130


GENERAL: Mapping[ExitCode, str] = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "failed: one line on stderr says why; also if the reader of a pipe has gone",
    ExitCode.WRONG_INPUT: "wrong arguments, settings or input: trying again does not help",
    ExitCode.SLOT_TAKEN: "another live worker holds the slot: do not restart",
    ExitCode.DEAD_LETTER: "a dead letter came of an event, or would",
    ExitCode.NO_OUTCOME: "neither result nor dead letter in time",
    ExitCode.INTERRUPTED: "ended by Ctrl-C",
}
"""What a code means wherever a command says nothing else of it."""

OWN: Mapping[str, Mapping[ExitCode, str]] = {
    "demo": {
        ExitCode.OK: "every event had the one outcome it had to have",
        ExitCode.FAILED: "it had not, or the demo failed; the last line says which",
    },
    "replay-demo": {
        ExitCode.OK: "each event once in each run, one version refused for the right reason, the next one taken",
        ExitCode.FAILED: "not so, or the demo failed; the last line says which",
    },
    "demo-resilience": {
        ExitCode.OK: "every event had the one outcome it had to have, and the breaker opened and closed",
        ExitCode.FAILED: "not so, or the demo failed; the last line says which",
    },
    "up": {ExitCode.OK: "stopped in order; with --detach: ready"},
    "status": {ExitCode.OK: "the stack is ready and all its processes run", ExitCode.FAILED: "it is not"},
    "down": {ExitCode.OK: "stopped, also if nothing was running"},
    "doctor": {ExitCode.OK: "headrace can run here", ExitCode.FAILED: "a check failed; a warning is no failure"},
    "worker": {
        ExitCode.OK: "stopped by SIGTERM or Ctrl-C, what was in flight is committed",
        ExitCode.FAILED: "failed: start it again",
        ExitCode.SLOT_TAKEN: GENERAL[ExitCode.SLOT_TAKEN],
    },
    "send": {
        ExitCode.OK: "all was sent (with --wait: and answered)",
        ExitCode.FAILED: "failed, or with --skip-bad: some input was left out",
        ExitCode.WRONG_INPUT: "wrong arguments, settings or input",
        ExitCode.DEAD_LETTER: "with --wait: a dead letter came of an event",
        ExitCode.NO_OUTCOME: "with --wait: an outcome did not come within --timeout",
    },
    "tail": {ExitCode.OK: "--max or the end was reached"},
    "topics": {
        ExitCode.OK: "every topic is there and as the settings want it",
        ExitCode.FAILED: "one is not, or Kafka does not answer",
    },
    "topics create": {
        ExitCode.OK: "every topic is there and as the settings want it",
        ExitCode.FAILED: "one is not as wanted, or Kafka does not answer",
    },
    "acls": {ExitCode.OK: "printed, or given", ExitCode.FAILED: "Kafka refuses to give them, or does not answer"},
    "topics plan": {
        ExitCode.OK: "all that is to be done, if anything, can be done",
        ExitCode.FAILED: "something cannot: stderr says what to do; or Kafka does not answer",
    },
    "topics diff": {
        ExitCode.OK: "every topic is as the settings want it",
        ExitCode.FAILED: "one is not, or Kafka does not answer",
    },
    "topics apply": {
        ExitCode.OK: "every topic is as the settings want it",
        ExitCode.FAILED: "something was left, or Kafka does not answer",
    },
    "models": {
        ExitCode.OK: "every route that is not explicit has a model that is ready and fits",
        ExitCode.FAILED: "one has none, or Triton does not answer",
    },
    "models show": {ExitCode.OK: "the model is ready", ExitCode.FAILED: "it is not, or Triton does not answer"},
    "offsets show": {
        ExitCode.OK: "all that is committed can be read",
        ExitCode.FAILED: "a worker would refuse some metadata, a request topic is missing, or Kafka does not answer",
    },
    "replay": {
        ExitCode.OK: "every event of the range has its outcome in the run",
        ExitCode.FAILED: "broken off: --resume goes on with it",
        ExitCode.WRONG_INPUT: "wrong arguments or settings, or the run cannot be as asked for",
        ExitCode.INTERRUPTED: "stopped by Ctrl-C or SIGTERM: --resume goes on with it",
    },
    "evaluate": {
        ExitCode.OK: "compared; the gate, if there is one, holds",
        ExitCode.FAILED: "compared, and a threshold of the gate does not hold",
        ExitCode.WRONG_INPUT: "not compared: wrong arguments, settings or files, or something does not answer",
    },
    "runs list": {},
    "runs show": {ExitCode.WRONG_INPUT: "there is no such run"},
    "runs rm": {ExitCode.WRONG_INPUT: "there is no such run, or it may be under way"},
    "metrics": {ExitCode.FAILED: "a worker does not answer", ExitCode.WRONG_INPUT: "no worker runs, and no --url"},
    "routes": {},
    "routes try": {
        ExitCode.OK: "every part has a route",
        ExitCode.DEAD_LETTER: "a part has none: the event would be a dead letter",
    },
    "dlq list": {},
    "dlq show": {ExitCode.FAILED: "there is no such dead letter, or Kafka does not answer"},
    "dlq stats": {},
    "dlq redrive": {
        ExitCode.OK: "what was chosen is redriven, now or before; what cannot be is counted",
        ExitCode.FAILED: "broken off, or another has begun: the same command goes on with the rest; or not confirmed",
        ExitCode.WRONG_INPUT: "wrong arguments or settings; or no --yes, and nobody to be asked",
        ExitCode.INTERRUPTED: "stopped by Ctrl-C or SIGTERM: the same command goes on with the rest",
    },
    "dlq purge": {
        ExitCode.OK: "what is older is deleted",
        ExitCode.FAILED: "not confirmed, or Kafka does not let us",
        ExitCode.WRONG_INPUT: "wrong arguments or settings; or no --yes, and nobody to be asked",
    },
    "config check": {ExitCode.OK: "the settings are right", ExitCode.WRONG_INPUT: "they are not: a line a problem"},
    "config show": {},
    "config schema": {},
    "config reference": {},
    "completion": {},
}
"""Command → what its codes mean, where there is more to say than `GENERAL` does."""

_WIDTH = 74
_HEAD = """\
# Exit codes

One meaning a number, for every command. `make docs` writes this page.

"""


def epilog(command: str) -> str:
    """The end of a command's ``--help``: its own codes, in lines that click does not rewrap; empty if it has none."""
    if not OWN[command]:
        return ""
    lines = [
        textwrap.fill(f"{code.value}  {meaning}", _WIDTH, initial_indent="  ", subsequent_indent="     ")
        for code, meaning in OWN[command].items()
    ]
    return "\n".join(("\b", "Exit codes:", *lines))


def page() -> str:
    """docs/exit-codes.md."""
    general = [f"| {code.value} | {meaning} |" for code, meaning in GENERAL.items()]
    own = [
        f"| `headrace {command}` | {code.value} | {meaning} |"
        for command, meanings in OWN.items()
        for code, meaning in meanings.items()
    ]
    return "\n".join(
        (
            f"{_HEAD}| code | means |\n|---|---|",
            *general,
            "\nIf several apply, the highest. More precisely, where a command has more to say:\n",
            "| command | code | means |\n|---|---|---|",
            *own,
            "",
        )
    )
