"""docs/errors.md has every error that the source can produce and no other, in words that it explains."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest
from prometheus_client import Counter, Gauge

from headrace.connectors.triton_meanings import BY_STATUS, BY_WORDING, Meaning
from headrace.connectors.video.messages import CODES
from headrace.pipeline import metrics
from headrace.pipeline.exit_codes import ExitCode
from headrace.pipeline.records import Stage
from headrace.pipeline.wire import Poison
from tests.docs.error_table import OWN_CODE, PAGE, ROWS, Row, ways
from tests.unit.error_sources import ROOT, sources

OF_TRITON = {
    (str(Stage.INFER), meaning.name)
    for meaning in (*BY_STATUS.values(), *(meaning for *_, meaning in BY_WORDING))
    if meaning not in (Meaning.UNAVAILABLE, Meaning.RETRIABLE, Meaning.REFUSED)
}
DRAWN = {
    ("connectors/triton.py", "_error"): OF_TRITON,
    ("connectors/video/sampler.py", "sample"): {(str(Stage.PREPARE), code) for code in CODES},
    ("pipeline/user_code.py", "failure"): {(str(Stage.USER_CODE), OWN_CODE)},
}
"""Where a code is drawn from a table, or comes from outside: file and function → which it can be."""
PASSED_ON = {
    ("connectors/video/child.py", "answer_to"),
    ("connectors/video/child.py", "main"),
    ("connectors/video/sampler.py", "_poison"),
    ("pipeline/codecs/row.py", "poison"),
    ("pipeline/dispatch.py", "_unexpected"),
    ("pipeline/outputs.py", "split"),
    ("pipeline/sampling.py", "_while_wanted"),
    ("pipeline/timeline.py", "merged"),
    ("pipeline/wire.py", "_refusal"),
    ("pipeline/wire.py", "poison"),
}
"""Where one is handed on that was made elsewhere: file and function."""


def table() -> dict[tuple[str, str], set[str]]:
    """Stage and code of each dead letter in the tables, and the kinds of the errors that become it."""
    found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for row in ROWS:
        if row.letter:
            found[row.letter].add(row.kind)
    return dict(found)


# --- both ways ------------------------------------------------------------------------------------------------------


def test_every_code_of_the_source_is_in_the_table_with_its_kind_and_no_other() -> None:
    produced = {letter: set(kinds) for letter, kinds in sources().codes.items()}
    for letters in DRAWN.values():
        for letter in letters:
            produced.setdefault(letter, {"poison"})
    assert table() == produced


def test_no_code_is_made_in_a_way_that_is_not_looked_at() -> None:
    """An error of a code that does not stand where it is made: say above where that comes from."""
    assert sources().passed_on == PASSED_ON | DRAWN.keys()


def test_every_code_of_an_enum_is_produced() -> None:
    codes = {code for _, code in sources().codes}
    assert {str(code) for code in Poison} <= codes
    assert {code for stage, code in sources().codes if stage == Stage.PREPARE and code in CODES} == CODES


def test_every_stage_is_one_of_a_record() -> None:
    assert {stage for stage, _ in table()} == set(Stage)


def test_errors_are_told_apart() -> None:
    errors = [(row.section, row.error) for row in ROWS]
    assert len(set(errors)) == len(errors) > 100


# --- the words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row_says_what_becomes_of_it_in_words_that_are_explained(row: Row) -> None:
    explained = ways()
    assert row.kind in ("retriable", "poison", "fatal")
    for tried in row.tried:
        assert (tried, "") in explained or (tried, row.kind) in explained
    assert (row.tried == ("never",)) == (row.kind != "retriable")
    match row.kind:
        case "poison":
            assert row.letter
            assert row.exit_code is None
        case "fatal":
            assert row.letter is None
            assert row.exit_code in set(ExitCode) - {ExitCode.OK}
        case _:
            outcomes = (row.letter is not None, row.exit_code is not None, row.becomes == "—")
            assert sum(outcomes) == 1


def test_no_way_is_explained_that_no_error_goes() -> None:
    used = {(tried, row.kind if tried == "never" else "") for row in ROWS for tried in row.tried}
    assert used == set(ways())


def test_metrics_of_the_page_are_those_of_the_code() -> None:
    known = {
        family.name
        for metric in vars(metrics).values()
        if isinstance(metric, Counter | Gauge)
        for family in metric.describe()
    }
    named = {name.removesuffix("_total") for name in re.findall(r"`(headrace_\w+)`", PAGE.text)}
    assert named
    assert named <= known


@pytest.mark.parametrize(
    "words",
    [
        "dead letter ",
        "headrace: ",
        "waiting for %s: %s",
        "%s answers again",
        "route %s: waiting for model %s: %s",
        "transaction of %d records: %s, %s",
        "the transaction of unknown outcome was %s",
        "consume: %s",
    ],
)
def test_log_lines_of_the_page_are_those_of_the_code(words: str) -> None:
    """What is fixed in them stands in both."""
    files = [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "connectors").rglob("*.py")]
    assert any(f'"{words}' in path.read_text() or f'f"{words}' in path.read_text() for path in files)
    pieces = [piece.strip(" :,") for piece in re.split(r"%\w", words)]
    line = ".*".join(re.escape(piece) for piece in pieces if piece)
    assert re.search(rf"`[^`\n]*{line}[^`\n]*`", PAGE.text)
