"""The answers that differ most to the worse, by route."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

import numpy as np

from headrace.pipeline.evaluate.answer import FIELDS, answer_of, in_words
from headrace.pipeline.evaluate.compare import Comparison
from headrace.pipeline.evaluate.evaluation import Case, Position
from headrace.pipeline.evaluate.measuring import METRICS, Metric, tensor_metrics
from headrace.pipeline.evaluate.sql import ANSWER_KEY, POSITION
from headrace.pipeline.evaluate.statistics import tidy

SAME_COSINE = 0.999
"""From which on vectors are taken for the same: the last digits depend on the batch that a part was in."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """How an answer can be bad: by which metric, and, in SQL, ``where`` it is, and which ones go first."""

    metric: Metric
    where: str
    order: str


@dataclass(frozen=True, slots=True)
class _Found:
    key: tuple[Any, ...]
    metric: str
    value: float


def worst_cases(comparison: Comparison, limit: int) -> tuple[Case, ...]:
    """At most so many, of each route as many as of any other, as far as it has them; no answer twice.

    Of each route those go first that the baseline has right and the candidate wrong (without a baseline: that are
    wrong), by the candidate's score; then what is only known to differ; then the most distant vectors, texts, segments.
    """
    by_route: dict[int, dict[tuple[Any, ...], _Found]] = {}
    for kind in _kinds(comparison):
        for route, found in _find(comparison, kind, limit):
            by_route.setdefault(route, {}).setdefault(found.key, found)
    in_turn = chain.from_iterable(zip_longest(*(by_route[route].values() for route in sorted(by_route))))
    chosen = [each for each in in_turn if each is not None][:limit]
    told = _told(comparison, [each.key for each in chosen])
    return tuple(_case(each, told[each.key]) for each in sorted(chosen, key=lambda each: str(each.key[-1])))


def _kinds(comparison: Comparison) -> Iterator[_Kind]:
    known = {metric.name: metric for metric in METRICS}
    if comparison.has_baseline:
        yield _Kind(known["accuracy"], "NOT c_right AND b_right", "c_score DESC")
        yield _Kind(known["text_accuracy"], "NOT c_text_right AND b_text_right", "text_distance DESC")
        yield _Kind(known["agreement"], "NOT label_same AND c_right IS NOT true", "c_score DESC")
    else:
        yield _Kind(known["accuracy"], "NOT c_right", "c_score DESC")
        yield _Kind(known["text_accuracy"], "NOT c_text_right", "c_score DESC")
    for metric in tensor_metrics(comparison.tensors):
        if metric.candidate == "cosine":
            yield _Kind(metric, f"isnan(cosine) OR cosine < {SAME_COSINE}", "isnan(cosine) DESC, cosine")
    yield _Kind(known["text_distance"], "text_distance > 0 AND c_text_right IS NOT true", "value DESC")
    yield _Kind(known["segments_overlap"], "overlap < 1", "value")


def _find(comparison: Comparison, kind: _Kind, limit: int) -> Iterator[tuple[int, _Found]]:
    rows = comparison.database.execute(f"""
        SELECT r, {ANSWER_KEY}, ({kind.metric.candidate})::DOUBLE AS value FROM {kind.metric.rows} WHERE {kind.where}
        QUALIFY row_number() OVER (PARTITION BY r ORDER BY {kind.order}, {ANSWER_KEY}) <= {limit}
        ORDER BY r, {kind.order}, {ANSWER_KEY}
    """).fetchall()
    for route, *key, value in rows:
        yield route, _Found(tuple(key), kind.metric.name, tidy(value))


def _told(comparison: Comparison, keys: Sequence[tuple[Any, ...]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """All that is shown of these answers."""
    database = comparison.database
    database.execute(f"CREATE OR REPLACE TABLE shown AS SELECT {ANSWER_KEY} FROM pairs WHERE false")
    if keys:
        database.executemany("INSERT INTO shown VALUES (?, ?, ?, ?, ?)", keys)
    sides = ", ".join(f"{side}.{name} AS {side}_{name}" for side in "cb" for name in (*FIELDS, "tensors"))
    found = database.execute(f"""
        SELECT {ANSWER_KEY}, e.source, e.type, p.truth, {sides}
        FROM shown
        JOIN (SELECT {ANSWER_KEY}, truth FROM pairs) p USING ({ANSWER_KEY})
        JOIN candidate c USING ({ANSWER_KEY})
        LEFT JOIN baseline b USING ({ANSWER_KEY})
        LEFT JOIN events e USING ({POSITION}, part)
    """)
    names = [each[0] for each in found.description or ()]
    rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    return {tuple(row[name] for name in ("topic", "partition", "offset", "part", "route")): row for row in rows}


def _case(found: _Found, row: dict[str, Any]) -> Case:
    topic, partition, offset, part, route = found.key
    return Case(
        Position(topic, partition, offset),
        part,
        route,
        found.metric,
        found.value,
        row["source"] or "",
        row["type"] or "",
        row["truth"],
        _words(row, "c") or "",
        _words(row, "b"),
    )


def _words(row: dict[str, Any], side: str) -> str | None:
    if row[f"{side}_model"] is None:
        return None
    tensors = {each["name"]: np.asarray(each["values"], np.float32) for each in row[f"{side}_tensors"] or ()}
    return in_words(answer_of({name: row[f"{side}_{name}"] for name in FIELDS}, tensors))
