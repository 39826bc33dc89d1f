"""What a run is to do: its limit, its pins and its settings."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.pipeline.config import Settings
from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.errors import ConfigError, UnavailableError
from headrace.pipeline.records import Provenance, SourceRecord
from headrace.pipeline.replay.manifest import Pin
from headrace.pipeline.replay.planning import git_revision, limited, pinned
from headrace.pipeline.replay.ranges import PartitionRange
from headrace.pipeline.replay.settings import (
    RECORD_BYTES,
    CallLimits,
    identity,
    progress_topic_spec,
    replay_settings,
    run_topic_specs,
    run_topics,
    runs_topic_spec,
    settings_sha256,
)
from headrace.pipeline.routing import reply_topic
from headrace.pipeline.setup import reply_topics, topic_specs
from tests.unit.fakes import TEXT, FakeInference, on_virtual_time
from tests.unit.replay_bench import PLAN

# --- the limit ------------------------------------------------------------------------------------------------------

TAKEN = b"taken"
Times = list[list[tuple[int, bool]]]
"""Of each partition the records' times, and whether they are chosen."""


def ranges_of(times: Times) -> tuple[PartitionRange, ...]:
    """From offset 10 on, every other offset without a record, the last three, too."""
    return tuple(PartitionRange(number, 10, 13 + 2 * len(each)) for number, each in enumerate(times))


def records_of(times: Times) -> list[SourceRecord]:
    return [
        SourceRecord(Provenance("requests", number, 10 + 2 * place, time_ms), TAKEN if taken else None, b"", ())
        for number, each in enumerate(times)
        for place, (time_ms, taken) in enumerate(each)
    ]


def limit(times: Times, most: int) -> tuple[PartitionRange, ...]:
    return limited(ranges_of(times), most, iter(records_of(times)), lambda record: record.key == TAKEN)


def all_taken(*times: list[int]) -> Times:
    return [[(time_ms, True) for time_ms in each] for each in times]


@pytest.mark.parametrize(
    ("times", "most", "records"),
    [
        (all_taken([1, 4, 5], [2, 3, 6]), 3, [1, 2]),
        (all_taken([1, 4, 5], [2, 3, 6]), 1, [1, 0]),
        (all_taken([1, 4, 5], [2, 3, 6]), 6, [3, 3]),
        (all_taken([7, 7, 7], [7, 7]), 4, [3, 1]),
        (all_taken([9, 1, 1], [5, 6]), 2, [0, 2]),
        (all_taken([9, 1, 1], [5, 6]), 4, [2, 2]),
        (all_taken([-1, -1], [3]), 1, [1, 0]),
        ([[(1, False), (2, True), (3, False), (4, True)], [(3, True)]], 2, [2, 1]),
    ],
)
def test_limit_cuts_behind_the_first_records_by_time(times: Times, most: int, records: list[int]) -> None:
    """A record after one with a later time counts as that late: a partition is read from its beginning."""
    found = limit(times, most)
    assert [each.end for each in found] == [10 + 2 * count - 1 if count else 10 for count in records]


@settings(deadline=None)  # a busy machine
@given(st.lists(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=8), min_size=1, max_size=4), st.data())
def test_limit_holds_exactly_the_first_by_time(times: Times, data: st.DataObject) -> None:
    chosen = [record for record in records_of(times) if record.key == TAKEN]
    most = data.draw(st.integers(1, len(chosen) + 2))
    found = limit(times, most)
    whole = ranges_of(times)
    assert [(each.partition, each.start) for each in found] == [(each.partition, each.start) for each in whole]
    if most > len(chosen):
        assert found == whole
        return
    ends = {each.partition: each.end for each in found}
    latest: dict[int, int] = {}
    inside: list[int] = []
    outside: list[int] = []
    for record in chosen:
        at = record.provenance
        latest[at.partition] = max(at.timestamp_ms, latest.get(at.partition, at.timestamp_ms))
        (inside if at.offset < ends[at.partition] else outside).append(latest[at.partition])
    assert len(inside) == most
    assert not outside or max(inside) <= min(outside)
    behind_a_chosen_one = {(record.provenance.partition, record.provenance.offset + 1) for record in chosen}
    assert {(each.partition, each.end) for each in found if each.offsets} <= behind_a_chosen_one


# --- pins -----------------------------------------------------------------------------------------------------------

