"""How the benchmarks' figures are worked out, and where they are put."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.bench.__main__ import BENCHMARKS
from tests.bench.passthrough.latency import collections
from tests.bench.ratios import estimate, ratio
from tests.bench.report import PAGE, begin, end, put


def test_ratio_is_the_median_of_the_pairs_and_not_the_ratio_of_medians() -> None:
    assert ratio([(1.0, 1.0), (4.0, 2.0), (10.0, 2.0)]).median == 2.0


def test_interval_of_alike_values_is_narrow_and_of_unlike_ones_is_within_them() -> None:
    assert (estimate([3.0] * 7).low, estimate([3.0] * 7).high) == (3.0, 3.0)
    spread = estimate([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    assert 1.0 <= spread.low < spread.median < spread.high <= 7.0


def test_lines_are_put_between_their_own_marks_and_replace_what_was_there() -> None:
    page = f"a\n{begin('x')}\nold\n{end('x')}\nb\n{begin('y')}\nkept\n{end('y')}\n"
    put_once = put(page, "x", ["new", "er"])
    assert put_once == page.replace("old", "new\ner")
    assert put(put_once, "x", ["new", "er"]) == put_once


def test_page_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for z"):
        put("a page", "z", [])


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_has_its_place_in_the_documentation(name: str) -> None:
    assert put(PAGE.read_text(), name, ["figures"])


def test_pauses_of_a_virtual_machine_are_those_in_the_window() -> None:
    log = (
        "[2026-01-02T03:04:05.000+0000] GC(0) Pause Young (Allocation Failure) 38M->8M(123M) 12.345ms\n"
        "[2026-01-02T03:04:06.500+0000] GC(1) Pause Full (System.gc()) 9M->7M(123M) 40.000ms\n"
        "[2026-01-02T03:04:06.600+0000] GC(2) Concurrent Mark 5.000ms\n"
    )
    began = datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC).timestamp()
    assert collections(log, began, began + 1) == (40.0,)
    assert collections(log, began - 2, began + 1) == (12.345, 40.0)
