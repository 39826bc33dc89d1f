"""How much two lists of spans of time have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Spans = Iterable[Mapping[str, Any]]


def overlap(mine: Spans | None, theirs: Spans | None) -> float:
    """Intersection over union of the time that both say something of, label by label; 1.0 if neither says anything.

    Args:
        mine: each with ``start`` and ``end`` in seconds, and a ``label`` or none. Those of one label that overlap count
            once.
        theirs: likewise.
    """
    one, other = _by_label(mine or ()), _by_label(theirs or ())
    common = total = 0.0
    for label in one.keys() | other.keys():
        a, b = one.get(label, []), other.get(label, [])
        both = _common(a, b)
        common += both
        total += _length(a) + _length(b) - both
    return common / total if total else 1.0


def _by_label(spans: Spans) -> dict[str | None, list[tuple[float, float]]]:
    found: dict[str | None, list[tuple[float, float]]] = {}
    for span in sorted(spans, key=lambda each: (each["start"], each["end"])):
        merged = found.setdefault(span["label"], [])
        if merged and span["start"] <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], span["end"])
        else:
            merged.append((span["start"], span["end"]))
    return found


def _length(spans: list[tuple[float, float]]) -> float:
    return sum(end - start for start, end in spans)


def _common(one: list[tuple[float, float]], other: list[tuple[float, float]]) -> float:
    """Of spans in order that do not overlap among themselves."""
    shared, i, j = 0.0, 0, 0
    while i < len(one) and j < len(other):
        shared += max(0.0, min(one[i][1], other[j][1]) - max(one[i][0], other[j][0]))
        if one[i][1] <= other[j][1]:
            i += 1
        else:
            j += 1
    return shared
