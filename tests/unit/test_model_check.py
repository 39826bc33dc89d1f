from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.model_check import problems, refusal, reports, takes
from headrace.pipeline.overviews import ModelConfig, ModelCounts, Scheduling, ServedModel
from headrace.pipeline.ports import ModelSignature, TensorSpec

FILE = TensorSpec("ENCODED", "BYTES", (1,))
NUMBERS = TensorSpec("X", "FP32", (-1, 3))
READY = ServedModel("m", "1", True, "READY", "")
CONFIG = ModelConfig(ModelSignature("m", "1", 8, (FILE,), ()), "python", False, Scheduling.DYNAMIC, (), 0.0, ())
ROUTES = (RouteSettings(name="any", model="m"), RouteSettings(name="second", model="m", version="02"))


def with_inputs(*inputs: TensorSpec) -> ModelConfig:
    return replace(CONFIG, signature=replace(CONFIG.signature, inputs=inputs))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (CONFIG, None),
        (with_inputs(NUMBERS), None),
        (replace(CONFIG, scheduling=Scheduling.ENSEMBLE), None),
        (replace(CONFIG, decoupled=True), "it is decoupled: it answers a request with a stream"),
        (replace(CONFIG, scheduling=Scheduling.SEQUENCE), "it is stateful: it wants a sequence id"),
        (with_inputs(), "must have one input to be served from a topic; it has: none"),
        (with_inputs(FILE, NUMBERS), "must have one input to be served from a topic; it has: ENCODED, X"),
        (with_inputs(TensorSpec("X", "BF16", (1,))), "its input X is BF16, which events cannot carry"),
    ],
)
def test_refusal_says_why_no_route_can_use_it(config: ModelConfig, expected: str | None) -> None:
    found = refusal(config)
    assert (found is None) is (expected is None)
    assert (expected or "") in (found or "")


def test_inputs_are_told_in_a_few_words() -> None:
    assert takes(with_inputs(FILE)) == "text or file"
    assert takes(with_inputs(NUMBERS, FILE)) == "FP32[-1,3], text or file"
    assert takes(with_inputs()) == "nothing"


def test_report_joins_what_is_known_of_a_version() -> None:
    counts = ModelCounts(6, 4, 0, 0, 0.0, 0.0)
    second = replace(READY, version="2")
    first, other, broken = reports(
        [(READY, CONFIG), (second, CONFIG), (ServedModel("b", "", False, "UNAVAILABLE", "no such file"), None)],
        {("m", "1"): counts},
        ROUTES,
    )
    assert (first.routes, first.counts, first.refusal) == (("any",), counts, None)
    assert counts.mean_batch == 1.5
    assert (other.routes, other.counts) == (("any", "second"), None)
    assert (broken.routes, broken.refusal) == ((), "it is not ready: no such file")


def test_route_without_a_model_is_a_problem() -> None:
    routes = (*ROUTES, RouteSettings(name="gone", model="nowhere"))
    lines = problems(reports([(READY, CONFIG)], {}, routes), routes)
    assert [line.split(":")[0] for line in lines] == ["route second", "route gone"]
    assert "m version 02: the server has no such model" in lines[0]


def test_route_is_served_if_one_version_can_be_used() -> None:
    broken = ServedModel("m", "2", False, "UNAVAILABLE", "out of memory")
    found = reports([(READY, CONFIG), (broken, None)], {}, ROUTES)
    (line,) = problems(found, ROUTES)
    assert line == "route second: m version 02: it is not ready: out of memory"


def test_counts_of_a_model_that_did_nothing_have_no_mean() -> None:
    assert ModelCounts(0, 0, 0, 0, 0.0, 0.0).mean_batch == 0.0
