"""A settings file that is wrong is told in one line, before any server is asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BROKEN: dict[str, tuple[str | bytes | None, str]] = {
    "missing": (None, "cannot be read: No such file or directory"),
    "binary": (b"\xff\xfe\x00", "is not UTF-8 text"),
    "syntax": ("routes: [", "line 1, column"),
    "tab": ("kafka:\n\tproducers: 2", "a tab where YAML wants spaces"),
    "list": ("- name: text", "must be a mapping of settings"),
    "twice": ("name: a\nname: b", "key 'name' stands twice, first in line 1"),
    "unknown-key": ("kafka:\n  bootstrap_server: x", "bootstrap_servers"),
    "out-of-range": ("kafka:\n  producers: 9", "kafka.producers"),
    "wrong-kind": ("worker:\n  slot: one", "worker.slot"),
    "wrong-choice": ("routes:\n- {name: a, model: b, ordering: random}", "routes[0].ordering"),
    "no-model": ("routes:\n- {name: a}", "routes[0].model"),
    "loop": ("topics:\n  requests: [a]\n  results: a", "both a request topic and an output"),
}


def test_broken_settings_file_is_told_in_one_line(tmp_path: Path) -> None:
    started = {}
    for name, (content, _) in BROKEN.items():
        file = tmp_path / f"{name}.yaml"
        if content is not None:
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        command = [sys.executable, "-m", "headrace", "worker", "-c", str(file)]
        started[name] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for name, process in started.items():
        out, told = process.communicate(timeout=60)
        assert (process.returncode, out) == (2, ""), name
        assert told.startswith(f"headrace: {tmp_path / name}.yaml: "), told
        assert told.count("\n") == 1, told
        assert BROKEN[name][1] in told
