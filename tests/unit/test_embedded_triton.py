"""What Triton's folders may be called."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.connectors.embedded.triton import TritonServer
from headrace.connectors.embedded.triton_env import TritonInterpreter
from headrace.pipeline.errors import StackError


@pytest.mark.parametrize("name", ["my data", "a;b", "$HOME", "it's", "a&b", "(1)"])
def test_folder_that_a_shell_would_break_is_refused(tmp_path: Path, name: str) -> None:
    """The python backend hands its folders to a shell, unquoted."""
    folder = tmp_path / name
    interpreter = TritonInterpreter(tmp_path, tmp_path, "1.26.4")
    server = TritonServer(folder, interpreter, tmp_path, http_port=1, grpc_port=2, metrics_port=3)
    with pytest.raises(StackError, match="HEADRACE_CACHE"):
        server.spawn()
    assert not folder.exists()
