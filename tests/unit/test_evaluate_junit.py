"""A gate as test cases, for continuous integration."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as Xml

from headrace.pipeline.evaluate.gate import Gate, judge
from headrace.pipeline.evaluate.junit import junit_xml
from tests.unit.report_bench import measure


def cases(*thresholds: dict[str, Any], source: str = "a") -> Xml.Element:
    """Of a number of all records, 0.5, and of the same of a source's."""
    measures = [measure("accuracy", "image", 0.5), measure("accuracy", "image", 0.5, by="source", of=source)]
    return Xml.fromstring(junit_xml(judge(Gate.model_validate({"thresholds": thresholds}), measures), "image v2"))


def names(root: Xml.Element) -> list[str]:
    return [case.attrib["name"] for case in root.iter("testcase")]


def test_junit_has_a_case_a_check_and_the_reason_of_each_failure() -> None:
    root = cases({"metric": "accuracy", "min": 0.5}, {"metric": "accuracy", "min": 0.8, "slice": {"by": "source"}})
    assert root.attrib == {"tests": "2", "failures": "1", "errors": "0", "skipped": "0"}
    assert names(root) == ["image/accuracy: ≥ 0.5", "image/accuracy of source=a: ≥ 0.8"]
    assert [each.text for each in root.iter("failure")] == ["0.5 is less than 0.8"]
    assert [len(case) for case in root.iter("testcase")] == [0, 1]


def test_thresholds_on_one_measure_are_cases_of_their_own() -> None:
    root = cases({"metric": "accuracy", "min": 0.4}, {"metric": "acc*", "max": 0.6, "judged": "interval"})
    assert names(root) == ["image/accuracy: ≥ 0.4", "image/accuracy: ≤ 0.6, whole interval"]


def test_what_xml_cannot_say_is_replaced() -> None:
    root = cases({"metric": "accuracy", "min": 0.4, "slice": {"by": "source"}}, source="a<&\x00b\ud800")
    assert names(root) == ["image/accuracy of source=a<&\ufffdb\ufffd: ≥ 0.4"]
