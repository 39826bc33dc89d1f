"""Which results and dead letters a reader wants to see. Pure: an outcome in, the parts that match out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.outcomes import Outcome
from headrace.pipeline.patterns import Patterns, headers_match, key_matches
from headrace.pipeline.records import DeadLetter, InferenceResult, Modality, PartOutput


@dataclass(frozen=True, slots=True)
class Wanted:
    """All that is given must hold; texts may have the wildcards ``*`` and ``?``.

    Attributes:
        models, routes, parts, labels: one of each; all four, with score and modality, of one and the same part.
        min_score: of the label, or of any label if none is named.
        modalities: of the routes, as the settings have them: results do not say what was sent.
        keys: of the record, undecodable bytes escaped.
        requests: ids of requests.
        headers: of the result's or dead letter's own record; the last of a name counts.
    """

    models: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    min_score: float | None = None
    modalities: tuple[Modality, ...] = ()
    keys: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()


class Selection:
    """Takes outcomes or not.

    Args:
        wanted: what to take.
        routes: those of the settings, for their modalities.
    """

    def __init__(self, wanted: Wanted, routes: Sequence[RouteSettings]) -> None:
        self._models = Patterns(wanted.models)
        self._routes = Patterns(wanted.routes)
        self._parts = Patterns(wanted.parts)
        self._labels = Patterns([label.lower() for label in wanted.labels])
        self._keys = Patterns(wanted.keys)
        self._requests = Patterns(wanted.requests)
        self._headers = [(name, Patterns([pattern])) for name, pattern in wanted.headers]
        self._min_score = wanted.min_score
        self._by_label = bool(wanted.labels) or wanted.min_score is not None
        self._by_content = self._by_label or bool(wanted.parts) or bool(wanted.modalities)
        self._modalities = frozenset(wanted.modalities)
        self._of_route = {route.name: frozenset(route.match.modality) for route in routes}
        self.everything = wanted == Wanted()

    def takes(self, outcome: Outcome) -> bool:
        """Whether it is to be shown."""
        if self.everything:
            return True
        content = outcome.content
        if not (self._record_matches(outcome) and self._requests.match(content.request_id or "")):
            return False
        if isinstance(content, DeadLetter):  # has no parts: of its route and model it knows one, if any
            known = self._models.match(content.model or "") and self._routes.match(content.route or "")
            return known and not self._by_content
        return bool(self.matching(content))

    def matching(self, result: InferenceResult) -> tuple[PartOutput, ...]:
        """The parts of a result that are asked for: all, if nothing is asked of parts."""
        if self.everything:
            return result.outputs
        return tuple(output for output in result.outputs if self._part_matches(output))

    def _record_matches(self, outcome: Outcome) -> bool:
        return key_matches(self._keys, outcome.record.key) and headers_match(self._headers, outcome.record.headers)

    def _part_matches(self, output: PartOutput) -> bool:
        return (
            self._models.match(output.model)
            and self._routes.match(output.route)
            and self._parts.match(output.part)
            and (not self._modalities or self._may_be(output.route))
            and (not self._by_label or self._label_matches(output))
        )

    def _may_be(self, route: str) -> bool:
        known = self._of_route.get(route)
        return known is not None and (not known or bool(known & self._modalities))

    def _label_matches(self, output: PartOutput) -> bool:
        scored = [(label.name, label.score) for label in output.labels]
        scored += [(span.label, span.score or 0.0) for span in output.segments if span.label is not None]
        return any(
            self._labels.match(name.lower()) and (self._min_score is None or score >= self._min_score)
            for name, score in scored
        )
