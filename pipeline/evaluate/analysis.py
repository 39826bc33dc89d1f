"""The course of a comparison: join, measure, count, and find the worst. Same tables, same analysis."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb

from headrace.pipeline.evaluate.calibration import calibrations
from headrace.pipeline.evaluate.comparators import run_comparators
from headrace.pipeline.evaluate.compare import Files, compare
from headrace.pipeline.evaluate.confusion import confusions
from headrace.pipeline.evaluate.evaluation import Analysis
from headrace.pipeline.evaluate.gate import SliceThreshold
from headrace.pipeline.evaluate.histograms import histograms
from headrace.pipeline.evaluate.measuring import METRICS, measure, tensor_metrics
from headrace.pipeline.evaluate.percentiles import measure_percentiles
from headrace.pipeline.evaluate.tallies import count_failures, count_side
from headrace.pipeline.evaluate.worst import worst_cases

MAX_CASES = 24


@dataclass(frozen=True, slots=True)
class AnalysisRequest:
    """What is asked of an analysis.

    Attributes:
        candidate_title, baseline_title: whose answers; the latter None without a baseline.
        slices: by which there are slices beside ``measures.SLICE_KINDS``: headers, as ``header.NAME``.
        comparators: the user's own, as ``package.module:function`` (see ``comparators``).
        max_cases: worst answers that are shown, at most.
        judged: slices that a gate asks for: they are measured even if they are not among the largest.
    """

    candidate_title: str
    baseline_title: str | None = None
    slices: tuple[str, ...] = ()
    comparators: tuple[str, ...] = ()
    max_cases: int = MAX_CASES
    judged: tuple[SliceThreshold, ...] = ()


def analyse(database: duckdb.DuckDBPyConnection, files: Files, folder: Path, request: AnalysisRequest) -> Analysis:
    """All that the tables of a comparison come to.

    Args:
        database: see ``store.connect``; tables are made in it.
        files: what to compare.
        folder: for files that are made on the way.
        request: what is asked for.

    Raises:
        ConfigError: labels contradict each other, or a comparator is wrong.
    """
    comparison = compare(database, files, folder, tuple(dict.fromkeys(request.slices)), request.judged)
    metrics = [each for each in METRICS if each.name != "failed" or files.candidate_failures is not None]
    metrics += tensor_metrics(comparison.tensors)
    metrics += run_comparators(comparison, request.comparators, folder)
    calibrated, errors = calibrations(comparison)
    has_baseline = files.baseline is not None
    return Analysis(
        events=int(database.execute("SELECT count(*) FROM outcomes").fetchall()[0][0]),
        measures=(*measure(comparison, metrics), *errors, *measure_percentiles(comparison)),
        histograms=tuple(histograms(comparison)),
        calibrations=tuple(calibrated),
        confusions=tuple(confusions(comparison)),
        failures=count_failures(database, has_baseline),
        worst=worst_cases(comparison, request.max_cases),
        candidate=count_side(database, "candidate", request.candidate_title),
        baseline=count_side(database, "baseline", request.baseline_title or "") if has_baseline else None,
        slices=comparison.sizes,
        labels_left_out=comparison.labels_left_out,
    )
