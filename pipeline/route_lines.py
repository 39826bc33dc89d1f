"""Routes, and why parts take them, in words. Pure."""

from __future__ import annotations

from typing import Any

from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.records import InferenceRequest
from headrace.pipeline.routing import Explanation, Verdict

Json = dict[str, Any]  # leaves the process as text only


def matches(route: RouteSettings) -> str:
    """What a route takes: ``modality IMAGE or VIDEO, source uploads/*``."""
    match = route.match
    listed = {
        "modality": [str(modality) for modality in match.modality],
        "content type": match.content_type,
        "type": match.type,
        "source": match.source,
    }
    found = [f"{what} {' or '.join(wanted)}" for what, wanted in listed.items() if wanted]
    found += [f"header {name}={value}" for name, value in match.headers.items()]
    if match.explicit:
        found.append("only if the event names the model")
    return ", ".join(found) or "everything"


def explanation_lines(request: InferenceRequest, explanation: Explanation) -> list[str]:
    """For each part the route it takes, or none, after the routes before it and why not they."""
    lines = []
    for index, (part, verdicts) in enumerate(zip(request.parts, explanation.verdicts, strict=True)):
        lines.append(f"part {part.name}: {part.modality} {part.content_type}".rstrip())
        lines += [f"  not {verdict.route.name}: {verdict.reason}" for verdict in verdicts if verdict.failed]
        taker = taken(verdicts)
        if taker is None:
            lines.append("  no route takes it")
            continue
        version = explanation.assignments[index].version if explanation.assignments else taker.version
        model = f"{taker.model} {version}".strip()
        lines.append(f"  takes {taker.name}: {matches(taker)}; model {model}")
    if explanation.error is not None:
        error = explanation.error
        lines.append(f"would be a dead letter: {error.stage}/{error.code}: {error.message}")
    return lines


def explanation_json(request: InferenceRequest, explanation: Explanation, origin: str) -> Json:
    """The same as an object."""
    error = explanation.error
    return {
        "origin": origin,
        "parts": [
            {
                "name": part.name,
                "modality": part.modality,
                "content_type": part.content_type,
                "route": None if (taker := taken(verdicts)) is None else taker.name,
                "model": None if taker is None else taker.model,
                "version": explanation.assignments[index].version if explanation.assignments else None,
                "refused": [
                    {"route": verdict.route.name, "condition": verdict.failed, "reason": verdict.reason}
                    for verdict in verdicts
                    if verdict.failed
                ],
            }
            for index, (part, verdicts) in enumerate(zip(request.parts, explanation.verdicts, strict=True))
        ],
        "dead_letter": None if error is None else {"stage": error.stage, "code": error.code, "message": error.message},
    }


def taken(verdicts: tuple[Verdict, ...]) -> RouteSettings | None:
    """The route that takes the part, if one does."""
    return verdicts[-1].route if verdicts and verdicts[-1].failed is None else None
