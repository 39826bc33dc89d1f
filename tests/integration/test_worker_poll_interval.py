"""A worker that does not poll for so long that the group gives its partitions away, though its client is connected."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.connectors.embedded.state import Endpoints
from headrace.pipeline.config import Assignment
from tests.integration.avro_ends import event, text
from tests.integration.harness import Scene, wait_until
from tests.integration.mixed import mixed

INTERVAL_SECONDS = 20
HELD_SECONDS = 27
"""How long the interpreter is held: past the interval, and until another worker has had the partitions."""
MODULE = textwrap.dedent(
    f"""
    import ctypes
    import os

    # A function of C that is called in this way keeps the interpreter's lock, as an extension module may.
    HOLD = ctypes.PyDLL(None).sleep


    def setup(app):
        @app.before
        def hold(record):
            if "hold" in str(record.request.parts[0].content) and not os.path.exists("held"):
                open("held", "x").close()
                print("holding", flush=True)
                HOLD({HELD_SECONDS})
                print("let go", flush=True)
    """
)


@pytest.mark.parametrize("assignment", list(Assignment))
def test_worker_that_holds_the_interpreter_beyond_the_poll_interval_loses_its_partitions_and_joins_anew(
    stack: Endpoints, names: Callable[[str], str], tmp_path: Path, assignment: Assignment
) -> None:
    (tmp_path / "mine.py").write_text(MODULE)
    kafka = {
        "max_poll_interval_seconds": INTERVAL_SECONDS,
        "transaction_timeout_seconds": 5,
        "assignment": assignment.value,
    }
    with Scene(stack, names("w"), tmp_path, kafka=kafka, user_code={"modules": ["mine"]}) as scene:
        workers = [scene.worker(slot, wait=False) for slot in (0, 1)]
        for worker in workers:
            worker.wait_ready()
        scene.wait_shared(0, 1)
        sent = scene.send_events([*mixed(300), event(text("hold")), *mixed(300)])
        wait_until(lambda: any("holding" in worker.log for worker in workers), 30, "the interpreter to be held")
        (held,) = (worker for worker in workers if "holding" in worker.log)
        (other,) = (worker for worker in workers if worker is not held)
        scene.wait_shared(other.slot)
        assert "let go" not in held.log
        sent += scene.send_events(mixed(200))
        answers = scene.settle(sent)  # by the other: what the first had in flight as well
        assert {each.answers for each in answers.values()} >= {each.position for each in sent[-200:]}
        wait_until(lambda: "let go" in held.log, HELD_SECONDS, "the interpreter to be let go")
        wait_until(lambda: "lost" in held.log, 10, "the partitions to be lost")
        scene.wait_shared(0, 1)
        more = scene.send_events(mixed(300))
        answers = scene.settle([*sent, *more])
        assert not any(each.dead for each in answers.values())
        assert held.running
        assert other.running
        assert {answers[each.position].content["worker"] for each in more} == {f"{scene.group}-{n}" for n in (0, 1)}
        assert "Traceback" not in held.log