ROUTES = (
    RouteSettings(name="text", model="echo"),
    RouteSettings(name="old", model="echo", version="2"),
    RouteSettings(name="gone", model="gone"),
)


@on_virtual_time
async def test_pins_fix_versions_to_what_is_served_now() -> None:
    pins = await pinned(ROUTES, {}, FakeInference())
    assert pins == (Pin("text", "echo", "3"), Pin("old", "echo", "2"), Pin("gone", "gone", ""))


@on_virtual_time
async def test_forced_pins_take_the_place_of_the_routes_own() -> None:
    inference = FakeInference(TEXT, replace(TEXT, name="better", version="8"))
    forced = {"text": ("better", ""), "old": ("echo", "5"), "gone": ("better", "7")}
    assert await pinned(ROUTES, forced, inference) == (
        Pin("text", "better", "8", forced=True),
        Pin("old", "echo", "5", forced=True),
        Pin("gone", "better", "7", forced=True),
    )


@pytest.mark.parametrize(("version", "named"), [("", "better"), ("4", "better:4")])
def test_forced_model_that_is_not_served_is_refused(version: str, named: str) -> None:
    @on_virtual_time
    async def run() -> None:
        with pytest.raises(ConfigError, match=f"^--model {named}: no model better: load it$"):
            await pinned(ROUTES, {"text": ("better", version)}, FakeInference())

    run()


@on_virtual_time
async def test_pins_are_not_guessed_while_the_model_server_is_away() -> None:
    inference = FakeInference()
    inference.up = False
    with pytest.raises(UnavailableError):
        await pinned(ROUTES, {}, inference)


# --- git ------------------------------------------------------------------------------------------------------------


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=mill", "-c", "user.email=mill@localhost", "-c", "commit.gpgsign=false")
    run = subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True, text=True)
    return run.stdout.strip()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Under no git, whatever lies above it."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


def test_git_revision_is_the_commit_and_whether_files_differ_from_it(folder: Path) -> None:
    git(folder, "init", "--quiet")
    (folder / "pipeline.yaml").write_text("name: mill\n", encoding="utf-8")
    (folder / "sub").mkdir()
    git(folder, "add", "pipeline.yaml")
    assert git_revision(folder) is None  # no commit yet
    git(folder, "commit", "--quiet", "--message", "one")
    commit = git(folder, "rev-parse", "HEAD")
    (folder / "untracked").write_text("", encoding="utf-8")
    assert git_revision(folder) == git_revision(folder / "sub") == commit
    (folder / "pipeline.yaml").write_text("name: other\n", encoding="utf-8")
    assert git_revision(folder) == git_revision(folder / "sub") == f"{commit}+"


def test_folder_without_git_has_no_revision(folder: Path) -> None:
    assert git_revision(folder) is None


def test_machine_without_git_has_no_revision(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(folder, "init", "--quiet")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "one")
    assert git_revision(folder) is not None
    monkeypatch.setenv("PATH", str(folder))
    assert git_revision(folder) is None


# --- settings -------------------------------------------------------------------------------------------------------

LIVE = Settings.model_validate(
    {
        "name": "mill",
        "topics": {
            "requests": ["requests", "more"],
            "results": "results",
            "dead_letters": "dead",
            "runs": "runs",
            "replication_factor": 3,
        },
        "routes": [
            {
                "name": "photos",
                "model": "image_jpeg",
                "version": "4",
                "match": {"modality": ["IMAGE"], "headers": {"tenant": "acme*"}},
                "deadline_seconds": 5,
                "max_concurrency": 2,
                "batch": {"max_records": 4},
                "reply_topic": "photos",
                "also_to": [{"topic": "next", "write": "request"}],
            },
            {
                "name": "rest",
                "model": "echo",
                "reply_topics_allowed": ["replies"],
                "batch": {"max_records": 32},
                "retries": {"max_attempts": 9},
                "idempotency": {},
            },
        ],
        "worker": {"slot": 3, "max_in_flight_records": 77},
    }
)
LEFT_OUT = {"reply_topic", "reply_topics_allowed", "deadline_seconds", "idempotency"}


def test_run_has_topics_and_an_identity_of_its_own() -> None:
    assert run_topics(LIVE, "try-1") == (PLAN.results_topic, PLAN.dead_letters_topic, PLAN.progress_topic)
    assert identity(LIVE, "try-1") == "runs.try-1"


