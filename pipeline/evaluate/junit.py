"""A gate's checks as JUnit XML, which continuous integration shows beside tests."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as Xml

from headrace.pipeline.evaluate.gate import Check
from headrace.pipeline.evaluate.report.summary import bounds

_ALLOWED = {0x9, 0xA, 0xD}


def junit_xml(checks: Sequence[Check], suite: str) -> bytes:
    """One test case a check, UTF-8; its name says what is held to which bounds, for one number may be held to several.

    Args:
        checks: of one gate.
        suite: the name that they stand under.
    """
    failed = sum(check.problem is not None for check in checks)
    counts = {"tests": str(len(checks)), "failures": str(failed), "errors": "0", "skipped": "0"}
    root = Xml.Element("testsuites", counts)
    parent = Xml.SubElement(root, "testsuite", {"name": _text(suite), **counts})
    for check in checks:
        name = _text(f"{check.name}: {bounds(check.threshold)}")
        case = Xml.SubElement(parent, "testcase", {"classname": _text(suite), "name": name, "time": "0"})
        if check.problem is not None:
            Xml.SubElement(case, "failure", {"message": _text(check.problem)}).text = _text(check.problem)
    Xml.indent(root)
    written: bytes = Xml.tostring(root, encoding="utf-8", xml_declaration=True)
    return written


def _text(text: str) -> str:
    """Without what XML 1.0 has no way to write: a slice's value comes from events."""
    return "".join(each if _is_allowed(ord(each)) else "\N{REPLACEMENT CHARACTER}" for each in text)


def _is_allowed(code: int) -> bool:
    return code in _ALLOWED or 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000
