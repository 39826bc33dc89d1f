"""The comment on a pull request: what it says, that events cannot speak through it, and its size."""

from __future__ import annotations

import dataclasses
import html
import re

from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.evaluate.gate import Gate, judge
from headrace.pipeline.evaluate.report import render_markdown
from tests.unit.report_bench import bare, full, measure, with_text

MAX_COMMENT_BYTES = 60_000
SPEAKING = "@org/team `code` | cell <img src=x> <!-- **bold** [a](http://b.c) #12 :tada: ~~x~~ www.d.e\n\n# heading"


def rows(comment: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in comment.splitlines() if line.startswith("|")]


def test_comment_says_the_verdict_and_why_first() -> None:
    comment = html.unescape(render_markdown(full()))
    verdict = "2 of 18 checks do not hold; of 2,000 events the candidate has 31 dead letters (the baseline 33)."
    assert comment.startswith(f"## ❌ Gate failed\n\n**{verdict}**\n\n- <code>image/accuracy</code>: −0.031 against ")
    reason = (
        "- <code>image/accuracy of source=/cameras/7</code>: −0.19 against the baseline is a drop of more than 0.03"
    )
    assert reason in comment
    assert "Answers: 2 measures clearly worse, 1 clearly changed, 2 without clear change." in comment
    assert "Worst: <code>image</code> <code>accuracy</code> −0.031, <code>image</code> <code>calib" in comment
    assert "Speed and cost: 8 measures clearly better, 8 without clear change." in comment
    assert "<code>run 20261127-093000-image-jpeg-v2</code> against <code>live</code>: 2,000 events." in comment
    places = [comment.index(each) for each in ("### Gate", "### Answers", "### Worst slices", "How it was made")]
    assert places == sorted(places)


def test_comment_has_the_worst_slice_first() -> None:
    comment = html.unescape(render_markdown(full()))
    first = comment.split("### Worst slices")[1].split("\n")[4]
    assert first.startswith("| <code>source=/cameras/7</code> | <code>accuracy</code> | <code>image</code> | 0.710<br>")
    assert "▼ worse" in first


def test_difference_of_fewer_records_says_of_how_many() -> None:
    few = measure("accuracy", "image", 0.5, 0.1, paired=200)
    nothing = bare()
    comment = render_markdown(
        dataclasses.replace(nothing, analysis=dataclasses.replace(nothing.analysis, measures=(few,)))
    )
    assert "| −0.100<br><sub>−0.110 to −0.090</sub><br><sub>of 200 pairs</sub> |" in comment
    assert "pairs" not in render_markdown(full())


def test_comment_folds_up_the_rest() -> None:
    comment = render_markdown(full())
    folded = re.findall(r"<details><summary>(.*?)</summary>\n\n", comment)
    assert folded == [
        "Checks that hold",
        "Speed and cost",
        "Labels that changed",
        "Failures",
        "Worst cases",
        "How it was made",
    ]
    assert comment.count("\n</details>\n") == len(folded)


def test_comment_of_nothing_says_so() -> None:
    comment = render_markdown(bare())
    assert comment.startswith("## ⚪ No gate\n")
    assert "> **Mind:** There is no event in the range" in comment
    assert comment.count("<details>") == 1


def test_what_events_say_is_text_and_nothing_else() -> None:
    """Every sign that means something is a character reference, within ``<code>``, where GitHub links nothing."""
    comment = render_markdown(with_text(SPEAKING))
    outside = re.sub(r"<code>[\w\s&#;/…,–-]*</code>", "", comment)
    assert "org" not in outside
    assert "&#64;org/team &#96;code&#96; &#124; cell &#60;img src" in comment
    assert "@" not in comment
    assert "`" not in comment


@given(st.text(max_size=60))
def test_tables_stay_tables_whatever_events_say(text: str) -> None:
    comment = render_markdown(with_text(text))
    assert list(map(len, rows(comment))) == list(map(len, rows(render_markdown(with_text("a")))))
    assert set(re.findall(r"</?(\w+)", comment)) <= {"code", "br", "sub", "details", "summary"}


def test_comment_on_a_huge_analysis_stays_small() -> None:
    text = "&日" * 5_000
    measures = tuple(
        measure("accuracy", f"{number}{text}", 0.5, 0.1, by=by, of=f"{number}{text}")
        for number in range(500)
        for by in ("", text)
    )
    gate = Gate.model_validate({"thresholds": [{"metric": "*", "max_drop": 0.01}]})
    whole = full()
    analysis = dataclasses.replace(whole.analysis, measures=measures)
    huge = dataclasses.replace(whole, analysis=analysis, checks=judge(gate, measures), ranges=text)
    comment = render_markdown(huge)
    assert len(comment.encode()) < MAX_COMMENT_BYTES
    assert "470 more are in metrics.json." in comment
    assert "How it was made" in comment
