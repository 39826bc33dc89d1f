"""What the tests of errors ask of dead letters, logs and exit codes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.docs.error_table import SECTIONS, Row
from tests.integration.avro_ends import Answer
from tests.integration.harness import WorkerProcess

Letter = tuple[str, str]
"""Stage and code."""


def rows(*sections: str) -> list[Row]:
    return [row for section in sections for row in SECTIONS[section]]


def reason(answer: Answer) -> Letter:
    assert answer.dead, answer.content
    return str(answer.content["stage"]), str(answer.content["code"])


def tells(worker: WorkerProcess, answers: Sequence[Answer]) -> None:
    """The log and the metrics tell of each dead letter."""
    counts = Counter((each.content["stage"], each.content["code"]) for each in answers)
    for (stage, code), count in counts.items():
        metric = f'headrace_dead_letters_total{{code="{code}",stage="{stage}"}}'
        assert worker.metric(metric) >= count
    for each in answers:
        where, content = each.answers, each.content
        position = f"{where.topic}[{where.partition}]@{where.offset}"
        assert f"dead letter {position}: {content['code']} at {content['stage']}: " in worker.log


def named(section: str, name: str) -> Row:
    return next(row for row in SECTIONS[section] if row.name == name or row.lead[:1] == (name,))


def ends(worker: WorkerProcess, row: Row, seconds: float = 60) -> str:
    """The last line of a worker that ends as the row says."""
    assert worker.wait_ended(seconds) == row.exit_code
    last = worker.log.splitlines()[-1]
    assert last.startswith("headrace: ")
    return last
