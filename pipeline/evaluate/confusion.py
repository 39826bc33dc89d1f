"""Best labels against what should have been answered, and against the baseline's: which are taken for which."""

from __future__ import annotations

from collections.abc import Iterator

from headrace.pipeline.evaluate.compare import Comparison
from headrace.pipeline.evaluate.evaluation import Confusion
from headrace.pipeline.evaluate.sql import quoted

MAX_LABELS = 20
OTHER = "(other)"
NO_LABEL = "(none)"
"""Stands for an answer without a label."""


def confusions(comparison: Comparison) -> Iterator[Confusion]:
    """Of each route with labels, against each of both that there is."""
    for number, route in enumerate(comparison.pairs.routes):
        for against, wanted, judged in (("truth", "truth", "c_right"), ("baseline", "b_label", "label_same")):
            found = _confusion(comparison, number, wanted, judged)
            if found is not None:
                yield Confusion(route, against, *found)


def _confusion(
    comparison: Comparison, route: int, wanted: str, judged: str
) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]] | None:
    run = comparison.database.execute
    pairs = f"""(
        SELECT coalesce({wanted}, '{NO_LABEL}') AS wanted, coalesce(c_label, '{NO_LABEL}') AS told FROM pairs
        WHERE r = {route} AND {judged} IS NOT NULL
    )"""
    frequent = run(f"""
        SELECT label FROM (SELECT wanted AS label FROM {pairs} UNION ALL SELECT told FROM {pairs})
        GROUP BY label ORDER BY count(*) DESC, label LIMIT {MAX_LABELS + 1}
    """).fetchall()
    if not frequent:
        return None
    labels = [label for (label,) in frequent[:MAX_LABELS]]
    known = ", ".join(quoted(label) for label in labels)
    counted = run(f"""
        SELECT CASE WHEN wanted IN ({known}) THEN wanted END, CASE WHEN told IN ({known}) THEN told END, count(*)
        FROM {pairs} GROUP BY ALL
    """).fetchall()
    places = {label: place for place, label in enumerate(labels)}
    if len(frequent) > MAX_LABELS:
        places[None] = len(labels)
        labels.append(OTHER)
    counts = [[0] * len(labels) for _ in labels]
    for row, column, count in counted:
        counts[places[row]][places[column]] = count
    return tuple(labels), tuple(tuple(row) for row in counts)