def test_run_is_the_same_whatever_the_settings_are_called() -> None:
    """Two processes at one run must fence each other."""
    other = LIVE.model_copy(update={"name": "other"})
    assert identity(other, "try-1") == identity(LIVE, "try-1")
    assert run_topics(other, "try-1") == run_topics(LIVE, "try-1")


def test_replay_writes_to_its_own_topics_only() -> None:
    replayed = replay_settings(LIVE, PLAN)
    assert (reply_topics(replayed), replayed.topics.dead_letters) == ((PLAN.results_topic,), PLAN.dead_letters_topic)
    for route in replayed.routes:
        for asked in (None, "replies", "photos", "results"):
            assert reply_topic(route, asked, replayed.topics.results) == PLAN.results_topic


def test_replay_consumes_nothing_but_the_topic_of_its_plan() -> None:
    replayed = replay_settings(LIVE, replace(PLAN, topic="archive"))
    assert replayed.topics.requests == ("archive",)


def test_replay_routes_and_infers_as_live() -> None:
    replayed = replay_settings(LIVE, PLAN)
    assert [route.model_dump(exclude=LEFT_OUT) for route in replayed.routes] == [
        route.model_dump(exclude=LEFT_OUT) for route in LIVE.routes
    ]
    assert [route.deadline_seconds for route in replayed.routes] == [None, None]
    assert LIVE.idempotent_topics
    assert replayed.idempotent_topics == {}
    assert replayed.model_dump(exclude={"name", "topics", "routes", "worker"}) == LIVE.model_dump(
        exclude={"name", "topics", "routes", "worker"}
    )
    assert replayed.worker.max_in_flight_records == 77


def test_replay_infers_as_much_at_once_as_it_is_told() -> None:
    routes = replay_settings(LIVE, PLAN, CallLimits(max_concurrency=9, max_batch=20)).routes
    assert [route.max_concurrency for route in routes] == [9, 9]
    assert [route.batch.max_records for route in routes] == [4, 20]


def test_replay_settings_are_settings_that_a_file_could_have() -> None:
    replayed = replay_settings(LIVE, PLAN)
    assert Settings.model_validate(replayed.model_dump(mode="json")) == replayed


def test_run_topics_keep_what_is_written_and_take_what_lives_take() -> None:
    results, dead_letters = run_topic_specs(LIVE, PLAN)
    live = {spec.name: spec for spec in topic_specs(LIVE)}
    assert (results.name, dead_letters.name) == (PLAN.results_topic, PLAN.dead_letters_topic)
    assert results.config == {**live["results"].config, "retention.ms": "-1"}
    assert dead_letters.config == {**live["dead"].config, "retention.ms": "-1"}
    assert {(spec.partitions, spec.replication_factor) for spec in (results, dead_letters)} == {(12, 3)}


def test_runs_topic_is_compacted_and_has_one_partition() -> None:
    spec = runs_topic_spec(LIVE)
    assert (spec.name, spec.partitions, spec.replication_factor) == ("runs", 1, 3)
    assert spec.config["cleanup.policy"] == "compact"


def test_progress_topic_has_one_partition_and_never_loses_the_newest() -> None:
    """Retention takes whole segments, and never the one that is written to."""
    spec = progress_topic_spec(LIVE, "try-1")
    assert (spec.name, spec.partitions, spec.replication_factor) == (PLAN.progress_topic, 1, 3)
    assert (spec.config["cleanup.policy"], spec.config["retention.ms"]) == ("delete", "-1")
    assert int(spec.config["retention.bytes"]) >= int(spec.config["max.message.bytes"]) == RECORD_BYTES


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"worker": {"slot": 9}}, True),
        ({"triton": {"url": "elsewhere:8001"}}, True),
        ({"topics": {"requests": ["other"]}}, True),
        ({"name": "other"}, True),
        ({"routes": [LIVE.model_dump(mode="json")["routes"][0]]}, False),
        ({"routes": [*LIVE.model_dump(mode="json")["routes"][::-1]]}, False),
        ({"user_code": {"modules": ["mine"]}}, False),
    ],
)
def test_digest_changes_with_routes_and_user_code_only(change: dict[str, Any], same: bool) -> None:
    changed = Settings.model_validate({**LIVE.model_dump(mode="json"), **change})
    digest = settings_sha256(LIVE)
    assert len(digest) == 64
    assert (settings_sha256(changed) == digest) is same
