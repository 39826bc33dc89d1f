"""``headrace topics``, ``models`` and ``routes`` as a user runs them: no worker is needed, for ``routes`` no server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupState
from confluent_kafka.admin import AdminClient

from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.admin import ensure_topics
from headrace.connectors.kafka.topic_states import TopicStates
from headrace.connectors.triton import TritonInferenceClient
from headrace.pipeline.demo import assets
from headrace.pipeline.errors import PoisonError, UnavailableError
from headrace.pipeline.exit_codes import ExitCode
from headrace.pipeline.overviews import Scheduling
from headrace.pipeline.records import TopicSpec
from tests.integration.ends_pipeline import Pipeline, make_pipeline, running_pipeline

CLOSED = {
    "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "HEADRACE_REGISTRY__URL": "http://127.0.0.1:1",
    "HEADRACE_TRITON__URL": "127.0.0.1:1",
}


@pytest.fixture
def headrace(stack: Endpoints, tmp_path: Path) -> Pipeline:
    """Its topics are not there yet."""
    return make_pipeline(stack, tmp_path)


@pytest.fixture(scope="module")
def served(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """With a worker, which has answered one event."""
    with running_pipeline(stack, tmp_path_factory.mktemp("served")) as pipeline:
        yield pipeline


def offline(headrace: Pipeline) -> Pipeline:
    return Pipeline(headrace.config, headrace.prefix, {**headrace.environment, **CLOSED})


def topics_of(headrace: Pipeline) -> dict[str, dict[str, Any]]:
    found = json.loads(headrace("topics", "--json").stdout)
    assert found["group"] == headrace.prefix
    return {each["topic"].removeprefix(f"{headrace.prefix}."): each for each in found["topics"]}


# --- topics ---------------------------------------------------------------------------------------------------------


def test_missing_topics_are_told_made_and_then_right(headrace: Pipeline) -> None:
    before = headrace("topics")
    assert before.returncode == ExitCode.FAILED
    assert before.stdout.count("missing") == 4
    assert "headrace topics create" in before.stderr
    made = headrace("topics", "create")
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("created ") == 4
    again = headrace("topics", "create")
    assert (again.returncode, again.stdout) == (0, "no topic was missing\n")
    after = headrace("topics")
    assert after.returncode == 0, after.stderr
    assert "2,000,000" in after.stdout


def test_lag_is_counted_without_joining_the_group(headrace: Pipeline, stack: Endpoints) -> None:
    assert headrace("topics", "create").returncode == 0
    assert headrace("send", "one", "two", "three", "--key", "same").returncode == 0
    requests = topics_of(headrace)["requests"]
    assert (requests["roles"], requests["lag"], requests["offsets_retained"]) == (["requests"], 3, 3)
    assert {each["committed"] for each in requests["offsets"]} == {None}
    admin = AdminClient({"bootstrap.servers": stack.bootstrap_servers})
    groups = admin.list_consumer_groups(request_timeout=15).result().valid
    assert headrace.prefix not in [group.group_id for group in groups]


def test_committed_offsets_are_those_of_the_worker(stack: Endpoints, served: Pipeline) -> None:
    before = topics_of(served)["requests"]
    served("send", "a", "b", "c", "--wait")
    after = topics_of(served)["requests"]
    admin = AdminClient({"bootstrap.servers": stack.bootstrap_servers})
    group = admin.describe_consumer_groups([served.prefix], request_timeout=15)[served.prefix].result()
    assert (group.state, len(group.members)) == (ConsumerGroupState.STABLE, 1)
    assert (before["lag"], after["lag"]) == (0, 0)
    done = [sum(each["committed"] or 0 for each in requests["offsets"]) for requests in (before, after)]
    assert done[1] - done[0] == 3


def test_topics_that_are_not_as_wanted_are_told_and_left_alone(headrace: Pipeline, stack: Endpoints) -> None:
    small = TopicSpec(f"{headrace.prefix}.results", 1, config={"max.message.bytes": "1000"})
    ensure_topics(stack.bootstrap_servers, [small])
    made = headrace("topics", "create")
    assert made.returncode == ExitCode.FAILED
    assert made.stdout.count("created ") == 3
    assert f"{small.name} has 1 partitions, fewer than the 4 set" in made.stderr
    assert f"{small.name} takes records of 1,000 bytes, fewer than the 2,000,000 needed" in made.stderr
    found = topics_of(headrace)["results"]
    assert (found["partitions"], found["max_message_bytes"], len(found["problems"])) == (1, 1000, 2)


def test_topics_says_in_one_line_that_kafka_is_down(headrace: Pipeline) -> None:
    done = offline(headrace)("topics")
    assert done.returncode == ExitCode.FAILED
    assert done.stderr.count("\n") == 1
    assert "127.0.0.1:1" in done.stderr


def test_states_of_no_topics_are_none(stack: Endpoints) -> None:
    topics = TopicStates(stack.bootstrap_servers, {})
    assert topics.states(["there-is-no-such-topic"]) == {"there-is-no-such-topic": None}
    assert topics.progress("no-such-group", {"there-is-no-such-topic": None}) == {}


# --- models ---------------------------------------------------------------------------------------------------------


ROUTES = "routes: [{name: words, model: text_embedding}, {name: photos, model: image_jpeg, version: '1'}]"


def test_models_are_listed_with_what_uses_them(stack: Endpoints, tmp_path: Path) -> None:
    done = make_pipeline(stack, tmp_path, ROUTES)("models")
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert rows["text_embedding"].split()[1:9] == ["1", "ready", "text", "or", "file", "64", "dynamic", "words"]
    assert "UINT8[224,224,3]" in rows["image_classification"]
    assert "ready" in rows["identity"]


def test_models_as_json_say_everything(headrace: Pipeline) -> None:
    found = {each["name"]: each for each in json.loads(headrace("models", "--json").stdout)["models"]}
    model = found["image_jpeg"]
    assert (model["ready"], model["usable"], model["scheduling"]) == (True, True, "dynamic")
    assert model["inputs"] == [{"name": "ENCODED", "datatype": "BYTES", "shape": [1]}]
    assert {each["name"] for each in model["outputs"]} == {"LABELS", "SCORES", "ERROR"}
    assert model["max_batch_size"] > 1
    assert "image" in model["routes"]


def test_model_is_shown_with_its_counts(served: Pipeline) -> None:
    before = json.loads(served("models", "show", "text_embedding", "--json").stdout)[0]["counts"]
    served("send", "one", "two", "three", "--wait")
    after = json.loads(served("models", "show", "text_embedding", "--json").stdout)[0]["counts"]
    shown = served("models", "show", "text_embedding")
    assert after["inferences"] == before["inferences"] + 3
    assert before["executions"] < after["executions"] <= before["executions"] + 3
    assert after["mean_batch"] == pytest.approx(after["inferences"] / after["executions"])
    facts = dict(line.split(maxsplit=1) for line in shown.stdout.splitlines())
    assert (facts["usable"], facts["state"]) == ("yes", "ready")
    assert facts["inferred"].startswith(f"{after['inferences']:,} rows in {after['executions']:,} calls")


def test_route_without_its_model_is_told(stack: Endpoints, tmp_path: Path) -> None:
    routes = (
        "routes: [{name: lost, model: nowhere}, {name: old, model: identity, version: '7'}, {name: ok, model: delay}, "
        "{name: asked, model: nowhere, match: {explicit: true}}, {name: tried, model: delay, shadow: {version: '9'}}]"
    )
    done = make_pipeline(stack, tmp_path, routes)("models")
    assert done.returncode == ExitCode.FAILED
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["route lost", "route old"]
    assert "route asked: nowhere: the server has no such model" in done.stdout
    assert "route tried/shadow: delay version 9: the server has no such model" in done.stdout


def test_unknown_model_is_refused(headrace: Pipeline) -> None:
    done = headrace("models", "show", "nowhere")
    assert done.returncode == ExitCode.FAILED
    assert "has no model nowhere" in done.stderr


def test_models_says_in_one_line_that_triton_is_down(headrace: Pipeline) -> None:
    done = offline(headrace)("models")
    assert done.returncode == ExitCode.FAILED
    assert done.stderr.count("\n") == 1
    assert "127.0.0.1:1" in done.stderr


async def test_catalog_says_what_the_server_has(stack: Endpoints) -> None:
    client = TritonInferenceClient(stack.triton_grpc)
    try:
        index = {each.name: each for each in await client.index()}
        config = await client.model_config("image_jpeg")
        counts = await client.counts()
        with pytest.raises(PoisonError, match="nowhere"):
            await client.model_config("nowhere")
    finally:
        await client.close()
    assert (index["image_jpeg"].version, index["image_jpeg"].ready) == ("1", True)
    assert (config.platform, config.scheduling, config.decoupled) == ("python", Scheduling.DYNAMIC, False)
    assert config.instances
    assert ("image_jpeg", "1") in counts


async def test_catalog_of_a_server_that_is_down_is_unavailable() -> None:
    client = TritonInferenceClient("127.0.0.1:1")
    try:
        for ask in (client.index, client.counts):
            with pytest.raises(UnavailableError):
                await ask()
    finally:
        await client.close()


# --- routes ---------------------------------------------------------------------------------------------------------


def test_routes_are_listed_in_order_offline(headrace: Pipeline) -> None:
    done = offline(headrace)("routes")
    assert done.returncode == 0, done.stderr
    names = [line.split()[1] for line in done.stdout.splitlines()[1:]]
    assert names[:3] == ["text", "image", "audio"]
    as_json = offline(headrace)("routes", "--json")
    assert [json.loads(line)["name"] for line in as_json.stdout.splitlines()] == names


def test_routes_are_tried_offline(headrace: Pipeline, tmp_path: Path) -> None:
    photo = tmp_path / "coffee.jpg"
    photo.write_bytes(next(each.data for each in assets.load().photos if each.name == "coffee.jpg"))
    done = offline(headrace)("routes", "try", "words", str(photo), "--together")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "part text: TEXT text/plain",
        "  takes text: modality TEXT; model text_embedding",
        "part image: IMAGE image/jpeg",
        "  not text: modality: IMAGE, wanted TEXT",
        "  takes image: modality IMAGE; model image_jpeg",
    ]


def test_event_without_a_route_ends_as_its_sending_would(headrace: Pipeline) -> None:
    lines = '{"text": "hello"}\n{"text": "hello", "model": "nobody"}\n'
    done = offline(headrace)("routes", "try", "-", "--json", stdin=lines)
    assert done.returncode == ExitCode.DEAD_LETTER
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["parts"][0]["route"], first["dead_letter"]) == ("text", None)
    assert (second["parts"][0]["route"], second["dead_letter"]["code"]) == (None, "UNKNOWN_MODEL")


def test_bad_line_is_refused_when_tried(headrace: Pipeline) -> None:
    done = offline(headrace)("routes", "try", "-", stdin="oops\n")
    assert done.returncode == ExitCode.WRONG_INPUT
    assert "line 1: not JSON" in done.stderr
