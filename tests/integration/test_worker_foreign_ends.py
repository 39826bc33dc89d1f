"""A worker between programs that share no code with it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from headrace.connectors.embedded.state import Endpoints
from tests.integration.avro_ends import SCHEMAS
from tests.integration.harness import Scene
from tests.integration.java_clients import console_consumer

FOREIGN_PRODUCER = Path(__file__).with_name("foreign_producer.py")


def test_foreign_producer_is_answered_to_a_java_consumer(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path
) -> None:
    """Of the producer's three events the one with a sham image cannot be answered."""
    with Scene(stack, names("w"), tmp_path) as scene:
        scene.worker()
        arguments = [stack.bootstrap_servers, stack.registry_url, scene.requests]
        arguments.append(str(SCHEMAS / "inference_request.avsc"))
        command = [sys.executable, "-W", "error", str(FOREIGN_PRODUCER), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        sent = [json.loads(line) for line in done.stdout.splitlines()]
        where = {(each["topic"], each["partition"], each["offset"]): each["id"] for each in sent}

        results = console_consumer(stack.bootstrap_servers, scene.results, tmp_path, max_records=2)
        letters = console_consumer(stack.bootstrap_servers, scene.dead_letters, tmp_path, max_records=1)

        answered = {}
        for record in (*results, *letters):
            assert record.key == b"key"
            assert "correlation_id:foreign-1" in record.headers
            assert "traceparent:00-4bf92f3577b34da6a3ce929d0e0e4736-" in record.headers
            content = scene.registry.decode(record.value)
            place = content["provenance"]
            answered[place["topic"], place["partition"], place["offset"]] = str(content["request_id"])
        assert answered == where
        assert {scene.registry.decode(each.value)["outputs"][0]["model"] for each in results} == {"text_embedding"}
        assert scene.registry.decode(letters[0].value)["code"] == "BAD_IMAGE"
