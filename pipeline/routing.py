"""Which route answers which part of an event, and why. Pure: an event in, assignments or a poison error out."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from headrace.pipeline.config_routes import Ordering, RouteSettings
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.light import light_dataclass
from headrace.pipeline.limits import MAX_VERSION_DIGITS
from headrace.pipeline.ordering import Lane
from headrace.pipeline.patterns import Patterns
from headrace.pipeline.records import Headers, InferenceRequest, Part, SourceRecord, Stage

_CACHE_ENTRIES = 4096
_CACHED_KEY_CHARACTERS = 1024  # events are untrusted: a long type or content type must not fill the memory

_Key = tuple[str | None, ...]


@light_dataclass(frozen=True, slots=True)
class Assignment:
    """One part of an event and what answers it. An empty ``version`` lets the model server choose."""

    part_index: int
    route: RouteSettings
    model: str
    version: str


class Condition(enum.StrEnum):
    """What a route asks of an event or a part, in the order in which it is looked at."""

    TOPIC = "topic"
    """The record is in a lane of other routes, or the route has lanes and it is in none of them."""
    EXPLICIT = "explicit"
    """The event must name the route's model, and names none."""
    MODEL = "model"
    """The event names another model."""
    MODALITY = "modality"
    CONTENT_TYPE = "content type"
    TYPE = "type"
    SOURCE = "source"
    HEADERS = "headers"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One route looked at for one part: ``failed`` is the first condition that does not hold, None if it takes it."""

    route: RouteSettings
    failed: Condition | None
    reason: str
    """The condition that failed, what was wanted and what there is; empty if the route takes the part."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why the parts of an event go where they go.

    Attributes:
        verdicts: for each part the routes that were looked at, in order; the last one takes it unless none does.
        assignments: what ``Router.plan`` returns; empty if it raises.
        error: what ``Router.plan`` raises: the event would be a dead letter.
    """

    verdicts: tuple[tuple[Verdict, ...], ...]
    assignments: tuple[Assignment, ...]
    error: PoisonError | None


class _Candidate:
    """A route with its match compiled."""

    __slots__ = ("alone", "content_type", "headers", "lanes", "match", "modality", "route", "source", "topics", "type")

    def __init__(self, route: RouteSettings, lanes: frozenset[str]) -> None:
        match = route.match
        self.route = route
        self.alone = (Assignment(0, route, route.model, route.version),)
        """The plan of an event whose one part it takes, and that names no version."""
        self.lanes = lanes
        self.topics = frozenset(route.topics)
        self.match = match
        self.modality = frozenset(match.modality)
        self.content_type = Patterns([media_type(pattern) for pattern in match.content_type])
        self.type = Patterns(match.type)
        self.source = Patterns(match.source)
        self.headers = tuple((name, Patterns([pattern])) for name, pattern in match.headers.items())

    def failed(self, request: InferenceRequest, part: Part, headers: Headers, topic: str) -> Condition | None:
        """The first condition that does not hold; None if the route takes the part. This alone decides."""
        if self.lanes and (topic not in self.topics if self.topics else topic in self.lanes):
            return Condition.TOPIC
        if request.model is None:
            if self.match.explicit:
                return Condition.EXPLICIT
        elif request.model != self.route.model:
            return Condition.MODEL
        if self.modality and part.modality not in self.modality:
            return Condition.MODALITY
        if not (self.content_type.anything or self.content_type.match(media_type(part.content_type))):
            return Condition.CONTENT_TYPE
        if not self.type.match(request.type):
            return Condition.TYPE
        if not self.source.match(request.source):
            return Condition.SOURCE
        for name, patterns in self.headers:
            if not _header_matches(headers, name, patterns):
                return Condition.HEADERS
        return None

    def verdict(self, request: InferenceRequest, part: Part, headers: Headers, topic: str) -> Verdict:
        """What ``failed`` says, with the reason in words."""
        failed = self.failed(request, part, headers, topic)
        reason = "" if failed is None else self._reason(failed, request, part, headers, topic)
        return Verdict(self.route, failed, reason)

    def _reason(self, failed: Condition, request: InferenceRequest, part: Part, headers: Headers, topic: str) -> str:
        wanted, model = self.match, self.route.model
        match failed:
            case Condition.TOPIC:
                own = _alternatives(self.route.topics) if self.topics else "one that is no route's own"
                return f"topic: {topic or 'not said'}, wanted {own}"
            case Condition.EXPLICIT:
                return f"explicit: takes only events that name model {model}"
            case Condition.MODEL:
                return f"model: the event names {_short(request.model or '')}, the route has {model}"
            case Condition.MODALITY:
                return f"modality: {part.modality}, wanted {_alternatives(sorted(self.modality))}"
            case Condition.CONTENT_TYPE:
                return f"content type: {_short(part.content_type)}, wanted {_alternatives(wanted.content_type)}"
            case Condition.TYPE:
                return f"type: {_short(request.type)}, wanted {_alternatives(wanted.type)}"
            case Condition.SOURCE:
                return f"source: {_short(request.source)}, wanted {_alternatives(wanted.source)}"
            case Condition.HEADERS:
                return _header_reason(headers, wanted.headers, self.headers)


def _header_matches(headers: Headers, wanted: str, patterns: Patterns) -> bool:
    """Of a header that stands more than once the last counts, as everywhere."""
    for name, value in reversed(headers):
        if name == wanted:
            return value is not None and patterns.match(value.decode(errors="replace"))
    return False


def _header_reason(headers: Headers, wanted: Mapping[str, str], compiled: Sequence[tuple[str, Patterns]]) -> str:
    name = next(name for name, patterns in compiled if not _header_matches(headers, name, patterns))
    value = dict(headers).get(name)
    found = "there is none" if value is None else _short(value.decode(errors="replace"))
    return f"header {name}: {found}, wanted {wanted[name]}"


def _alternatives(wanted: Sequence[str]) -> str:
    return " or ".join(wanted)


class Router:
    """Assigns each part of an event to the first route, in the order of the file, that matches it.

    An event that names a model considers only the routes of that model; one that names none considers all but the
    routes whose match is explicit. Content types are compared without their parameters and without regard to case.
    """

    def __init__(self, routes: Sequence[RouteSettings]) -> None:
        lanes = frozenset(topic for route in routes for topic in route.topics)
        self._candidates = tuple(_Candidate(route, lanes) for route in routes)
        self._by_topic = bool(lanes)
        self._models = tuple(sorted({route.model for route in routes}))
        self._by_type = any(route.match.type for route in routes)
        self._by_source = any(route.match.source for route in routes)
        self._by_headers = any(route.match.headers for route in routes)
        self._cache: dict[_Key, _Candidate] = {}

    def plan(self, request: InferenceRequest, headers: Headers, topic: str = "") -> tuple[Assignment, ...]:
        """One assignment a part, in the order of the parts.

        Args:
            request: the event.
            headers: its record's.
            topic: that it was sent to; it matters where routes have ``topics`` of their own.

        Raises:
            PoisonError: ``NO_PARTS``, ``NO_ROUTE``, ``UNKNOWN_MODEL``, ``VERSION_WITHOUT_MODEL`` or ``BAD_VERSION``.
        """
        if not request.parts:
            raise PoisonError(Stage.ROUTE, "NO_PARTS", "the event has no parts: give at least one")
        version = _version(request)
        if len(request.parts) == 1:  # the usual case, and this is a hot path
            found = self._candidate(request, request.parts[0], headers, topic)
            return (Assignment(0, found.route, found.route.model, version),) if version else found.alone
        routes = [self._candidate(request, part, headers, topic).route for part in request.parts]
        return tuple(
            Assignment(index, route, route.model, version or route.version) for index, route in enumerate(routes)
        )

    def explain(self, request: InferenceRequest, headers: Headers, topic: str = "") -> Explanation:
        """What ``plan`` says, with the verdict on every route that was looked at. Never raises."""
        verdicts = tuple(tuple(self._verdicts(request, part, headers, topic)) for part in request.parts)
        try:
            return Explanation(verdicts, self.plan(request, headers, topic), None)
        except PoisonError as error:
            return Explanation(verdicts, (), error)

    def _verdicts(self, request: InferenceRequest, part: Part, headers: Headers, topic: str) -> Iterator[Verdict]:
        for candidate in self._candidates:
            verdict = candidate.verdict(request, part, headers, topic)
            yield verdict
            if verdict.failed is None:
                return

    def _candidate(self, request: InferenceRequest, part: Part, headers: Headers, topic: str) -> _Candidate:
        if self._by_headers:
            return self._search(request, part, headers, topic)
        key = (
            request.model,
            part.modality,
            part.content_type,
            request.type if self._by_type else None,
            request.source if self._by_source else None,
            topic if self._by_topic else None,
        )
        candidate = self._cache.get(key)
        if candidate is None:
            candidate = self._search(request, part, headers, topic)
            self._remember(key, candidate)
        return candidate

    def _remember(self, key: _Key, candidate: _Candidate) -> None:
        if sum(len(text) for text in key if text is not None) > _CACHED_KEY_CHARACTERS:
            return
        if len(self._cache) >= _CACHE_ENTRIES:
            self._cache.clear()
        self._cache[key] = candidate

    def _search(self, request: InferenceRequest, part: Part, headers: Headers, topic: str) -> _Candidate:
        for candidate in self._candidates:
            if candidate.failed(request, part, headers, topic) is None:
                return candidate
        raise self._no_route(request, part)

    def _no_route(self, request: InferenceRequest, part: Part) -> PoisonError:
        if request.model is not None and request.model not in self._models:
            known = ", ".join(self._models)
            return PoisonError(
                Stage.ROUTE,
                "UNKNOWN_MODEL",
                f"no route serves model {_short(request.model)}; models with a route: {known}",
            )
        candidates = [
            candidate.route.name
            for candidate in self._candidates
            if (request.model is None and not candidate.match.explicit) or candidate.route.model == request.model
        ]
        looked_for = f"modality {part.modality}, content type {_short(part.content_type)}, type {_short(request.type)}"
        looked_for += f", source {_short(request.source)}"
        if request.model is not None:
            looked_for += f", model {_short(request.model)}"
        considered = ", ".join(candidates) or "none (every route wants the event to name its model)"
        return PoisonError(
            Stage.ROUTE,
            "NO_ROUTE",
            f"no route for part {_short(part.name)} ({looked_for}); routes considered: {considered}",
        )


def reply_topic(route: RouteSettings, requested: str | None, default: str) -> str:
    """Where an event's result goes; the route of an event's first part decides for all of it.

    Args:
        route: the first part's route.
        requested: the record's ``reply_topic`` header, if any. Ignored unless the route allows it.
        default: ``topics.results``.
    """
    if requested is not None and requested in route.reply_topics_allowed:
        return requested
    return route.reply_topic or default


def media_type(content_type: str) -> str:
    """A content type without its parameters, in lower case: ``Text/Plain; charset=utf-8`` → ``text/plain``."""
    return content_type.partition(";")[0].strip().lower()


def _version(request: InferenceRequest) -> str:
    """The version that the event names, written in one way: "01" is "1" to the server, and must be to our caches."""
    version = request.model_version
    if not version:
        return ""
    if request.model is None:
        message = f"model_version {_short(version)} without a model: name the model too, or neither"
        raise PoisonError(Stage.ROUTE, "VERSION_WITHOUT_MODEL", message)
    if not (version.isascii() and version.isdigit()) or len(version) > MAX_VERSION_DIGITS:
        message = f"model_version {_short(version)} is not a whole number of at most {MAX_VERSION_DIGITS} digits"
        raise PoisonError(Stage.ROUTE, "BAD_VERSION", message)
    return str(int(version))


def _short(text: str) -> str:
    """A text from an event, quoted, bounded in length and free of control characters."""
    return repr(text if len(text) <= 100 else text[:99] + "…")


def lanes_of(record: SourceRecord, plan: Sequence[Assignment]) -> tuple[Lane, ...]:
    """What a record's completion must stay in order with, each once. No key, no order by key."""
    if len(plan) == 1:  # the usual case, and this is a hot path
        return _lanes(plan[0].route, record.key)
    return tuple(dict.fromkeys(lane for assignment in plan for lane in _lanes(assignment.route, record.key)))


def _lanes(route: RouteSettings, key: bytes | None) -> tuple[Lane, ...]:
    if route.ordering is Ordering.KEY:
        return () if key is None else ((route.name, key),)
    return (route.name,) if route.ordering is Ordering.PARTITION else ()
