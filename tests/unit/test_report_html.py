"""The report as a file: complete in itself, well-formed, safe whatever events hold, and never large."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from functools import cache
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.pipeline.evaluate.evaluation import Confusion, Evaluation, Example, FailureCount
from headrace.pipeline.evaluate.gate import Gate, judge
from headrace.pipeline.evaluate.report import render_html
from headrace.pipeline.evaluate.report.html import MAX_CASES, MAX_SLICES
from headrace.pipeline.evaluate.report.plots import MAX_PLOTS
from tests.unit.report_bench import MAX_PLOT_BYTES, bare, full, measure, with_text
from tests.unit.strategies import examples

VOID = {"meta", "img", "input", "link", "br", "hr", "wbr"}
LOADING = {"src", "href", "srcset", "data", "poster", "action", "formaction", "xlink:href"}
SCRIPT = '<script>alert(\'é\')</script>" onload="x" & {{ 7*7 }}'
MAX_REPORT_BYTES = 5_000_000
ROOM_FOR_PLOTS = 4 * MAX_PLOTS * MAX_PLOT_BYTES
"""Of all kinds."""


class Page(HTMLParser):
    """A page taken apart; fails where its elements do not nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.said: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> has an attribute twice"
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a beginning"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.said.append((self.open[-1] if self.open else "", data.strip()))

    def values(self, name: str) -> list[str]:
        return [value for _, each, value in self.attributes if each == name]

    def text(self) -> str:
        return " ".join(" ".join(said.split()) for inside, said in self.said if inside not in ("style", "title"))


@pytest.fixture(scope="module")
def whole() -> str:
    """One figure of a kind: drawing takes the most time, and how figures are drawn has its own tests."""
    analysis = full().analysis
    time_slices = [each for each in analysis.measures if each.slice and each.slice.by == "time"]
    others = [each for each in time_slices if (each.route, each.name) != ("image", "accuracy")]
    measures = [each for each in analysis.measures if each not in others]
    histograms = [each for each in analysis.histograms if each.route == "image"]
    return render_html(replaced(full(), measures=measures, histograms=histograms))


@pytest.fixture(scope="module")
def page(whole: str) -> Page:
    return Page(whole)


def replaced(evaluation: Evaluation, **found: object) -> Evaluation:
    """With other findings."""
    analysis = dataclasses.replace(evaluation.analysis, **found)  # type: ignore[arg-type]  # names are the callers'
    return dataclasses.replace(evaluation, analysis=analysis)


def without_plots(evaluation: Evaluation) -> Evaluation:
    """Drawing takes the most time."""
    measures = [each for each in evaluation.analysis.measures if each.slice is None or each.slice.by != "time"]
    return replaced(evaluation, measures=measures, histograms=(), calibrations=())


def test_report_says_the_verdict_and_why_first(page: Page) -> None:
    text = page.text()
    told = (
        "Gate failed",
        "2 of 18 checks do not hold; of 2,000 events the candidate has 31 dead letters (the baseline 33).",
        "image/accuracy of source=/cameras/7 : −0.19 against the baseline is a drop of more than 0.03",
        "2,000 events.",
        "Answers, against the baseline: 2 measures clearly worse, 1 clearly changed, 2 without clear change.",
        "image · accuracy −0.031 ▼ image · calibration_error +0.022",
        "Speed and cost: 8 measures clearly better, 8 without clear change.",
        "run 20261127-093000-image-jpeg-v2",
    )
    places = [text.index(each) for each in told]
    assert places == sorted(places)
    assert places[-1] < text.index("Thresholds of")


def test_report_has_all_sections_and_its_links_lead_to_them(page: Page) -> None:
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    links = [value.removeprefix("#") for value in page.values("href") if value.startswith("#")]
    wanted = {"gate", "numbers", "plots", "slices", "labels", "failures", "cases", "made"}
    assert wanted <= set(links) <= set(ids)


def test_report_asks_nothing_of_anybody(page: Page) -> None:
    loaded = [value for _, name, value in page.attributes if name in LOADING]
    assert loaded
    assert [value for value in loaded if not value.startswith(("#", "data:image/", "data:audio/"))] == []
    assert page.tags.keys().isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form"})
    assert [name for _, name, _ in page.attributes if name.startswith("on")] == []
    (policy,) = [value for value in page.values("content") if "default-src" in value]
    assert policy.startswith("default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'")


