"""The composed worker as a process, with nothing there that it could connect to."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.pipeline.slot import SlotLock

BROKER = "127.0.0.1:1"  # nobody listens on port 1
SECONDS = 30


class Config:
    def __init__(self, folder: Path, port: int) -> None:
        self.name = f"mill-{uuid.uuid4()}"
        self.port = port
        self.path = folder / "pipeline.yaml"
        settings = {
            "name": self.name,
            "kafka": {"bootstrap_servers": BROKER},
            "worker": {"http_port": port, "slot": 3},
        }
        self.path.write_text(json.dumps(settings))  # JSON is YAML

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "HEADRACE_CONFIG": str(self.path)}

    def page(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=SECONDS) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()
        except urllib.error.URLError:
            return 0, "nobody answers yet"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return Config(tmp_path, port)


@pytest.fixture
def worker(config: Config) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "headrace", "worker"]
    with subprocess.Popen(command, env=config.environment, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_worker_without_kafka_lives_waits_and_stops_when_told(config: Config, worker: subprocess.Popen[str]) -> None:
    waiting = (503, "waiting for kafka\n")
    deadline = time.monotonic() + SECONDS
    while (page := config.page("/readyz")) != waiting:
        assert time.monotonic() < deadline, page
        time.sleep(0.02)
    assert config.page("/livez") == (200, "ok\n")
    worker.send_signal(signal.SIGTERM)
    _, log = worker.communicate(timeout=SECONDS)
    assert worker.returncode == 0, log
    assert "waiting for kafka" in log
    assert "Traceback" not in log


def test_worker_whose_slot_is_held_ends_with_code_3_and_says_by_whom(config: Config) -> None:
    holder = SlotLock(f"{BROKER} {config.name}", 3)
    holder.acquire()
    command = [sys.executable, "-m", "headrace", "worker"]
    ended = subprocess.run(command, env=config.environment, capture_output=True, text=True, timeout=SECONDS)
    holder.release()
    assert ended.returncode == 3, ended.stderr
    assert f"worker slot 3 is held by process {os.getpid()} on this machine" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_faust_finds_the_app_and_it_is_made_once_of_the_settings_in_force(config: Config) -> None:
    program = "from headrace.pipeline import app; print(app.app.conf.id, app.app is app.app, hasattr(app, 'other'))"
    ended = subprocess.run(
        [sys.executable, "-c", program], env=config.environment, capture_output=True, text=True, timeout=SECONDS
    )
    assert ended.stdout == f"{config.name} True False\n", ended.stderr
