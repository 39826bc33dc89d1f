from __future__ import annotations

import pytest

from headrace.pipeline.config import Settings, TopicSettings
from headrace.pipeline.config_idempotency import IdempotencySettings
from headrace.pipeline.config_retries import RetrySettings
from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.overviews import GroupProgress, TopicState
from headrace.pipeline.records import TopicSpec
from headrace.pipeline.topic_check import TopicReport, report, retention_problem

SETTINGS = Settings(
    topics=TopicSettings(
        requests=("in",),
        results="out",
        dead_letters="dead",
        partitions=4,
        replication_factor=2,
        max_message_bytes=100_000,
    ),
    routes=(
        RouteSettings(name="a", model="m", reply_topic="mine", reply_topics_allowed=("out", "theirs")),
        RouteSettings(name="b", model="m", reply_topic="mine", retries=RetrySettings(delays=("5s",))),
    ),
)
WEEK_MS = 604_800_000
GOOD = TopicState(4, 2, 5_000_000, {0: 5, 1: 0}, {0: 9, 1: 3})


def reports(**states: TopicState | None) -> dict[str, TopicReport]:
    found = report(SETTINGS, states, {"in": GroupProgress({0: 7}, lag=5), "out": GroupProgress({}, 0)})
    return {each.spec.name: each for each in found}


def test_every_topic_has_its_roles() -> None:
    assert {name: each.roles for name, each in reports().items()} == {
        "in": ("requests",),
        "out": ("results", "replies of a"),
        "mine": ("replies of a", "replies of b"),
        "theirs": ("replies of a",),
        "dead": ("dead letters",),
        "headrace.redriven": ("redriven",),
        "headrace.retry.5s": ("put off",),
    }


def test_progress_is_that_of_request_topics_only() -> None:
    found = reports()
    assert found["in"].progress == GroupProgress({0: 7}, lag=5)
    assert found["out"].progress is None


def test_topic_as_it_should_be_has_no_problems() -> None:
    assert reports(out=GOOD)["out"].problems == ()
    assert GOOD.offsets_retained == 7


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (None, "out does not exist: `headrace topics create` makes it"),
        (TopicState(3, 2, 5_000_000, {}, {}), "out has 3 partitions, fewer than the 4 set"),
        (TopicState(4, 1, 5_000_000, {}, {}), "out has 1 replicas, fewer than the 2 set"),
        (TopicState(4, 2, 99_999, {}, {}), "out takes records of 99,999 bytes, fewer than the 100,000 needed"),
    ],
)
def test_problem_says_what_is_wrong(state: TopicState | None, expected: str) -> None:
    (problem,) = reports(out=state)["out"].problems
    assert problem.startswith(expected)


def test_changelog_is_as_wide_as_its_request_topic() -> None:
    route = RouteSettings(name="a", model="m", idempotency=IdempotencySettings())
    settings = SETTINGS.model_copy(update={"routes": (route,)})

    def changelog(partitions: int) -> TopicReport:
        widths = {"in": 6, "headrace.seen.in": partitions}
        states = {name: TopicState(width, 2, 5_000_000, {}, {}, "compact") for name, width in widths.items()}
        (found,) = (each for each in report(settings, states, {}) if each.spec.as_wide_as)
        return found

    assert changelog(6).roles == ("ids",)
    assert changelog(6).problems == changelog(7).problems == ()
    (problem,) = changelog(4).problems
    assert problem.startswith("headrace.seen.in has 4 partitions, but in, whose ids it keeps, has 6")


@pytest.mark.parametrize(
    ("policy", "retention_ms", "expected"),
    [
        ("compact", 1, None),
        ("compact,delete", 600_000, None),
        ("delete, compact", -1, None),
        ("compact,delete", 599_999, "keeps ids for 599999 ms, less than the longest window of idempotency (600000 ms)"),
        ("delete", -1, "is not compacted (cleanup.policy is delete)"),
    ],
)
def test_changelog_keeps_ids_for_the_longest_window(policy: str, retention_ms: int, expected: str | None) -> None:
    routes = (
        RouteSettings(name="a", model="m", idempotency=IdempotencySettings()),
        RouteSettings(name="b", model="m", idempotency=IdempotencySettings(window_seconds=60)),
    )
    settings = SETTINGS.model_copy(update={"routes": routes})
    states = {"in": GOOD, "headrace.seen.in": TopicState(4, 2, 5_000_000, {}, {}, policy, retention_ms)}
    (found,) = (each for each in report(settings, states, {}) if each.spec.as_wide_as)
    assert len(found.problems) == (expected is not None)
    assert all(f"headrace.seen.in {expected}" in problem for problem in found.problems)


@pytest.mark.parametrize(
    ("policy", "retention_ms", "expected"),
    [
        ("delete", -1, None),
        ("delete", WEEK_MS, None),
        ("delete", WEEK_MS - 1, f"keeps records for {WEEK_MS - 1} ms, less than the {WEEK_MS} ms"),
        ("compact", -1, "is compacted (cleanup.policy is compact)"),
        ("compact, delete", -1, "is compacted (cleanup.policy is compact, delete)"),
    ],
)
@pytest.mark.parametrize("topic", ["headrace.redriven", "headrace.retry.5s"])
def test_delay_topic_keeps_what_waits_in_it(topic: str, policy: str, retention_ms: int, expected: str | None) -> None:
    problems = reports(**{topic: TopicState(4, 2, 5_000_000, {}, {}, policy, retention_ms)})[topic].problems
    assert len(problems) == (expected is not None)
    assert all(problem.startswith(f"{topic} {expected}") for problem in problems)


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        ("compact", None),
        ("delete", "marks has cleanup.policy=delete: it must be compact, or"),
        ("compact,delete", "marks has cleanup.policy=compact,delete: it must be compact, or"),
    ],
)
def test_what_is_kept_for_ever_is_not_deleted_by_age(policy: str, problem: str | None) -> None:
    found = retention_problem(TopicSpec("marks", 1, config={"cleanup.policy": "compact"}), policy, 1)
    assert (found or "").startswith(problem) if problem else found is None


def test_topic_of_requests_keeps_what_its_owner_wants() -> None:
    assert reports(**{"in": TopicState(4, 2, 5_000_000, {}, {}, "compact", 1)})["in"].problems == ()


def test_dead_letter_topic_needs_room_for_the_largest_record() -> None:
    assert reports(dead=TopicState(4, 2, 1_000_000, {}, {}))["dead"].problems
    assert not reports(dead=TopicState(4, 2, 1_200_000, {}, {}))["dead"].problems


def test_more_than_was_asked_for_is_no_problem() -> None:
    assert reports(out=TopicState(40, 3, 5_000_000, {}, {}))["out"].problems == ()
