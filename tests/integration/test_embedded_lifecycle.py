"""How the embedded stack begins and ends: offline, killed, interrupted, failing, and by the commands."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from headrace.connectors.embedded.downloads import Downloads
from headrace.connectors.embedded.kafka import KafkaServer
from headrace.connectors.embedded.locks import file_lock
from headrace.connectors.embedded.owners import SHARED_MEMORY, owner_tag, sweep
from headrace.connectors.embedded.paths import cache_dir
from headrace.connectors.embedded.ports import PortReservation, is_free
from headrace.connectors.embedded.progress import Progress
from headrace.connectors.embedded.registry import RegistryServer
from headrace.connectors.embedded.state import Endpoints
from headrace.connectors.kafka.admin import ensure_topics, partition_counts
from headrace.pipeline.errors import StackError, UnavailableError
from headrace.pipeline.records import TopicSpec

HOLD = """
import json, sys, time
from dataclasses import asdict
from headrace.connectors.embedded.stack import Stack
with Stack() as stack:
    print(json.dumps(asdict(stack.endpoints)), flush=True)
    time.sleep(600)
"""
LOOPBACK_ONLY = """
import sys
def refuse(event, arguments):
    if event == "socket.getaddrinfo" and arguments[0] not in (None, "127.0.0.1", "localhost"):
        raise SystemExit(f"asked for the address of {arguments[0]}")
    if event == "socket.connect" and isinstance(arguments[1], tuple) and not arguments[1][0].startswith("127."):
        raise SystemExit(f"connected to {arguments[1]}")
sys.addaudithook(refuse)
"""


def wait_for(condition: Callable[[], object], what: str, timeout_seconds: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.02)


def backend_folders() -> set[str]:
    """What Triton's python backend leaves behind when it is killed, if nothing is done about it."""
    return {str(path) for path in Path("/tmp").glob("python_env_*")}


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


class Owner:
    """A process that owns a stack, and what belongs to it."""

    def __init__(self, script: str, environment: dict[str, str]) -> None:
        self._earlier = backend_folders()
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.tag = owner_tag(self.process.pid)
        self.family: list[psutil.Process] = []

    def endpoints(self) -> Endpoints:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            pytest.fail(f"the stack did not start: {self.process.communicate()[1]}")
        self.note_family()
        return Endpoints(**json.loads(line))

    def note_family(self) -> None:
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def leftovers(self) -> list[str]:
        living = [str(child) for child in self.family if child.is_running() and child.status() != "zombie"]
        regions = SHARED_MEMORY.glob(f"headrace-{self.tag}-*")
        return [*living, *(str(path) for path in (*regions, *self.folders())), *(backend_folders() - self._earlier)]

    def folders(self) -> list[Path]:
        return list(Path(tempfile.gettempdir()).glob(f"headrace-{self.tag}-*"))


@pytest.fixture
def start_owner() -> Iterator[Callable[..., Owner]]:
    owners: list[Owner] = []

    def start(script: str, **environment: str) -> Owner:
        owners.append(Owner(script, environment))
        return owners[-1]

    yield start
    for owner in owners:
        owner.process.kill()
        owner.process.communicate()
    sweep()


def free(endpoints: Endpoints) -> bool:
    addresses = (endpoints.bootstrap_servers, endpoints.registry_url, endpoints.triton_grpc, endpoints.triton_http)
    return all(is_free(int(port)) for address in addresses for port in re.findall(r":(\d+)", address))


@pytest.mark.usefixtures("stack")  # so that everything is cached
def test_second_start_touches_no_network_and_a_killed_owner_leaves_nothing(start_owner: Callable[..., Owner]) -> None:
    nowhere = "http://127.0.0.1:9"
    owner = start_owner(
        LOOPBACK_ONLY + HOLD, HTTP_PROXY=nowhere, HTTPS_PROXY=nowhere, PIP_NO_INDEX="1", http_proxy=nowhere
    )
    endpoints = owner.endpoints()
    assert len(owner.family) >= 6  # three guards, three servers; and the models' processes
    assert not free(endpoints)

    owner.process.kill()
    wait_for(lambda: all(str(path) in map(str, owner.folders()) for path in owner.leftovers()), "servers gone")
    wait_for(lambda: free(endpoints), "ports free")
    assert set(owner.folders()) <= set(sweep())
    assert owner.leftovers() == []


@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize("progress", ["triton.log", "kafka.log", "registry.log"])
def test_interrupted_start_leaves_nothing(start_owner: Callable[..., Owner], progress: str) -> None:
    owner = start_owner(HOLD)
    wait_for(lambda: [log for folder in owner.folders() for log in folder.rglob(progress)], progress)
    owner.note_family()
    owner.process.send_signal(signal.SIGINT)
    _, errors = owner.process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    # A guard born at that very moment is nobody's child yet: it ends by itself when it sees its owner gone.
    wait_for(lambda: owner.leftovers() == [], "everything gone", 10)


@pytest.fixture
def downloads() -> Downloads:
    return Downloads(cache_dir(), Progress())


@pytest.mark.usefixtures("stack")
def test_broker_that_cannot_start_shows_the_end_of_its_log(tmp_path: Path, downloads: Downloads) -> None:
    with PortReservation() as ports, socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        server = KafkaServer(tmp_path, downloads.kafka_classpath(), port, controller_port=ports.take())
        with pytest.raises(StackError, match=rf"(?s)Kafka ended while starting.*bind.*{port}"):
            server.start()
        assert not server.process.running


