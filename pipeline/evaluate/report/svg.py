"""A figure as an ``<svg>`` element to stand in a page: with the page's colours and fonts, and few bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree as Xml

from matplotlib import style
from matplotlib.figure import Figure

INK, LINE, CANDIDATE, BASELINE = "#101010", "#202020", "#303030", "#404040"
"""Colours to draw with: each stands for one of the page's, which has others in the dark."""

_OF_PAGE = {INK: "var(--quiet)", LINE: "var(--line)", CANDIDATE: "var(--candidate)", BASELINE: "var(--baseline)"}
_REFERENCE = re.compile(r"url\(#([^)]+)\)|^#(.+)$")
_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "headrace",  # the same figure has the same names within
    "text.parse_math": False,
    "font.size": 8,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "axes.facecolor": "none",
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.4,
}
_SIZE_INCHES = 3.9, 2.2


@contextmanager
def axes() -> Iterator[Any]:
    """A figure's axes, in the style of the page whatever matplotlib is set to on this machine."""
    with style.context(_STYLE, after_reset=True):
        yield Figure(figsize=_SIZE_INCHES).subplots()


def element(drawn: Any, name: str, description: str) -> str:
    """What has been drawn, as SVG.

    Args:
        drawn: axes; call it while they are in use.
        name: of the figure, unlike any other's in the page.
        description: for those who cannot see it.
    """
    file = io.StringIO()
    drawn.figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = Xml.fromstring(file.getvalue())
    for each in root.iter():
        _simplify(each)
    _drop(root, {"metadata", "style"})
    _rename(root, name)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.attrib |= {"role": "img", "aria-label": description}
    return Xml.tostring(root, encoding="unicode", short_empty_elements=False)


def _simplify(element: Xml.Element) -> None:
    """Names without their namespaces, which HTML knows by itself; colours and fonts of the page."""
    element.tag = _local(element.tag)
    element.attrib = {_local(name): _coloured(value) for name, value in element.attrib.items()}
    if element.tag == "text":
        element.attrib["style"] = _without_family(element.attrib.get("style", ""))
    if not (element.text or "").strip():
        element.text = None
    element.tail = None


def _without_family(declarations: str) -> str:
    """A text's style, in the page's font."""
    size = re.sub(r"\bfont: (?:[\w ]+ )?([\d.]+px) [^;]+", r"font-size: \1", declarations)
    return re.sub(r"\bfont-family: [^;]+;? ?", "", size)


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _coloured(value: str) -> str:
    for drawn, shown in _OF_PAGE.items():
        value = value.replace(drawn, shown)
    return value


def _drop(element: Xml.Element, tags: set[str]) -> None:
    for child in list(element):
        if child.tag in tags or (child.tag == "defs" and all(each.tag in tags for each in child)):
            element.remove(child)
        else:
            _drop(child, tags)


def _rename(root: Xml.Element, name: str) -> None:
    """Ids are a page's, not a figure's: keep those that something refers to, and put the figure's name before them."""
    used = {
        found.group(1) or found.group(2)
        for each in root.iter()
        for value in each.attrib.values()
        if (found := _REFERENCE.search(value))
    }
    names = {old: f"{name}-{number}" for number, old in enumerate(sorted(used))}
    for each in root.iter():
        if each.get("id") in names:
            each.attrib["id"] = names[each.attrib["id"]]
        else:
            each.attrib.pop("id", None)
        for attribute, value in each.attrib.items():
            if (found := _REFERENCE.search(value)) and attribute != "id":
                old = found.group(1) or found.group(2)
                each.attrib[attribute] = value.replace(f"#{old}", f"#{names[old]}")
