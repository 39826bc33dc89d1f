from __future__ import annotations

import logging

import pytest
from prometheus_client import REGISTRY

from headrace.pipeline.health import Health


def test_ready_once_joined_and_all_dependencies_answer() -> None:
    health = Health()
    health.report("kafka", up=True)
    assert not health.ready
    health.joined = True
    health.report("triton", up=False)
    assert (health.ready, health.waiting_for) == (False, ("triton",))
    health.report("triton", up=True)
    assert (health.ready, health.waiting_for) == (True, ())


def test_failed_worker_is_neither_live_nor_ready() -> None:
    health = Health(joined=True)
    failed = Health(joined=True, failure=RuntimeError("it broke"))
    assert (health.live, health.ready) == (True, True)
    assert (failed.live, failed.ready) == (False, False)


def test_waiting_is_live() -> None:
    """A worker that waits for Kafka must not be restarted for it."""
    health = Health()
    health.report("kafka", up=False)
    assert health.live


def test_only_changes_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    health = Health()
    health.report("registry", up=True)
    for detail in ("refused", "refused again", ""):
        health.report("registry", up=False, detail=detail)
    health.report("registry", up=True)
    health.report("registry", up=True)
    assert [record.getMessage() for record in caplog.records] == [
        "waiting for registry: refused",
        "registry answers again",
    ]


def test_dependency_is_a_gauge() -> None:
    health = Health()
    for up in (True, False):
        health.report("triton", up=up)
        assert REGISTRY.get_sample_value("headrace_dependency_up", {"dependency": "triton"}) == up
