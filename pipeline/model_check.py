"""What a model server has beside what the routes want of it: which models they can use, and why not. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from headrace.pipeline.codecs.tensor import describe, is_single_bytes
from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.inference import data_input
from headrace.pipeline.overviews import ModelConfig, ModelCounts, Scheduling, ServedModel
from headrace.pipeline.ports import TensorSpec, dtype_of

Found = tuple[ServedModel, ModelConfig | None]
"""A version in the server's repository, and its set-up if it is ready."""


@dataclass(frozen=True, slots=True)
class ModelReport:
    """One version of a model.

    Attributes:
        served: what the server's repository says of it.
        config: None if it is not ready.
        counts: None if the server keeps none of it.
        routes: names of those that use it.
        refusal: why it cannot be a route's model as it is; None if it can.
    """

    served: ServedModel
    config: ModelConfig | None
    counts: ModelCounts | None
    routes: tuple[str, ...]
    refusal: str | None


def reports(
    found: Iterable[Found], counts: Mapping[tuple[str, str], ModelCounts], routes: Sequence[RouteSettings]
) -> tuple[ModelReport, ...]:
    """One for each version that was found, in that order."""
    return tuple(
        ModelReport(
            served,
            config,
            counts.get((served.name, served.version)),
            tuple(route.name for route in routes if _uses(route, served)),
            _not_ready(served) if config is None else refusal(config),
        )
        for served, config in found
    )


def problems(found: Sequence[ModelReport], routes: Sequence[RouteSettings]) -> tuple[str, ...]:
    """A line for each route that has no model it can use."""
    lines = []
    for route in routes:
        its = [report for report in found if _uses(route, report.served)]
        if any(report.refusal is None for report in its):
            continue
        version = f" version {route.version}" if route.version else ""
        why = its[-1].refusal if its else "the server has no such model: add it to its repository, or change the route"
        lines.append(f"route {route.name}: {route.model}{version}: {why}")
    return tuple(lines)


def refusal(config: ModelConfig) -> str | None:
    """Why a model that is ready cannot be a route's model; None if it can."""
    if config.decoupled:
        return "it is decoupled: it answers a request with a stream"
    if config.scheduling is Scheduling.SEQUENCE:
        return "it is stateful: it wants a sequence id, which no event has"
    try:
        spec = data_input(config.signature)
    except PoisonError as error:
        return error.message
    try:
        dtype_of(spec.datatype)
    except KeyError:
        return f"its input {spec.name} is {spec.datatype}, which events cannot carry"
    return None


def takes(config: ModelConfig) -> str:
    """Its inputs in a few words: what a part must be."""
    return ", ".join(_one(spec) for spec in config.signature.inputs) or "nothing"


def _one(spec: TensorSpec) -> str:
    return "text or file" if is_single_bytes(spec) else describe(spec.datatype, spec.shape)


def _uses(route: RouteSettings, served: ServedModel) -> bool:
    """The server writes versions as numbers; a route may have leading zeros."""
    return route.model == served.name and (not route.version or route.version.lstrip("0") == served.version)


def _not_ready(served: ServedModel) -> str:
    return f"it is not ready: {served.reason or served.state or 'not loaded'}"
