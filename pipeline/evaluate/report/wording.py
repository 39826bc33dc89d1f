"""Numbers and texts as reports show them. Pure."""

from __future__ import annotations

import datetime
import math
import re
import unicodedata

from headrace.pipeline.evaluate.measures import Interval, Measure

UNKNOWN = "–"
TEXT_LIMIT = 160
"""Characters of a name, a label or a slice's value."""
LEAST = 1e-12
"""What is nearer to 0 is what is left over where floats are added up."""

_KEPT_CONTROLS = "\n\t"
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn"}
"""Unicode's categories of what cannot be seen, but changes how the rest is: controls, directions, surrogates, …"""
_JOINERS = "\u200c\u200d"
"""In this category, yet part of how words and emoji are written."""
_NUMBER = re.compile(r"(?<![^\s(])-?(?:inf|\d*\.?\d+(?:e[+-]?\d+)?)(?![\w-])")
"""In a sentence: not within a name, a date or an id."""


def number(value: float) -> str:
    """A few figures: ``0.912``, ``12.3``, ``1,240``; more of them just below 1, where cosines differ."""
    if math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size < LEAST:
        return "0"
    told = f"{value:.2g}" if size < 0.0005 else f"{value:,.{_decimals(size)}f}"
    return told.replace("-", "−")


def _decimals(size: float) -> int:
    if size >= 1:
        return 0 if size >= 99.95 else 1 if size >= 9.995 else 2
    return 4 if size > 0.99 else 3


def signed(value: float) -> str:
    """A difference: ``+0.012``, ``−0.012``, ``0``."""
    return f"+{number(value)}" if value >= LEAST else number(value)


def with_minus(text: str) -> str:
    """A text with the minus sign that ``number`` has, where it has a hyphen for one."""
    return _NUMBER.sub(lambda found: found.group().replace("-", "−"), text)


def interval(found: Interval | None) -> str:
    """Both ends: ``0.903 to 0.921``; a dash if there are too few records for one."""
    return UNKNOWN if found is None or not is_known(found) else f"{number(found.low)} to {number(found.high)}"


def signed_interval(found: Interval) -> str:
    """Both ends of a difference's."""
    return f"{signed(found.low)} to {signed(found.high)}" if is_known(found) else UNKNOWN


def is_known(found: Interval) -> bool:
    """Whether an interval has ends."""
    return not (math.isnan(found.low) or math.isnan(found.high))


def pairs(measure: Measure) -> str:
    """``200 pairs``, where a difference is of fewer records than the number beside it; empty elsewhere."""
    fewer = measure.difference is not None and measure.paired < measure.records
    return counted(measure.paired, "pair") if fewer else ""


def p_value(value: float | None) -> str:
    """``0.012``, or ``< 0.001``; a dash if there is none."""
    if value is None or math.isnan(value):
        return UNKNOWN
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def count(value: int | None) -> str:
    """``48,211``; a dash for none."""
    return UNKNOWN if value is None else f"{value:,}"


def signed_count(value: int) -> str:
    """``+12``, ``−3``, ``0``."""
    return f"{value:+,}".replace("-", "−") if value else "0"


def counted(value: int, singular: str) -> str:
    """``1 event``, ``48,211 events``."""
    return f"{value:,} {singular}{'' if value == 1 else 's'}"


def is_any_route(route: str) -> bool:
    """Whether a measure's route stands for all: what is of whole events has none of its own."""
    return route in ("", "*")


def route_name(route: str) -> str:
    """A route's, for people."""
    return "all routes" if is_any_route(route) else route


def moment(epoch_ms: int) -> str:
    """``2026-11-27 09:30 UTC``."""
    return datetime.datetime.fromtimestamp(epoch_ms / 1000, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def visible(text: str, limit: int = TEXT_LIMIT) -> str:
    """A text of an event's, cut, with � for characters that cannot be seen: they could reorder what stands around it.

    Args:
        text: any.
        limit: characters, of which the last stands for those that are left out.
    """
    cut = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return "".join(each if _is_visible(each) else "\N{REPLACEMENT CHARACTER}" for each in cut)


def _is_visible(character: str) -> bool:
    return character in _KEPT_CONTROLS or character in _JOINERS or unicodedata.category(character) not in _HIDDEN
