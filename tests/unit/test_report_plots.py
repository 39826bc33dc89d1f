"""Figures: what is drawn, with the page's colours, in little room."""

from __future__ import annotations

import dataclasses
import math
import re
from xml.etree import ElementTree as Xml

import pytest

from headrace.pipeline.evaluate.evaluation import Analysis, Histogram
from headrace.pipeline.evaluate.report import plots
from headrace.pipeline.evaluate.report.plots import Plot, PlotGroup, plot_groups
from tests.unit.report_bench import MAX_PLOT_BYTES, bare, full, measure

SCORE = Histogram("score", "image", (0.0, 0.25, 0.5, 0.75, 1.0), (1, 2, 3, 2), (0, 2, 4, 2), 0.125)


def analysis(**found: object) -> Analysis:
    return dataclasses.replace(bare().analysis, **found)  # type: ignore[arg-type]  # names are the callers'


def plot_of(found: Analysis) -> Plot:
    ((plot,),) = (group.plots for group in plot_groups(found))
    return plot


@pytest.fixture(scope="module")
def groups() -> list[PlotGroup]:
    return plot_groups(full().analysis)


def test_each_kind_of_figure_is_drawn(groups: list[PlotGroup]) -> None:
    drawn = {group.name: [plot.title for plot in group.plots] for group in groups}
    assert drawn == {
        "Distributions": [
            "image · score",
            "text · cosine.EMBEDDING",
            "audio · segments_overlap",
            "speech · text_distance",
        ],
        "Calibration": ["image"],
        "Over time": ["image · accuracy", "image · agreement", "text · cosine.EMBEDDING", "image · inference_ms"],
        "Latency": ["image · inference_ms", "text · inference_ms", "audio · inference_ms"],
    }


def test_figures_are_of_the_page(groups: list[PlotGroup]) -> None:
    """They take its colours, have its fonts, and share no id."""
    figures = [plot.svg for group in groups for plot in group.plots]
    ids = [name for svg in figures for name in re.findall(r' id="([^"]+)"', svg)]
    assert len(ids) == len(set(ids))
    for svg in figures:
        Xml.fromstring(svg)
        assert "var(--candidate)" in svg
        assert re.search(r"#[0-9a-f]{6}|font:|font-family|DejaVu|xmlns|//|<style|<metadata", svg) is None
        assert set(re.findall(r"url\(#([^)]+)\)", svg)) | set(re.findall(r'href="#([^"]+)"', svg)) <= set(ids)
        assert len(svg.encode()) < MAX_PLOT_BYTES


def test_distribution_tells_medians_and_drift() -> None:
    plot = plot_of(analysis(histograms=(SCORE,)))
    assert plot.caption == "median 0.583, baseline 0.625 · KS 0.125"
    assert "var(--baseline)" in plot.svg
    assert f'aria-label="Distribution of image · score: {plot.caption}"' in plot.svg


def test_number_of_both_sides_together_has_one_curve() -> None:
    plot = plot_of(analysis(histograms=(dataclasses.replace(SCORE, baseline=None, drift=None),)))
    assert "var(--baseline)" not in plot.svg


def test_same_figure_is_drawn_the_same() -> None:
    found = analysis(histograms=(dataclasses.replace(SCORE, name="inference_ms"),))
    assert plot_of(found) == plot_of(found)


@pytest.mark.parametrize(
    "histogram",
    [
        dataclasses.replace(SCORE, candidate=(0, 0, 0, 0)),
        dataclasses.replace(SCORE, candidate=(0, 0, 0, 0), baseline=None),
    ],
)
def test_histogram_of_no_answer_is_left_out(histogram: Histogram) -> None:
    assert plot_groups(analysis(histograms=(histogram,))) == []


@pytest.mark.parametrize(
    "histogram",
    [
        dataclasses.replace(SCORE, candidate=(9, 0, 0, 0), baseline=(0, 0, 0, 0)),
        dataclasses.replace(SCORE, candidate=(0, 0, 0, 1), baseline=None),
        Histogram("max_abs.OUT", "image", (1e-9, 1e-6, 1e-3, 1.0, 1e6), (5, 5, 5, 5)),
        Histogram("inference_ms", "image", (0.0, 1.0, 10.0, 100.0, 1000.0), (0, 2, 3, 1), (0, 0, 0, 9)),
        Histogram("score", "image", (0.5, 0.5, 0.5), (3, 0)),
        Histogram("a$b_{$", "ro$ute 日本", (0.0, 1.0), (1,)),
    ],
)
def test_unusual_histograms_are_drawn(histogram: Histogram) -> None:
    assert plot_of(analysis(histograms=(histogram,))).svg.startswith("<svg ")


def test_drift_needs_two_periods_of_a_sane_clock() -> None:
    times = ("0001-01-01T00:00:00Z", "2026-11-27T09:00:00Z", "9999-12-31T00:00:00Z")
    found = [measure("accuracy", "image", 0.9, by="time", of=each) for each in times]
    assert plot_groups(analysis(measures=tuple(found))) == []
    found.append(measure("accuracy", "image", 0.8, by="time", of="2026-11-27T10:00:00Z"))
    plot = plot_of(analysis(measures=tuple(found)))
    assert plot.caption == "0.800 to 0.900 in 2 periods from 2026-11-27 09:00"


def test_what_stays_the_same_is_not_drawn_over_time() -> None:
    found = [measure("missing", "*", 0.0, 0.0, by="time", of=f"2026-11-27T{hour:02d}:00:00Z") for hour in range(3)]
    assert plot_groups(analysis(measures=tuple(found))) == []
    found.append(measure("missing", "*", 0.0, 0.1, by="time", of="2026-11-27T04:00:00Z"))
    assert len(plot_groups(analysis(measures=tuple(found)))) == 1


@pytest.mark.parametrize(
    "end", ["2026-11-27T09:02:30Z", "2026-11-27T13:00:00Z", "2026-11-29T17:00:00Z", "2029-06-04T00:00:00Z"]
)
def test_time_of_any_length_has_an_axis(end: str) -> None:
    """Matplotlib warns where it finds no ticks."""
    times = ("2026-11-27T09:00:00Z", end)
    found = tuple(measure("accuracy", "image", 0.9, 0.1, by="time", of=each) for each in times)
    assert plot_of(analysis(measures=found)).svg.count("<text") > 4


def test_drift_with_intervals_that_are_not_known_is_drawn() -> None:
    nan = float("nan")
    found = tuple(
        measure("accuracy", "image", 0.9, 0.1, by="time", of=f"2026-11-27T{hour:02d}:00:00Z", width=nan)
        for hour in range(3)
    )
    assert "0.900 to 0.900 in 3 periods" in plot_of(analysis(measures=found)).caption


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_drift_with_a_period_that_is_no_number_is_drawn(value: float) -> None:
    values = (value, 0.9, 0.8)
    found = tuple(
        measure("mine", "image", each, 0.1, by="time", of=f"2026-11-27T{hour:02d}:00:00Z")
        for hour, each in enumerate(values)
    )
    assert plot_of(analysis(measures=found)).svg.startswith("<svg ")


def test_figures_beyond_the_bound_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "MAX_PLOTS", 2)  # drawing takes its time
    many = tuple(dataclasses.replace(SCORE, route=f"route {number}") for number in range(3))
    (group,) = plot_groups(analysis(histograms=many))
    assert (len(group.plots), group.left_out) == (2, 1)
