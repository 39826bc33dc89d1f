"""What a stack leaves when its start is broken off. Nothing of it is downloaded or run here."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from headrace.connectors.embedded.process import ServerProcess
from headrace.connectors.embedded.stack import Installed, Stack
from headrace.connectors.embedded.triton_env import TritonInterpreter


class Broken(Stack):
    """Its Triton is not where it should be."""

    def prepare(self) -> Installed:
        nowhere = Path("nowhere")
        return Installed((), nowhere, TritonInterpreter(nowhere, nowhere, "1.26"), nowhere)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_failed_start_leaves_no_folder(temporary: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Broken().start()
    assert list(temporary.iterdir()) == []


def test_interrupted_killing_leaves_no_folder(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_process: ServerProcess) -> None:
        assert list(temporary.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(ServerProcess, "kill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Broken().start()
    assert list(temporary.iterdir()) == []
