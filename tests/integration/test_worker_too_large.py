"""Results that their topic does not take, because its limit was lowered while the worker runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it re-exports these without saying so
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from headrace.connectors.embedded.state import Endpoints
from tests.integration.avro_ends import event, numbers
from tests.integration.harness import Scene

SMALL, LARGE = 8, 4000
LIMIT_BYTES = 5000
EVENTS = 400


def limit(endpoints: Endpoints, topic: str, max_message_bytes: int) -> None:
    entry = ConfigEntry("max.message.bytes", str(max_message_bytes), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": endpoints.bootstrap_servers})
    admin.incremental_alter_configs([resource])[resource].result(10)


def test_result_larger_than_its_topic_takes_becomes_a_dead_letter_and_holds_up_no_other(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    """Small results by the hundred make batches that are too large, too: those are written all the same."""
    with Scene(stack, names("w"), tmp_path) as scene:
        worker = scene.worker()
        limit(stack, scene.results, LIMIT_BYTES)
        sizes = [LARGE if index % 50 == 7 else SMALL for index in range(EVENTS)]
        sent = scene.send_events(event(numbers(*[float(size)] * size)) for size in sizes)
        answers = scene.settle(sent)
        for size, each in zip(sizes, sent, strict=True):
            answer = answers[each.position]
            assert answer.dead == (size == LARGE)
            if answer.dead:
                assert (answer.content["stage"], answer.content["code"]) == ("encode", "RESULT_TOO_LARGE")
                assert scene.results in answer.content["message"]
                assert answer.content["value"] == each.value
        assert worker.metric('headrace_transaction_retries_total{reason="too_large"}') > 0
        assert worker.running