def test_report_names_no_address_outside(whole: str) -> None:
    shown = re.sub(r"data:[\w/]+;base64,[\w+/=]+", "", whole)
    assert re.search(r"//|@import|url\((?!#)", shown) is None


def test_report_can_be_read_by_machines_that_read_it_out(page: Page) -> None:
    assert page.tags["h1"] == page.tags["main"] == 1
    assert page.tags["caption"] == page.tags["table"]
    assert page.values("scope").count("col") > 20
    assert len(page.values("alt")) == page.tags["img"] == 3
    assert all(page.values("alt"))
    figures = [value for tag, name, value in page.attributes if tag == "svg" and name == "aria-label"]
    assert len(figures) == page.tags["figure"] == 4
    assert "lang" in {name for tag, name, _ in page.attributes if tag == "html"}


def test_report_shows_pictures_sounds_and_texts(page: Page) -> None:
    assert page.tags["audio"] == 1
    assert sum(value.startswith("data:image/jpeg;base64,") for value in page.values("src")) == 3
    assert "The mill by the river has been turning since the spring floods." in page.text()
    assert "The input could not be read again." in page.text()


def test_report_of_nothing_says_so() -> None:
    page = Page(render_html(bare()))
    assert "No gate" in page.text()
    assert "There is no event in the range" in page.text()
    assert "There is no baseline to compare with." in page.text()
    assert page.tags["table"] == page.tags["figure"] == 0
    assert page.values("href") == ["#made"]


def test_report_of_a_gate_that_holds_passes() -> None:
    whole = without_plots(full())
    passed = dataclasses.replace(whole, checks=tuple(each for each in whole.checks if each.problem is None))
    assert "Gate passed All 16 checks hold, but of 2,000 events" in Page(render_html(passed)).text().replace("✓ ", "")


def test_report_shows_warnings() -> None:
    whole = without_plots(full())
    side = dataclasses.replace(whole.analysis.candidate, duplicates=1)
    text = Page(render_html(replaced(whole, candidate=side))).text()
    assert "Mind: 1 outcome of the candidate beyond the first: exactly-once is broken." in text


def test_difference_of_fewer_records_says_of_how_many() -> None:
    few = measure("accuracy", "image", 0.5, 0.1, paired=200)
    text = Page(render_html(replaced(bare(), measures=(few,)))).text()
    assert "worse · baseline 0.600, of 200 pairs" in text
    assert "−0.100 −0.110 to −0.090 of 200 pairs" in text
    every = Page(render_html(replaced(bare(), measures=(measure("accuracy", "image", 0.5, 0.1),))))
    assert "pairs" not in every.text()


