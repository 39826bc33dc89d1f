"""The examples of docs/sdk.md and the README, each as the program that it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import headrace
from headrace.connectors.embedded.state import Endpoints
from tests.docs.pages import DOCS, read
from tests.integration.harness import Scene
from tests.integration.sdk_scene import photo, sdk_settings

EXAMPLES = [block for page in (DOCS / "sdk.md", DOCS.parent / "README.md") for block in read(page).blocks("python")]


@pytest.fixture(scope="module")
def folder(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a program finds its files and, by the environment, a worker that answers."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copy(photo("cat.jpg"), folder / "photo.jpg")
    with Scene(stack, f"sdk-docs.{uuid.uuid4().hex[:8]}", folder) as scene:
        scene.worker()
        yield folder


@pytest.fixture
def environment(folder: Path, stack: Endpoints) -> dict[str, str]:
    topics = sdk_settings(folder, stack).topics
    return {
        **os.environ,
        **stack.environment(),
        "HEADRACE_TOPICS__REQUESTS": ",".join(topics.requests),
        "HEADRACE_TOPICS__RESULTS": topics.results,
        "HEADRACE_TOPICS__DEAD_LETTERS": topics.dead_letters,
    }


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example_runs(number: int, folder: Path, environment: dict[str, str]) -> None:
    """In their order: what the first send, the later read."""
    command = [sys.executable, "-W", "error", "-c", EXAMPLES[number]]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=90)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip(), "an example prints what it found"
    assert "refused" not in done.stdout
    assert "try again" not in done.stdout


def test_table_of_errors_is_complete() -> None:
    """User code inside a worker has an error of its own, told elsewhere; a stack's is for commands that start one."""
    exported = [getattr(headrace, name) for name in headrace.__all__ if name.endswith("Error")]
    elsewhere = (headrace.HeadraceError, headrace.StackError, headrace.RejectError)
    table = read(DOCS / "sdk.md").text.partition("## Errors")[2]
    missing = [error.__name__ for error in exported if f"| `{error.__name__}`" not in table]
    assert missing == [error.__name__ for error in exported if error in elsewhere]
    assert all(issubclass(error, headrace.HeadraceError) for error in exported)
