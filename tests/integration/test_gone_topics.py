"""A topic that a worker writes to and that somebody deletes: it is named soon, and nothing is lost or doubled."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from headrace.connectors.embedded.state import Endpoints
from tests.integration.avro_ends import event, numbers
from tests.integration.harness import Scene, wait_until

TOLD_SECONDS = 30.0
FAIL_ONCE_SECONDS = 2.0


@pytest.mark.parametrize("role", ["reply", "retry.1s"])
def test_topic_that_is_deleted_is_named_soon_and_made_again_at_the_next_start(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path, role: str
) -> None:
    prefix = names("w")
    routes = [
        {
            "name": "delay",
            "model": "delay",
            "reply_topic": f"{prefix}.reply",
            "retries": {"max_attempts": 1, "delays": ["1s"]},
        }
    ]
    gone = f"{prefix}.{role}"
    with Scene(stack, prefix, tmp_path, routes=routes) as scene:
        scene.output_topics = [f"{prefix}.reply", scene.dead_letters]
        worker = scene.worker()
        first = scene.send_events([event(numbers(1), model="delay")], partition=0)
        wait_until(scene.is_committed, 30, "the first event to be answered")
        admin = AdminClient({"bootstrap.servers": stack.bootstrap_servers})
        admin.delete_topics([gone])[gone].result(10)
        wait_until(lambda: gone not in admin.list_topics(timeout=10).topics, 10, "the topic to be gone")
        retried = {"fail": "INTERNAL", "fail_until_ms": int((time.time() + FAIL_ONCE_SECONDS) * 1000)}
        parameters = retried if role == "retry.1s" else {}
        second = scene.send_events([event(numbers(2), model="delay", parameters=parameters)], partition=0)
        sent_at = time.monotonic()
        assert worker.wait_ended(2 * TOLD_SECONDS) == 1
        assert time.monotonic() - sent_at < TOLD_SECONDS, worker.log
        told = worker.log.splitlines()[-1]
        assert f"topic {gone} is gone" in told, worker.log
        assert "`headrace topics create` makes it" in told
        worker.start()
        worker.wait_ready()
        scene.settle([*(first if role != "reply" else ()), *second])
