from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.pipeline.config_routes import Match, RouteSettings, default_routes
from headrace.pipeline.errors import PoisonError
from headrace.pipeline.records import Headers, InferenceRequest, Modality, Part
from headrace.pipeline.routing import Assignment, Condition, Router, media_type, reply_topic


def part(modality: Modality = Modality.TEXT, content_type: str = "text/plain", name: str = "body") -> Part:
    return Part(name, modality, content_type, "x")


def event(
    *parts: Part,
    type_: str = "note",
    source: str = "/desk",
    model: str | None = None,
    version: str | None = None,
) -> InferenceRequest:
    return InferenceRequest("1", type_, source, 0, parts or (part(),), model=model, model_version=version)


def route(name: str, model: str = "m", version: str = "", **match: Any) -> RouteSettings:
    return RouteSettings(name=name, model=model, version=version, match=Match.model_validate(match))


def chosen(router: Router, request: InferenceRequest, headers: tuple[tuple[str, bytes | None], ...] = ()) -> list[str]:
    return [assignment.route.name for assignment in router.plan(request, headers)]


def failure(router: Router, request: InferenceRequest) -> PoisonError:
    with pytest.raises(PoisonError) as caught:
        router.plan(request, ())
    assert caught.value.stage == "route"
    return caught.value


def test_first_matching_route_wins() -> None:
    router = Router([route("a", modality=["IMAGE"]), route("b", modality=["TEXT"]), route("c")])
    assert chosen(router, event()) == ["b"]
    assert chosen(router, event(part(Modality.AUDIO, "audio/wav"))) == ["c"]


def test_parts_are_routed_one_by_one() -> None:
    router = Router(default_routes())
    parts = (part(Modality.IMAGE, "image/png", "photo"), part(), part(Modality.TENSOR, "", "vector"))
    plan = router.plan(event(*parts), ())
    assert [(a.part_index, a.route.name, a.model, a.version) for a in plan] == [
        (0, "image", "image_jpeg", ""),
        (1, "text", "text_embedding", ""),
        (2, "identity", "identity", ""),
    ]


def test_one_part_without_a_route_fails_the_event() -> None:
    routes = [route for route in default_routes() if route.name != "video"]
    error = failure(Router(routes), event(part(), part(Modality.VIDEO, "video/mp4", "clip")))
    assert error.code == "NO_ROUTE"
    assert "part 'clip' (modality VIDEO, content type 'video/mp4'" in error.message
    assert "routes considered: text, image, audio, identity" in error.message


def test_event_without_parts_is_poison() -> None:
    request = InferenceRequest("1", "note", "/desk", 0, ())
    assert failure(Router(default_routes()), request).code == "NO_PARTS"


def test_explicit_route_needs_the_model_named() -> None:
    router = Router([route("hidden", model="special", explicit=True), route("open")])
    assert chosen(router, event()) == ["open"]
    assert chosen(router, event(model="special")) == ["hidden"]


def test_all_routes_explicit_says_so() -> None:
    error = failure(Router([route("hidden", explicit=True)]), event())
    assert "every route wants the event to name its model" in error.message


def test_named_model_considers_only_its_routes() -> None:
    router = Router([route("a", model="one"), route("b", model="two"), route("c", model="two")])
    assert chosen(router, event(model="two")) == ["b"]


def test_named_model_must_still_match() -> None:
    error = failure(Router(default_routes()), event(part(), model="identity"))
    assert error.code == "NO_ROUTE"
    assert "model 'identity'" in error.message
    assert error.message.endswith("routes considered: identity")


def test_unknown_model_lists_the_known_ones() -> None:
    error = failure(Router([route("a", model="one"), route("b", model="two")]), event(model="three"))
    assert error.code == "UNKNOWN_MODEL"
    assert error.message == "no route serves model 'three'; models with a route: one, two"


@pytest.mark.parametrize(("named", "used"), [("7", "7"), (None, "2"), ("", "2")])
def test_named_version_goes_before_the_routes(named: str | None, used: str) -> None:
    plan = Router([route("a", version="2")]).plan(event(model="m", version=named), ())
    assert plan[0].version == used