@pytest.mark.usefixtures("stack")
def test_broker_keeps_its_data_in_a_folder_of_any_name(tmp_path: Path, downloads: Downloads) -> None:
    folder = tmp_path / "Datá, \\ mehr"
    with PortReservation() as ports:
        server = KafkaServer(folder, downloads.kafka_classpath(), ports.take(), controller_port=ports.take())
        for created in (("mine",), ()):  # formatted once, found again
            with server:
                assert ensure_topics(server.bootstrap_servers, [TopicSpec("mine", 1)]) == created
    assert (folder / "log" / "meta.properties").exists()
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.usefixtures("stack")
def test_registry_without_kafka_says_so(tmp_path: Path, downloads: Downloads) -> None:
    with PortReservation() as ports:
        nobody = f"127.0.0.1:{ports.take()}"
        server = RegistryServer(tmp_path, downloads.registry_jar(), ports.take(), nobody)
        with pytest.raises(UnavailableError, match=f"Kafka at {nobody} does not answer"):
            server.start()


@pytest.fixture
def headrace(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Runs the command with a state folder of its own; stops what it started."""
    environment = {**os.environ, "HEADRACE_HOME": str(tmp_path / "home")}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "headrace", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)

    yield run
    run("down", "--purge")


@pytest.mark.usefixtures("stack")
def test_up_status_and_down_keep_data_and_ports_until_purged(
    headrace: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    assert headrace("status").returncode == 1
    nothing = headrace("down")
    assert (nothing.returncode, nothing.stdout) == (0, "the embedded stack is not running\n")

    up = headrace("up", "--detach", "--workers", "1")
    assert up.returncode == 0, up.stdout + up.stderr
    status = headrace("status", "--json")
    assert status.returncode == 0
    first = json.loads(status.stdout)
    assert [member["name"] for member in first["members"]] == ["kafka", "registry", "triton", "worker 0"]
    bootstrap_servers = first["endpoints"]["bootstrap_servers"]
    assert partition_counts(bootstrap_servers, ["inference.requests"])["inference.requests"] >= 4
    ensure_topics(bootstrap_servers, [TopicSpec("mine", 3)])
    again = headrace("up")
    assert again.returncode == 0
    assert "runs already" in again.stdout

    assert headrace("down").stdout == "the embedded stack is stopped\n"
    assert headrace("status").returncode == 1
    more = tmp_path / "pipeline.yaml"
    more.write_text("topics: {partitions: 64}\n")
    refused = headrace("up", "--detach", "--config", str(more))
    assert refused.returncode == 2
    assert "fewer than the 64 set (topics.partitions)" in refused.stderr
    assert (tmp_path / "home" / "up.log.1").exists()  # of the start before
    (tmp_path / "home" / "data" / "ports.json.new").write_text("{")  # as if killed while writing
    assert headrace("up", "--detach", "--workers", "0").returncode == 0
    second = json.loads(headrace("status", "--json").stdout)
    assert second["endpoints"] == first["endpoints"]
    assert partition_counts(bootstrap_servers, ["mine"]) == {"mine": 3}

    os.kill(int(second["owner"].partition("-")[0]), signal.SIGKILL)  # the supervisor
    for member in second["members"]:
        wait_for(partial(gone, member["pid"]), f"{member['name']} gone")
    assert headrace("status").returncode == 1
    assert headrace("down", "--purge").returncode == 0
    assert not (tmp_path / "home" / "data").exists()


@pytest.mark.usefixtures("stack")
def test_up_starts_again_what_was_killed(headrace: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert headrace("up", "--detach", "--workers", "1").returncode == 0

    def pids() -> dict[str, int]:
        members = json.loads(headrace("status", "--json").stdout)["members"]
        return {member["name"]: member["pid"] for member in members if member["state"] == "running"}

    before = pids()
    for name in ("triton", "worker 0"):
        os.kill(before[name], signal.SIGKILL)
    wait_for(lambda: {*before} == {*(now := pids())} and before["triton"] != now["triton"], "triton again")
    wait_for(lambda: pids()["worker 0"] != before["worker 0"], "worker again")
    after = pids()
    assert after["kafka"] == before["kafka"]


@pytest.mark.usefixtures("stack")
def test_up_with_a_broken_file_starts_nothing(
    headrace: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    broken = tmp_path / "pipeline.yaml"
    broken.write_text("topics: {partitions: none}\n")
    for how in (("--detach",), ()):
        refused = headrace("up", *how, "--config", str(broken))
        assert refused.returncode == 2
        assert str(broken) in refused.stderr
    assert headrace("status").returncode == 1


@pytest.mark.usefixtures("stack")
def test_up_beside_a_starting_one_leaves_it_alone(
    headrace: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Both read the state before either wrote it: the lock decides."""
    with file_lock(tmp_path / "home" / "up.lock", 1, "the test's hold"):
        refused = headrace("up", "--workers", "0")
    assert refused.returncode == 1
    assert "busy with 'headrace up'" in refused.stderr
    assert not (tmp_path / "home" / "data").exists()
