"""What differs from live processing: which models answer which parts. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from headrace.pipeline.config_base import VERSION_PATTERN
from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.records import InferenceRequest
from headrace.pipeline.replay.manifest import Pin
from headrace.pipeline.routing import Assignment

_VERSION = re.compile(VERSION_PATTERN)


@dataclass(frozen=True, slots=True)
class ReplayRules:
    """Routing is live's; then this. Deadlines, long past, do not count, and what user code emits is not written.

    Attributes:
        routes: whose parts are answered; all, if empty.
        pins: what answers each route, by its name.
    """

    routes: frozenset[str]
    pins: Mapping[str, Pin]

    def apply(
        self, request: InferenceRequest, plan: Sequence[Assignment]
    ) -> tuple[InferenceRequest, tuple[Assignment, ...]]:
        """The request with the parts that are answered, and what answers them; none, if it is not replayed at all."""
        kept = [each for each in plan if not self.routes or each.route.name in self.routes]
        if len(kept) < len(plan):
            request = replace(request, parts=tuple(request.parts[each.part_index] for each in kept))
        return request, tuple(self._pinned(each, index) for index, each in enumerate(kept))

    def _pinned(self, assignment: Assignment, index: int) -> Assignment:
        pin = self.pins[assignment.route.name]
        if pin.forced:
            return Assignment(index, assignment.route, pin.model, pin.version)
        return replace(assignment, part_index=index, version=assignment.version or pin.version)


def forced_pins(options: Sequence[str], routes: Sequence[RouteSettings]) -> dict[str, tuple[str, str]]:
    """What ``--model`` says, by route: model and version, an empty one if it names none.

    Args:
        options: ``NAME:VERSION`` for all routes of that model, ``NAME`` with its version of now, or
            ``ROUTE=NAME:VERSION`` for a route, which may be another model than its own.
        routes: those of the settings.

    Raises:
        ConfigError: there is no such route, or none with such a model.
    """
    found: dict[str, tuple[str, str]] = {}
    for option in options:
        route, equals, pin = option.rpartition("=")
        model, _, version = pin.partition(":")
        if not model or not _VERSION.fullmatch(version):
            raise ConfigError(f"--model {option}: write NAME:VERSION or ROUTE=NAME:VERSION, with a number as version")
        if equals:
            check_routes([route], routes)
        named = [route] if equals else [each.name for each in routes if each.model == model]
        if not named:
            known = ", ".join(sorted({each.model for each in routes}))
            raise ConfigError(
                f"--model {option}: no route has model {model}; write ROUTE={pin} for one that has another "
                f"(models with a route: {known})"
            )
        if doubled := [each for each in named if each in found]:
            raise ConfigError(f"--model: route {doubled[0]} is given two models")
        # in one way, as routing writes the versions that events name: "04" is "4" to the server
        found |= dict.fromkeys(named, (model, version and str(int(version))))
    return found


def check_routes(names: Sequence[str], routes: Sequence[RouteSettings]) -> None:
    """Raises ConfigError if there is no such route."""
    known = [route.name for route in routes]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"there is no route {', '.join(unknown)}; routes: {', '.join(known)}")
