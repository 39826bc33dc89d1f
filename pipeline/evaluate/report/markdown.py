"""A comment for a pull request, in GitHub's Markdown: the verdict, why, and the rest folded up. Pure.

What comes from events stands in ``<code>``, with every sign that could mean something to Markdown or GitHub (a mention,
a link, a table's cell) as a character reference: there it is text and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from headrace.pipeline.evaluate.evaluation import Analysis, Evaluation, Side
from headrace.pipeline.evaluate.gate import Check
from headrace.pipeline.evaluate.measures import Interval, Measure
from headrace.pipeline.evaluate.report import summary
from headrace.pipeline.evaluate.report.summary import Verdict
from headrace.pipeline.evaluate.report.wording import (
    UNKNOWN,
    count,
    counted,
    interval,
    moment,
    number,
    p_value,
    pairs,
    route_name,
    signed,
    signed_count,
    signed_interval,
    visible,
    with_minus,
)

MAX_BYTES = 58_000
"""GitHub takes 65,536 characters."""
MAX_CHECKS = 30
MAX_MEASURES = 40
MAX_SLICES = 15
MAX_FLIPS = 10
MAX_FAILURES = 20
MAX_CASES = 8
NAME_LIMIT = 60
PROBLEM_LIMIT = 200
"""Characters."""

_SIGNS = {Verdict.PASS: "✅", Verdict.FAIL: "❌", Verdict.NONE: "⚪"}


def render_markdown(evaluation: Evaluation) -> str:
    """The whole comment, below 60 kB: sections that would not fit are left out, the last ones first."""
    analysis = evaluation.analysis
    failed = summary.failed_checks(evaluation.checks)
    passed = summary.passed_checks(evaluation.checks)
    written = _heading(evaluation)
    sections = (
        _checks("Gate", failed or passed),
        _folded("Checks that hold", _checks("", passed)) if failed else "",
        _numbers("Answers", summary.headline(analysis.measures, timing=False)),
        _slices(analysis.measures),
        _folded("Speed and cost", _numbers("", summary.headline(analysis.measures, timing=True))),
        _folded("Labels that changed", _flips(analysis)),
        _folded("Failures", _failures(analysis)),
        _folded("Worst cases", _cases(analysis)),
    )
    made = _folded("How it was made", _made(evaluation))
    for section in sections:
        if section and len(f"{written}\n{section}\n{made}".encode()) <= MAX_BYTES:
            written += f"\n{section}"
    return f"{written}\n{made}"


# --- sections: each ends with a line's end, or is empty


def _heading(evaluation: Evaluation) -> str:
    analysis, verdict = evaluation.analysis, summary.verdict(evaluation)
    failed = summary.failed_checks(evaluation.checks)
    against = f" against {_code(analysis.baseline.title)}" if analysis.baseline else ""
    lines = [
        f"## {_SIGNS[verdict]} {verdict.words}",
        "",
        f"**{summary.reason(evaluation)}**",
        *([""] if failed else []),
        *(f"- {_code(each.name)}: {_problem(each)}" for each in failed[: summary.FAILURES_NAMED]),
    ]
    if len(failed) > summary.FAILURES_NAMED:
        lines.append(f"- and {len(failed) - summary.FAILURES_NAMED:,} more")
    lines += ["", f"{_code(analysis.candidate.title)}{against}: {counted(analysis.events, 'event')}."]
    lines += _changes(analysis.measures)
    lines += [f"\n> **Mind:** {each}" for each in summary.warnings(evaluation)]
    return "\n".join(lines) + "\n"


def _changes(measures: Sequence[Measure]) -> list[str]:
    """What became of all records, a sentence each."""
    answers, timings = (summary.changes(measures, timing=timing) for timing in (False, True))
    worse = [
        f"{_code(route_name(each.route))} {_code(each.name)} {signed(each.difference.value)}"
        for each in summary.clearly_worse(measures)[: summary.MEASURES_NAMED]
        if each.difference
    ]
    told = (("Answers", answers), ("Worst", ", ".join(worse)), ("Speed and cost", timings))
    return [f"{name}: {found}." for name, found in told if found]


def _checks(name: str, checks: Sequence[Check]) -> str:
    rows = [
        (
            "❌ no" if check.problem else "✅ yes",
            _code(check.name),
            _value(check.measure.candidate) if check.measure else UNKNOWN,
            _difference(check.measure) if check.measure else UNKNOWN,
            summary.bounds(check.threshold),
        )
        for check in checks[:MAX_CHECKS]
    ]
    table = _table(("holds", "check", "candidate", "difference", "threshold"), "l l r r l", rows)
    return _section(name, table, len(checks) - MAX_CHECKS)


def _numbers(name: str, measures: Sequence[Measure]) -> str:
    rows = [(_code(each.name), _code(route_name(each.route)), *_told(each)) for each in measures[:MAX_MEASURES]]
    heads = ("measure", "route", "candidate", "baseline", "difference", "change", "p", "records")
    return _section(name, _table(heads, "l l r r r l r r", rows), len(measures) - MAX_MEASURES)


def _slices(measures: Sequence[Measure]) -> str:
    worst = summary.worst_slices(measures)
    rows = [
        (_code(f"{each.slice.by}={each.slice.value}"), _code(each.name), _code(route_name(each.route)), *_told(each))
        for each in worst[:MAX_SLICES]
        if each.slice
    ]
    heads = ("slice", "measure", "route", "candidate", "baseline", "difference", "change", "p", "records")
    return _section("Worst slices", _table(heads, "l l l r r r l r r", rows), len(worst) - MAX_SLICES)


def _flips(analysis: Analysis) -> str:
    rows = [
        (
            _code(route_name(confusion.route)),
            confusion.against,
            _code(flip.before),
            _code(flip.after),
            count(flip.records),
        )
        for confusion in analysis.confusions
        for flip in summary.flips(confusion)[:MAX_FLIPS]
    ]
    return _table(("route", "against", "was or should be", "is", "records"), "l l l l r", rows)


def _failures(analysis: Analysis) -> str:
    rows = [
        (
            _code(each.code),
            _code(each.stage),
            count(each.candidate),
            count(each.baseline),
            UNKNOWN if each.baseline is None else signed_count(each.candidate - each.baseline),
        )
        for each in analysis.failures[:MAX_FAILURES]
    ]
    return _table(("code", "stage", "candidate", "baseline", "difference"), "l l r r r", rows)


def _cases(analysis: Analysis) -> str:
    rows = [
        (
            _code(f"{each.at.topic}:{each.at.partition}:{each.at.offset} {each.part}"),
            f"{_code(each.metric)} {number(each.value)}",
            UNKNOWN if each.truth is None else _code(each.truth),
            UNKNOWN if each.baseline is None else _code(each.baseline),
            _code(each.candidate),
        )
        for each in analysis.worst[:MAX_CASES]
    ]
    return _table(("event", "measure", "should be", "baseline", "candidate"), "l l l l l", rows)


def _made(evaluation: Evaluation) -> str:
    analysis = evaluation.analysis
    told = [
        ("topic", _code(evaluation.topic)),
        ("offsets", _code(evaluation.ranges, PROBLEM_LIMIT)),
        ("filters", _code(", ".join(evaluation.filters) or "none", PROBLEM_LIMIT)),
        ("candidate", _side(analysis.candidate)),
        ("baseline", _side(analysis.baseline) if analysis.baseline else "none"),
        ("labels", _code(evaluation.labels or "none")),
        ("gate", _code(evaluation.gate or "none")),
        ("settings", _code(evaluation.settings_sha256 or "not known", 64)),
        ("git revision", _code(evaluation.git_revision or "not known")),
        ("made", f"{moment(evaluation.created_ms)}, in {number(evaluation.seconds)} s"),
    ]
    return _table(("what", "which"), "l l", told)


def _side(side: Side) -> str:
    outcomes = f"{counted(side.results, 'result')}, {counted(side.dead_letters, 'dead letter')}"
    return f"{_code(side.title)}: {outcomes}, by {_code(', '.join(side.models) or 'no model', PROBLEM_LIMIT)}"


# --- pieces


def _told(measure: Measure) -> tuple[str, ...]:
    trend = summary.trend(measure)
    return (
        _value(measure.candidate),
        _value(measure.baseline) if measure.baseline else UNKNOWN,
        _difference(measure),
        f"{trend.sign} {trend.words}" if trend else UNKNOWN,
        p_value(measure.p_value),
        count(measure.records),
    )


def _value(found: Interval) -> str:
    return f"{number(found.value)}<br><sub>{interval(found)}</sub>"


def _difference(measure: Measure) -> str:
    found = measure.difference
    if found is None:
        return UNKNOWN
    of = f"<br><sub>of {pairs(measure)}</sub>" if pairs(measure) else ""
    return f"{signed(found.value)}<br><sub>{signed_interval(found)}</sub>{of}"


def _table(heads: Sequence[str], sides: str, rows: Iterable[Sequence[str]]) -> str:
    """A table; empty without rows."""
    lines = [_line(row) for row in rows]
    ruler = _line(["--:" if side == "r" else ":--" for side in sides.split()])
    return "\n".join([_line(heads), ruler, *lines]) + "\n" if lines else ""


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _section(name: str, table: str, left_out: int) -> str:
    if not table:
        return ""
    heading = f"### {name}\n\n" if name else ""
    return heading + table + (f"\n{left_out:,} more are in metrics.json.\n" if left_out > 0 else "")


def _folded(name: str, content: str) -> str:
    return f"<details><summary>{name}</summary>\n\n{content}\n</details>\n" if content else ""


def _code(text: str, limit: int = NAME_LIMIT) -> str:
    return f"<code>{_escaped(text, limit)}</code>"


def _problem(check: Check) -> str:
    return _escaped(with_minus(check.problem or ""), PROBLEM_LIMIT)


def _escaped(text: str, limit: int) -> str:
    shown = " ".join(visible(text, limit).split())
    return "".join(each if each.isalnum() or each in " -−/,;–…" else f"&#{ord(each)};" for each in shown)