@given(st.integers(0, 10**17), st.integers(0, 3))
def test_version_is_written_in_one_way(number: int, zeros: int) -> None:
    """The server takes 01 for 1; what is kept for each version must not be kept for each way to write it."""
    plan = Router([route("a")]).plan(
        event(model="m", version="0" * min(zeros, 18 - len(str(number))) + str(number)), ()
    )
    assert plan[0].version == str(number)


def test_version_without_model_is_poison() -> None:
    assert failure(Router([route("a")]), event(version="3")).code == "VERSION_WITHOUT_MODEL"


@pytest.mark.parametrize("version", ["latest", "-1", "1.0", "٣", "1" * 19, "0" * 100_000 + "1"])
def test_version_that_is_no_number_is_poison(version: str) -> None:
    assert failure(Router([route("a")]), event(model="m", version=version)).code == "BAD_VERSION"


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({"content_type": ["text/*"]}, True),
        ({"content_type": ["TEXT/plain"]}, True),
        ({"content_type": ["image/*", "text/plain"]}, True),
        ({"content_type": ["text/html"]}, False),
        ({"type": ["no?e"]}, True),
        ({"type": ["NOTE"]}, False),
        ({"type": ["[n]ote"]}, False),
        ({"source": ["/de*"]}, True),
        ({"source": ["/de"]}, False),
        ({"type": ["note"], "source": ["/attic"]}, False),
        ({"modality": ["IMAGE", "TEXT"], "type": ["*"]}, True),
    ],
)
def test_match_conditions(match: dict[str, Any], expected: bool) -> None:
    router = Router([route("picked", **match), route("rest")])
    request = event(part(content_type="Text/Plain; charset=utf-8"))
    for _ in range(2):  # the second time comes from the cache
        assert chosen(router, request) == ["picked" if expected else "rest"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ((("tenant", b"acme-eu"), ("tier", b"gold")), "picked"),
        ((("tenant", b"other"), ("tenant", b"acme"), ("tier", b"gold")), "picked"),
        ((("tenant", b"acme"), ("tier", b"gold"), ("tenant", b"other")), "rest"),
        ((("tenant", b"acme"),), "rest"),
        ((("tenant", b"acme"), ("tier", None)), "rest"),
        ((("tenant", b"acme"), ("tier", b"\xff\xfe")), "rest"),
        ((("Tenant", b"acme"), ("tier", b"gold")), "rest"),
    ],
)
def test_headers_must_all_match(headers: tuple[tuple[str, bytes | None], ...], expected: str) -> None:
    router = Router([route("picked", headers={"tenant": "acme*", "tier": "gold"}), route("rest")])
    assert chosen(router, event(), headers) == [expected]


def test_cache_tells_events_apart_by_all_that_routes_match_on() -> None:
    router = Router([route("a", type=["x"], source=["s"]), route("b", type=["x"]), route("c", source=["s"])])
    for _ in range(2):
        assert chosen(router, event(type_="x", source="s")) == ["a"]
        assert chosen(router, event(type_="x", source="t")) == ["b"]
        assert chosen(router, event(type_="y", source="s")) == ["c"]


def test_many_distinct_and_long_types_route_alike() -> None:
    router = Router([route("a", type=["t*"])])
    for number in range(5000):
        assert chosen(router, event(type_=f"t{number}")) == ["a"]
    assert chosen(router, event(type_="t" * 100_000)) == ["a"]


def test_messages_are_bounded() -> None:
    long = "m" * 100_000
    assert len(failure(Router([route("a")]), event(model=long)).message) < 1000


@pytest.mark.parametrize(
    ("own", "requested", "expected"),
    [
        (None, None, "results"),
        ("mine", None, "mine"),
        ("mine", "allowed", "allowed"),
        ("mine", "other", "mine"),
        (None, "", "results"),
    ],
)
def test_reply_topic_needs_to_be_allowed(own: str | None, requested: str | None, expected: str) -> None:
    settings = RouteSettings(name="a", model="m", reply_topic=own, reply_topics_allowed=("allowed",))
    assert reply_topic(settings, requested, "results") == expected


def test_media_type_drops_parameters() -> None:
    assert media_type(" Text/Plain ; charset=x") == "text/plain"


