"""For all tests: the settings of the shell, and a stack that runs on this machine, must not reach what they test."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

KEPT = {"HEADRACE_CACHE", "HEADRACE_MAVEN_URL", "HEADRACE_STACK", "HEADRACE_TRITON_IMAGE"}
KEPT |= {"HEADRACE_CHAOS_SEED", "HEADRACE_CHAOS_SECONDS", "HEADRACE_CHAOS_RATE", "HEADRACE_CHAOS_OVERLOAD_SECONDS"}
"""Where downloads come from and are kept, which stack the tests run on, what the chaos suite does: meant for the tests
themselves."""

settings.register_profile("quick", max_examples=25, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("deep", max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("quick")
"""Of each property: few in every run, others each time; ``make properties`` tries as many as find what is rare."""

sys.dont_write_bytecode = False
"""Whatever the shell says: else each process would compile all of it again, what is tested and what tests it."""


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("HEADRACE_") and name not in KEPT]:
            patch.delenv(name)
        patch.setenv("HEADRACE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell starts background jobs with SIGINT ignored, and so would be what the tests start and interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """A command that runs in the test's own process says how much is logged, which is not for the next test."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def pytest_collection_finish() -> None:
    """What is imported by now stays: no collection of garbage need look at it again, of which there are thousands."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
