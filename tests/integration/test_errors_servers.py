"""What Triton, the registry and Kafka answer, provoked on real ones, becomes what docs/errors.md says."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.connectors.embedded.paths import cache_dir
from headrace.connectors.embedded.ports import PortReservation
from headrace.connectors.embedded.progress import Progress
from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.embedded.triton import TritonServer
from headrace.connectors.embedded.triton_env import ensure_interpreter, models_folder
from headrace.connectors.kafka.admin import ensure_topics
from headrace.connectors.triton import TritonInferenceClient
from headrace.pipeline.errors import HeadraceError
from headrace.pipeline.ports import InferCall
from headrace.pipeline.records import TopicSpec
from tests.docs.error_table import SECTIONS, told_of_call
from tests.integration.avro_ends import Datum, event, numbers
from tests.integration.error_checks import ends, named, reason, tells
from tests.integration.harness import Scene

# --- what passes ----------------------------------------------------------------------------------------------------

FAILURES = {
    "UNAVAILABLE": "UNAVAILABLE",
    "CANCELLED": "CANCELLED",
    "INTERNAL": "INTERNAL",
    "UNKNOWN": "UNKNOWN",
    "ALREADY_EXISTS": "ALREADY_EXISTS",
    "INVALID_ARGUMENT": "INVALID_ARG",
    "NOT_FOUND": "NOT_FOUND",
    "UNIMPLEMENTED": "UNSUPPORTED",
}
"""gRPC's status → what a model says, in the words of Triton's Python backend."""


def test_answers_of_triton_are_tried_again_as_their_rows_say(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    """What is retriable is answered when the error has passed, or spends all its delays; what is poison has one try."""
    by_status = {row.lead[0]: row for row in SECTIONS["Triton"] if len(row.lead) == 1}
    passes = [status for status in FAILURES if by_status[status].kind == "retriable"]
    retries = {"max_attempts": 1, "max_backoff_seconds": 0.1, "delays": ["1s", "2s"], "jitter": 0}
    route = {"name": "delay", "model": "delay", "match": {"explicit": True}, "retries": retries}
    with Scene(stack, names("scene"), tmp_path, routes=[route]) as scene:
        worker = scene.worker()

        def failing(status: str, **more: Any) -> Datum:
            return event(numbers(1), model="delay", parameters={"fail": FAILURES[status], **more})

        lasting = scene.send_events(failing(status) for status in FAILURES)
        until = int((time.time() + 1.5) * 1000)
        passing = scene.send_events(failing(status, fail_until_ms=until) for status in passes)
        answers = scene.settle([*passing, *lasting])
        assert [status for status, each in zip(passes, passing, strict=True) if answers[each.position].dead] == []
        for status, each in zip(FAILURES, lasting, strict=True):
            row, letter = by_status[status], answers[each.position]
            assert (status, reason(letter)) == (status, row.letter)
            assert (status, letter.content["attempts"]) == (status, 3 if "later" in row.tried else 1)
        for delay in ("1s", "2s"):
            put_off = worker.metric(f'headrace_retries_total{{route="delay",topic="{scene.group}.retry.{delay}"}}')
            assert len(passes) <= put_off <= 2 * len(passes)
        tells(worker, [answers[each.position] for each in lasting])


@pytest.fixture
def busy_triton(tmp_path: Path) -> Iterator[TritonServer]:
    """With the model delay twice: one lets a single request wait, the other lets them wait for a tenth of a second."""
    interpreter = ensure_interpreter(cache_dir(), Progress())
    full, small = tmp_path / "full", tmp_path / "models"
    setup = [str(interpreter.python), str(models_folder() / "setup_models.py"), "--repository", str(full)]
    subprocess.run(setup, check=True, stdout=subprocess.DEVNULL)
    policies = {
        "full": "max_queue_size: 1",
        "late": "timeout_action: REJECT default_timeout_microseconds: 100000",
    }
    for name, policy in policies.items():
        shutil.copytree(full / "delay", small / name)
        config = (full / "delay" / "config.pbtxt").read_text()
        for before, after in (("max_batch_size: 64", "max_batch_size: 1"), ('name: "delay"', f'name: "{name}"')):
            assert before in config
            config = config.replace(before, after)
        config += f"\ndynamic_batching {{ default_queue_policy {{ {policy} }} }}\n"
        (small / name / "config.pbtxt").write_text(config)
    with PortReservation() as ports:
        server = TritonServer(
            tmp_path / "triton",
            interpreter,
            small,
            http_port=ports.take(),
            grpc_port=ports.take(),
            metrics_port=ports.take(),
        )
        try:
            server.start()
            yield server
        finally:
            server.kill()


async def test_triton_that_has_too_much_to_do_says_what_its_rows_say(busy_triton: TritonServer) -> None:
    client = TritonInferenceClient(busy_triton.grpc)

    async def outcome(model: str) -> object:
        call = InferCall(model, "", {"INPUT0": np.zeros((1, 4), np.float32)}, {"delay_ms": 700})
        try:
            return await client.infer(call, 30)
        except HeadraceError as error:
            return error

    for model, wording in (("full", "Exceeds maximum queue size"), ("late", "Request timeout expired")):
        (row,) = (row for row in SECTIONS["Triton"] if row.lead == ("UNAVAILABLE", wording))
        outcomes = await asyncio.gather(*(outcome(model) for _ in range(16)))
        refused = [each for each in outcomes if isinstance(each, HeadraceError)]
        assert 0 < len(refused) < len(outcomes)
        for error in refused:
            assert wording in str(error)
            told_of_call(row, error)
    (row,) = (row for row in SECTIONS["Triton"] if row.lead == ("NOT_FOUND", "Request for unknown model"))
    unknown = await outcome("nobody")
    assert isinstance(unknown, HeadraceError)
    told_of_call(row, unknown)
    await client.close()


# --- exit codes -----------------------------------------------------------------------------------------------------


LARGE_RECORDS = {"max.message.bytes": str(8 * 1024 * 1024)}
"""As the settings want it of a topic."""


def test_what_is_no_registry_or_is_incompatible_ends_the_worker(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    root = stack.registry_url.split("/apis/")[0]
    with Scene(stack, names("scene"), tmp_path) as scene:
        worker = scene.worker(wait=False, environment={"HEADRACE_REGISTRY__URL": root})
        assert "check registry.url" in ends(worker, named("The schema registry", "no registry"))
        foreign = '{"type": "record", "name": "Other", "fields": [{"name": "a", "type": "int"}]}'
        scene.registry.register_request_schema(scene.results, foreign)
        last = ends(scene.worker(slot=1, wait=False), named("The schema registry", "incompatible"))
        assert "refuses the schema" in last


def test_topic_that_is_not_as_set_and_slot_that_is_taken_end_the_worker(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    with Scene(stack, names("scene"), tmp_path) as scene:
        ensure_topics(stack.bootstrap_servers, [TopicSpec(scene.requests, 2, config=LARGE_RECORDS)])
        last = ends(scene.worker(wait=False), named("Kafka: all other calls", "not as set"))
        assert "fewer than the 4 set" in last
        two = {"HEADRACE_TOPICS__PARTITIONS": "2"}
        scene.worker(slot=1, environment=two)
        last = ends(scene.worker(slot=1, wait=False, environment=two), named("The process", "SlotTakenError"))
        assert "worker slot 1 is held" in last


def test_results_that_their_topic_refuses_for_ever_end_the_worker_and_nothing_is_lost(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    """A compacted topic takes no record without a key."""
    row = named("Kafka: transactions", "abort")
    with Scene(stack, names("scene"), tmp_path) as scene:
        compacted = {"cleanup.policy": "compact", **LARGE_RECORDS}
        ensure_topics(stack.bootstrap_servers, [TopicSpec(scene.results, 4, config=compacted)])
        worker = scene.worker()
        scene.send_events([event(numbers(1))], key=lambda _: None)
        last = ends(worker, row)
        assert "INVALID_RECORD" in last
        assert worker.log.count("transaction of 1 records: abort, ") > 10
        assert scene.lag() == 1