WORDS = st.sampled_from(["note", "memo", "/desk", "text/plain", "image/png", "m", "n", "*", "no?e", ""])
MATCHES = st.fixed_dictionaries(
    {},
    optional={
        "modality": st.lists(st.sampled_from([Modality.TEXT, Modality.IMAGE]), max_size=2),
        "content_type": st.lists(WORDS, max_size=2),
        "type": st.lists(WORDS, max_size=2),
        "source": st.lists(WORDS, max_size=2),
        "headers": st.dictionaries(st.sampled_from(["a", "b"]), WORDS, max_size=2),
        "explicit": st.booleans(),
    },
)
ROUTES = st.lists(st.tuples(st.sampled_from(["m", "n"]), MATCHES), min_size=1, max_size=5)
EVENTS = st.builds(
    InferenceRequest,
    id=st.just("1"),
    type=WORDS,
    source=WORDS,
    time_ms=st.just(0),
    parts=st.lists(
        st.builds(Part, WORDS, st.sampled_from([Modality.TEXT, Modality.IMAGE]), WORDS, st.just("x")), max_size=3
    ).map(tuple),
    model=st.none() | st.sampled_from(["m", "n", "other"]),
    model_version=st.none() | st.sampled_from(["1", "01", "x"]),
)
SOME_HEADERS = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.none() | WORDS.map(str.encode)), max_size=3).map(
    tuple
)


@given(ROUTES, EVENTS, SOME_HEADERS)
def test_explanation_never_disagrees_with_the_plan(
    routes: list[tuple[str, dict[str, Any]]], request: InferenceRequest, headers: Headers
) -> None:
    router = Router([route(f"r{number}", model, **match) for number, (model, match) in enumerate(routes)])
    explanation = router.explain(request, headers)
    takers = [verdicts[-1].route.name for verdicts in explanation.verdicts if verdicts[-1].failed is None]
    for verdicts in explanation.verdicts:
        assert all(verdict.failed is not None and verdict.reason for verdict in verdicts[:-1])
        assert verdicts[-1].failed is None or len(verdicts) == len(routes)
    plan, error = planned(router, request, headers)
    assert explanation.assignments == plan
    assert _words(explanation.error) == _words(error)
    if error is None:
        assert takers == [assignment.route.name for assignment in plan]
    elif error.code in ("NO_ROUTE", "UNKNOWN_MODEL"):
        assert len(takers) < len(request.parts)


def planned(
    router: Router, request: InferenceRequest, headers: Headers
) -> tuple[tuple[Assignment, ...], PoisonError | None]:
    try:
        return router.plan(request, headers), None
    except PoisonError as error:
        return (), error


def _words(error: PoisonError | None) -> tuple[str, str] | None:
    return None if error is None else (error.code, error.message)


@pytest.mark.parametrize(
    ("match", "model", "failed", "reason"),
    [
        ({"explicit": True}, None, Condition.EXPLICIT, "explicit: takes only events that name model m"),
        ({}, "other", Condition.MODEL, "model: the event names 'other', the route has m"),
        ({"modality": ["IMAGE", "AUDIO"]}, None, Condition.MODALITY, "modality: TEXT, wanted AUDIO or IMAGE"),
        ({"content_type": ["image/*"]}, None, Condition.CONTENT_TYPE, "content type: 'text/plain', wanted image/*"),
        ({"type": ["memo"]}, None, Condition.TYPE, "type: 'note', wanted memo"),
        ({"source": ["/attic"]}, None, Condition.SOURCE, "source: '/desk', wanted /attic"),
        ({"headers": {"tier": "gold"}}, None, Condition.HEADERS, "header tier: 'iron', wanted gold"),
        ({"headers": {"tenant": "x"}}, None, Condition.HEADERS, "header tenant: there is none, wanted x"),
    ],
)
def test_explanation_says_what_failed(match: dict[str, Any], model: str | None, failed: Condition, reason: str) -> None:
    router = Router([route("picky", **match)])
    ((verdict,),) = router.explain(event(model=model), (("tier", b"gold"), ("tier", b"iron"))).verdicts
    assert (verdict.failed, verdict.reason) == (failed, reason)
