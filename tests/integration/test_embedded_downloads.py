"""Downloads against a small Maven repository served from this process."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import http.server
import io
import signal
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from headrace.connectors.embedded import downloads as subject
from headrace.connectors.embedded.artifacts import REGISTRY_VERSION, parse_coordinate, read_lock
from headrace.connectors.embedded.downloads import Downloads
from headrace.connectors.embedded.progress import Progress
from headrace.pipeline.errors import StackError

RUNNER = f"apicurio-registry-app-{REGISTRY_VERSION}-runner.jar"

# jgo leaves its responses open; what they hold is collected here, before another test is blamed for it.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()


@dataclass
class Repository:
    """Files by path; counts what was asked for.

    ``short`` files end before their announced length, ``slow`` ones take two minutes.
    """

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    short: set[str] = field(default_factory=set)
    slow: set[str] = field(default_factory=set)

    def add(self, coordinate: str, content: bytes) -> str:
        """Publish an artifact and return its lock line."""
        group, name, packaging, classifier, version = parse_coordinate(coordinate)
        suffix = f"-{classifier}" if classifier else ""
        self.files[f"/{group.replace('.', '/')}/{name}/{version}/{name}-{version}{suffix}.{packaging}"] = content
        return f"{hashlib.sha256(content).hexdigest()} {len(content)} {coordinate}\n"


@pytest.fixture
def repository() -> Iterator[Repository]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.requests.append(self.path)
            content = found.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.path in found.slow:
                self.trickle(content)
            else:
                self.wfile.write(content[: len(content) // 2] if self.path in found.short else content)

        def trickle(self, content: bytes) -> None:
            step = len(content) // 1200
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client has gone
                for start in range(0, len(content), step):
                    self.wfile.write(content[start : start + step])
                    time.sleep(0.1)

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Repository(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield found
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _direct_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(subject, "BACKOFF_SECONDS", 0.01)


@pytest.fixture
def lock_file(tmp_path: Path, repository: Repository) -> Path:
    path = tmp_path / "artifacts.lock"
    jars = (repository.add(f"org.example:part-{i}:jar:1.{i}", f"jar {i}".encode() * 1000) for i in range(6))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        entry = tarfile.TarInfo(RUNNER)
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"jar"))
    path.write_text("# comment\n" + "".join(jars) + repository.add("org.example:app:tar.gz:all:2", archive.getvalue()))
    return path


def make(tmp_path: Path, lock_file: Path, repository: Repository) -> Downloads:
    return Downloads(tmp_path / "cache", Progress(), lock_file, repository.url)


def leftovers(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if "ing-" in path.name)


def test_downloads_are_fetched_once_and_then_offline(tmp_path: Path, lock_file: Path, repository: Repository) -> None:
    downloads = make(tmp_path, lock_file, repository)
    assert [artifact.name for artifact in downloads.missing()] == [*(f"part-{i}" for i in range(6)), "app"]
    classpath = downloads.kafka_classpath()
    assert [path.name for path in classpath] == [f"part-{i}-1.{i}.jar" for i in range(6)]
    assert downloads.registry_jar().read_bytes() == b"jar"
    assert downloads.missing() == ()
    asked = len(repository.requests)

    again = make(tmp_path, lock_file, repository)
    assert again.kafka_classpath() == classpath
    assert again.registry_jar().exists()
    assert len(repository.requests) == asked
    assert leftovers(tmp_path) == []


def test_download_that_is_not_the_pinned_file_is_refused_and_not_kept(
    tmp_path: Path, lock_file: Path, repository: Repository
) -> None:
    repository.files["/org/example/part-3/1.3/part-3-1.3.jar"] = b"something else"
    with pytest.raises(StackError, match=r"part-3-1\.3\.jar as downloaded is not the pinned file"):
        make(tmp_path, lock_file, repository).kafka_classpath()
    assert not (tmp_path / "cache" / "jars" / "part-3-1.3.jar").exists()
    assert leftovers(tmp_path) == []


def test_download_cut_short_is_tried_again_then_refused(
    tmp_path: Path, lock_file: Path, repository: Repository
) -> None:
    path = "/org/example/part-2/1.2/part-2-1.2.jar"
    repository.short.add(path)
    with pytest.raises(StackError, match=r"part-2-1\.2\.jar could not be downloaded"):
        make(tmp_path, lock_file, repository).kafka_classpath()
    assert repository.requests.count(path) == 3
    repository.short.clear()
    assert len(make(tmp_path, lock_file, repository).kafka_classpath()) == 6


def interrupt_once(condition: Callable[[], bool]) -> threading.Thread:
    """Sends this process what Ctrl-C sends, as soon as the condition holds."""
    main = threading.get_ident()

    def wait() -> None:
        deadline = time.monotonic() + 20
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def assert_interrupted_at_once(downloads: Downloads, repository: Repository, path: str) -> None:
    """Interrupted when it asks for this file."""
    interrupter = interrupt_once(lambda: path in repository.requests)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        downloads.kafka_classpath()
    interrupter.join()
    assert time.monotonic() - began < 40


def test_interrupted_download_ends_at_once_and_leaves_nothing(
    tmp_path: Path, lock_file: Path, repository: Repository
) -> None:
    path = "/org/example/part-0/1.0/part-0-1.0.jar"
    repository.files[path] = bytes(10_000_000)
    repository.slow.add(path)
    assert_interrupted_at_once(make(tmp_path, lock_file, repository), repository, path)
    assert leftovers(tmp_path) == []


def test_interrupted_download_makes_no_further_attempt(
    tmp_path: Path, lock_file: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/org/example/part-0/1.0/part-0-1.0.jar"
    repository.short.add(path)
    monkeypatch.setattr(subject, "BACKOFF_SECONDS", 60.0)
    assert_interrupted_at_once(make(tmp_path, lock_file, repository), repository, path)
    assert repository.requests.count(path) == 1


def test_what_a_killed_download_left_is_removed_by_the_next(
    tmp_path: Path, lock_file: Path, repository: Repository
) -> None:
    for name in ("downloading-abc", "unpacking-def"):
        (tmp_path / "cache" / name).mkdir(parents=True)
        (tmp_path / "cache" / name / "half").touch()
    make(tmp_path, lock_file, repository).kafka_classpath()
    assert leftovers(tmp_path) == []


def test_download_missing_from_the_repository_names_file_and_remedy(
    tmp_path: Path, lock_file: Path, repository: Repository
) -> None:
    del repository.files["/org/example/part-5/1.5/part-5-1.5.jar"]
    with pytest.raises(StackError, match=r"part-5-1\.5\.jar could not be downloaded.*HEADRACE_MAVEN_URL"):
        make(tmp_path, lock_file, repository).kafka_classpath()


@pytest.mark.parametrize("tampered", [b"jar 1" * 999 + b"jar 2", b""])
def test_cached_file_that_was_altered_names_the_file_to_delete(
    tmp_path: Path, lock_file: Path, repository: Repository, tampered: bytes
) -> None:
    jar = make(tmp_path, lock_file, repository).kafka_classpath()[1]
    jar.write_bytes(tampered)
    with pytest.raises(StackError, match=rf"{jar} is damaged or was altered.*delete that file"):
        make(tmp_path, lock_file, repository).kafka_classpath()
    jar.unlink()
    assert make(tmp_path, lock_file, repository).kafka_classpath()[1] == jar


def test_downloads_by_several_at_once_fetch_each_file_once(
    tmp_path: Path, lock_file: Path, repository: Repository
) -> None:
    """The lock is held per open file, so threads stand for processes here."""
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: make(tmp_path, lock_file, repository).kafka_classpath(), range(4)))
    assert all(result == results[0] for result in results)
    jars = [path for path in repository.requests if path.endswith(".jar")]
    assert len(jars) == len(set(jars)) == 6


def test_pinned_list_holds_broker_tools_and_registry() -> None:
    names = {artifact.name: artifact for artifact in read_lock()}
    assert names["kafka_2.13"].version == names["kafka-tools"].version == names["kafka-clients"].version
    assert names["apicurio-registry-app"].version == REGISTRY_VERSION
    assert all(len(artifact.sha256) == 64 and artifact.size_bytes > 0 for artifact in names.values())


def test_pinned_list_with_a_malformed_line_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "artifacts.lock"
    path.write_text("# fine\nabc 12 org.example:x:jar:1\nabc org.example:y:jar:1\n")
    with pytest.raises(StackError, match=r"artifacts\.lock:3"):
        read_lock(path)
