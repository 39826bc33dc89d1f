"""Why Triton could not load a model: in its answers, and, where they do not say, in its log."""

from __future__ import annotations

import json
import re

_FAILED = re.compile(r"\"failed to load '([^']+)' version \d+: (.*?)\"?$", re.MULTILINE)


def reason_in_answer(body: bytes) -> str:
    """The reason in an answer of its model control, without what Triton puts around it."""
    try:
        text = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        text = body.decode(errors="replace")
    return _shortened(text.partition("state: ")[2] or text)


def reason_in_log(log: str, name: str) -> str:
    """Why a model's configuration could not be read: the answer does not say."""
    found = list(re.finditer(rf"^.*Poll failed for model directory '{re.escape(name)}': (.*?)\"?$", log, re.MULTILINE))
    if not found:
        return "Triton could not read its configuration and did not say why"
    parsing = re.search(r"\[libprotobuf ERROR .*?\] (.*)\n$", log[: found[-1].start()])
    return f"{found[-1][1]}: {parsing[1]}" if parsing else found[-1][1]


def failures_in_log(log: str) -> list[str]:
    """A line for each model that could not be loaded when the server started, and why."""
    return [
        f"model {name} cannot be loaded: {_shortened(reason.replace(chr(92) + 'n', chr(10)))}"
        for name, reason in _FAILED.findall(log)
    ]


def _shortened(text: str) -> str:
    """Of a Python traceback, only the lines that name the model's files."""
    lines = (line for line in text.rstrip("; \n").splitlines() if line.strip() and "<frozen " not in line)
    return "\n  ".join(lines)
