"""User modules in a real Faust app, the outside faked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from headrace.pipeline.agents import InferenceApp
from tests.unit.app_bench import Bench, collect_leaks

EMITTED = {"alerts": "json"}


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of modules named ``mine...``, and of what Faust leaks."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield
    for name in {*sys.modules} - before:
        if name.startswith("mine"):
            del sys.modules[name]
    collect_leaks()


def bench_with(setup: Callable[[InferenceApp], None], **user_code: Any) -> Bench:
    module = ModuleType("mine")
    module.setup = setup  # type: ignore[attr-defined]  # what a module's text would define
    sys.modules["mine"] = module
    return Bench(user_code={"modules": ["mine"], **user_code}, topics={"emitted": EMITTED})


async def process(bench: Bench, records: int, outputs: int) -> None:
    bench.send(records)
    async with bench.running():
        await bench.poll()
        await bench.answered(outputs)