def test_difference_is_drawn_on_the_scale_of_its_table() -> None:
    """A slice that is far worse must not make a dot on the zero line of the difference of all records."""
    slices = measure("accuracy", "image", 0.1, 0.9, by="source", of="worst")
    shown = render_html(replaced(bare(), measures=(measure("accuracy", "image", 0.5, 0.01, width=0.005), slices)))
    assert re.findall(r'<circle cx="([\d.]+)"', shown) == ["18.0", "2.5"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_difference_that_is_no_number_is_not_drawn(value: float) -> None:
    page = Page(render_html(replaced(bare(), measures=(measure("mine", "image", value, value, width=value),))))
    assert page.tags["svg"] == 0


def test_measures_names_break_behind_their_dots() -> None:
    shown = render_html(replaced(bare(), measures=(measure("cosine.EMBEDDING", "text", 0.99),)))
    assert '<th scope="row"><span class="told">cosine.<wbr>EMBEDDING</span>' in shown


def test_same_evaluation_gives_the_same_report() -> None:
    evaluation = without_plots(full())
    assert render_html(evaluation) == render_html(evaluation)


def test_report_escapes_what_events_say() -> None:
    shown = render_html(with_text(SCRIPT))
    page = Page(shown)
    assert "<script" not in shown
    assert "{{ 7*7 }}" in page.text()
    assert page.tags["script"] == 0
    assert [name for _, name, _ in page.attributes if name.startswith("on")] == []
    assert page.text().count("<script>alert('é')</script>") > 20
    assert any("<script>" in each for each in page.values("aria-label"))


def test_media_type_of_an_event_names_no_address() -> None:
    case = full().analysis.worst[0]
    wrong = ("image/svg+xml", 'image/png" onerror="x', "text/html,<b>", "application/javascript")
    cases = tuple(dataclasses.replace(case, example=Example(each, b"<svg onload='x'/>", "")) for each in wrong)
    page = Page(render_html(replaced(bare(), worst=cases)))
    assert page.tags["img"] == page.tags["audio"] == 0
    assert page.tags["blockquote"] == 1
    assert [name for _, name, _ in page.attributes if name.startswith("on")] == []


@settings(max_examples=examples(10), deadline=None)
@given(st.text(max_size=40))
def test_report_stays_well_formed_whatever_events_say(text: str) -> None:
    page = Page(render_html(without_plots(with_text(text))))
    assert page.tags["h1"] == 1
    assert page.tags["article"] == 3
    assert page.tags["script"] == 0


def test_invisible_characters_are_shown_as_such() -> None:
    shown = render_html(without_plots(with_text("invoice\u202egnp.exe\x00")))
    assert "\u202e" not in shown
    assert "\x00" not in shown
    assert "invoice\N{REPLACEMENT CHARACTER}gnp.exe" in shown


def test_report_of_a_huge_analysis_stays_small() -> None:
    text = "&" * 5_000
    slices = [measure("accuracy", text, 0.5, 0.1, by="source", of=f"{number}{text}") for number in range(2_000)]
    labels = tuple(f"{number}{text}" for number in range(21))
    counts = tuple(tuple(range(1_000_000, 1_000_021)) for _ in labels)
    example = Example("text/plain", (text * 40).encode(), text)
    photo = Example("image/png", bytes(400_000), text)
    case = dataclasses.replace(full().analysis.worst[0], truth=text, candidate=text, baseline=text, source=text)
    huge = replaced(
        without_plots(full()),
        measures=(*(measure("accuracy", f"{number}{text}", 0.5, 0.1) for number in range(300)), *slices),
        confusions=(Confusion(text, "truth", labels, counts),) * 30,
        failures=tuple(FailureCount(text, f"{number}{text}", 1, 2) for number in range(500)),
        worst=tuple(dataclasses.replace(case, example=photo if number % 2 else example) for number in range(200)),
    )
    gate = Gate.model_validate({"thresholds": [{"metric": "*", "slice": {"by": "source"}, "max_drop": 0.01}]})
    shown = render_html(dataclasses.replace(huge, checks=judge(gate, huge.analysis.measures), ranges=text))
    page = Page(shown)
    size = len(shown.encode())
    assert MAX_REPORT_BYTES - 500_000 < size < MAX_REPORT_BYTES
    inputs = sum(map(len, page.values("src")))
    assert size - inputs + ROOM_FOR_PLOTS < MAX_REPORT_BYTES - 2_500_000, "there has to be room for inputs"
    assert page.tags["article"] == MAX_CASES
    assert "These are 200 of 2,000; metrics.json has all." in page.text()
    assert "left out, to keep this file small" in page.text()
    assert sum(name == "data-by" for _, name, _ in page.attributes) == MAX_SLICES


# --- style


@cache
def colours() -> list[dict[str, str]]:
    """The colours of the page: in the light, and in the dark."""
    style = render_html(bare()).split("<style>")[1].split("</style>")[0]
    light, dark = re.findall(r":root \{(.*?)\n *\}", style, re.DOTALL)[:2]
    return [dict(re.findall(r"--([\w-]+): (#\w{6})", each)) for each in (light, dark)]


def luminance(colour: str) -> float:
    """Relative, 0 to 1 (WCAG 2.2)."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "back"),
    [
        *((ink, "card") for ink in ("ink", "quiet", "candidate", "baseline", "worse", "better")),
        *((ink, "page") for ink in ("ink", "quiet", "candidate")),
        *((ink, "soft") for ink in ("ink", "quiet")),
        *(("ink", back) for back in ("pass-back", "fail-back", "mind-back")),
        *(("quiet", back) for back in ("pass-back", "fail-back")),
        *((ink, back) for ink in ("better", "worse") for back in ("pass-back", "fail-back")),
        ("candidate", "fail-back"),
    ],
)
def test_colours_have_the_contrast_that_text_needs(scheme: str, ink: str, back: str) -> None:
    """At least 4.5 to 1: level AA of WCAG 2.2."""
    shown = colours()[scheme == "dark"]
    darker, lighter = sorted(luminance(shown[each]) for each in (ink, back))
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5
