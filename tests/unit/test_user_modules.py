"""What a user's module may not do is refused when the worker starts, with a reason."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.pipeline.agents import InferenceApp
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.user_agents import RecordStream
from tests.unit.app_bench import Bench
from tests.unit.user_bench import bench_with, nothing_stays

__all__ = ["nothing_stays"]


def refused(setup: Callable[[InferenceApp], None], error: type[Exception] = ConfigError) -> str:
    with pytest.raises(error) as caught:
        bench_with(setup)
    return str(caught.value)


def _on_a_topic(app: InferenceApp) -> None:
    app.agent(app.topic("elsewhere"))(_idle)


def _on_nothing(app: InferenceApp) -> None:
    app.agent()(_idle)


def _table(app: InferenceApp) -> None:
    app.Table("counts", default=int)


def _unknown_route(app: InferenceApp) -> None:
    app.after("photos")(lambda record: None)


def _unknown_results(app: InferenceApp) -> None:
    app.results("photos")


def _yields(app: InferenceApp) -> None:
    @app.agent(app.results())
    async def generator(records: RecordStream) -> AsyncIterator[int]:
        yield 1


def _no_coroutine(app: InferenceApp) -> None:
    app.agent(app.results())(lambda records: None)


def _no_hands(app: InferenceApp) -> None:
    app.agent(app.results(), concurrency=0)(_idle)


def _twice(app: InferenceApp) -> None:
    for _ in range(2):
        app.agent(app.results())(_idle)


def _without_parentheses(app: InferenceApp) -> None:
    app.agent(_idle)


def _after_without_parentheses(app: InferenceApp) -> None:
    app.after(lambda record: None)  # type: ignore[arg-type]  # what is tested


def _fails(app: InferenceApp) -> None:
    raise KeyError("no such thing")


async def _idle(records: Any) -> None:
    async for _ in records:
        pass


REFUSED = {
    "topic": (_on_a_topic, "Kafka topics are consumed by headrace alone (topics.requests)"),
    "nothing": (_on_nothing, "an agent is for app.results(...) or an app.channel()"),
    "table": (_table, "table counts: tables are not kept"),
    "route": (_unknown_route, "there is no route photos; routes: text"),
    "results": (_unknown_results, "there is no route photos; routes: text"),
    "generator": (_yields, "generator yields: one over results emits through its records"),
    "no coroutine": (_no_coroutine, "must be a coroutine function, async def"),
    "no hands": (_no_hands, "concurrency is 0: it is the number of records at a time, 1 or more"),
    "twice": (_twice, "there is an agent _idle already: give each a name of its own, app.agent(..., name=...)"),
    "no parentheses": (_without_parentheses, "an agent is for app.results(...) or an app.channel()"),
    "after": (_after_without_parentheses, "app.after takes names of routes: write @app.after() for all"),
    "error": (_fails, "setup of mine failed: KeyError: 'no such thing'"),
}


@pytest.mark.parametrize(("setup", "message"), REFUSED.values(), ids=REFUSED)
async def test_what_cannot_be_is_refused_at_the_start(setup: Callable[[InferenceApp], None], message: str) -> None:
    assert message in refused(setup)


MODULES = {
    "absent": ("mine_absent", None, "there is no module mine_absent in {folder} or among the installed ones"),
    "no setup": ("mine_bare", "x = 1", "has no function setup(app)"),
    "syntax": ("mine_wrong", "def setup(app)", "mine_wrong cannot be imported: SyntaxError"),
    "async setup": ("mine_async", "async def setup(app): pass", "setup of mine_async is a coroutine function"),
    "exit": ("mine_main", "import sys; sys.exit('usage')", "mine_main cannot be imported: SystemExit: usage"),
    "no file": ("sys", None, "sys (built in) has no function setup(app)"),
    "import": ("mine_needy", "import mine_nothing", "cannot be imported: ModuleNotFoundError: No module named 'mine_n"),
}


@pytest.mark.parametrize(("name", "text", "message"), MODULES.values(), ids=MODULES)
async def test_module_that_cannot_be_loaded_is_named(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / f"{name}.py").write_text(text)
    with pytest.raises(ConfigError) as caught:
        Bench(user_code={"modules": [name], "path": str(tmp_path)})
    assert message.format(folder=tmp_path) in str(caught.value)


async def test_module_is_found_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "mine_here.py").write_text("def setup(app):\n    app.before(lambda record: None)\n")
    bench = Bench(user_code={"modules": ["mine_here"], "path": str(tmp_path)})
    assert len(bench.app.user_code.before) == 1
