"""Fetches the pinned artifacts, once: verified by sha256, moved into the cache in one step, under a lock.

With everything cached no network is touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from headrace.connectors.embedded.artifacts import (
    KAFKA_VERSION,
    LOCK_FILE,
    PYTHON_VERSION,
    REGISTRY_VERSION,
    Artifact,
    read_lock,
    sha256_of,
)
from headrace.connectors.embedded.locks import file_lock
from headrace.connectors.embedded.progress import Advance, Progress
from headrace.pipeline.errors import StackError

_LOCK_SECONDS = 900.0
_REQUEST_SECONDS = 60
_ATTEMPTS = 3
BACKOFF_SECONDS = 2.0
_PARALLEL = 4
_DOWNLOADING = "downloading-"
_UNPACKING = "unpacking-"
_REGISTRY_RUNNER = f"apicurio-registry-app-{REGISTRY_VERSION}-runner.jar"


class Downloads:
    """The pinned artifacts, in ``<cache>/jars`` and ``<cache>/registry-<version>``.

    Args:
        cache: where they are kept.
        progress: told of downloads.
        lock_file: which artifacts.
        repository_url: a Maven repository to ask instead of Maven Central (``HEADRACE_MAVEN_URL``).
    """

    def __init__(
        self, cache: Path, progress: Progress, lock_file: Path = LOCK_FILE, repository_url: str | None = None
    ) -> None:
        self._cache = cache
        self._progress = progress
        url = repository_url or os.environ.get("HEADRACE_MAVEN_URL")
        self._repositories = {"maven": url.rstrip("/")} if url else None
        artifacts = read_lock(lock_file)
        jars = [artifact for artifact in artifacts if artifact.packaging == "jar"]
        self._python_jars = tuple(jar for jar in jars if jar.name == "cpython")
        self._kafka_jars = tuple(jar for jar in jars if jar.name != "cpython")
        self._archives = tuple(artifact for artifact in artifacts if artifact.packaging == "tar.gz")

    def missing(self) -> tuple[Artifact, ...]:
        """What is left to download (contents are not verified)."""
        jars = (*self._kafka_jars, *self._python_jars)
        missing = tuple(jar for jar in jars if not is_there(self._jar_folder / jar.filename))
        return missing if is_there(self._registry_folder) else (*missing, *self._archives)

    def kafka_classpath(self) -> tuple[Path, ...]:
        """Every jar of the broker, downloaded if need be and verified.

        Raises:
            StackError: if one cannot be downloaded, or is not the file that was pinned.
        """
        return self._cached_jars(f"Apache Kafka {KAFKA_VERSION}", self._kafka_jars)

    def python_jar(self) -> Path:
        """The archive that holds Triton's Python, downloaded if need be and verified.

        Raises:
            StackError: if it cannot be downloaded, or is not the file that was pinned.
        """
        (jar,) = self._cached_jars(f"Python {PYTHON_VERSION} for Triton", self._python_jars)
        return jar

    def _cached_jars(self, title: str, jars: Sequence[Artifact]) -> tuple[Path, ...]:
        folder = self._jar_folder
        missing = [jar for jar in jars if not (folder / jar.filename).exists()]
        if missing:
            with self._locked():
                missing = [jar for jar in jars if not (folder / jar.filename).exists()]
                self._fetch(title, missing, folder)
        for jar in jars:
            verify_cached(folder / jar.filename, jar)
        return tuple(folder / jar.filename for jar in jars)

    def registry_jar(self) -> Path:
        """The registry's runner jar, its libraries beside it; downloaded and unpacked if need be.

        Raises:
            StackError: if it cannot be downloaded, or is not the file that was pinned.
        """
        if not self._registry_folder.exists():
            with self._locked():
                if not self._registry_folder.exists():
                    self._unpack_registry()
        return self._registry_folder / _REGISTRY_RUNNER

    @property
    def _jar_folder(self) -> Path:
        return self._cache / "jars"

    @property
    def _registry_folder(self) -> Path:
        return self._cache / f"registry-{REGISTRY_VERSION}"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with file_lock(self._cache / "downloads.lock", _LOCK_SECONDS, "downloads"):
            for prefix in (_DOWNLOADING, _UNPACKING):  # a killed process's: nobody else is here now
                for leftover in self._cache.glob(f"{prefix}*"):
                    shutil.rmtree(leftover)
            yield

    def _fetch(self, title: str, artifacts: Sequence[Artifact], folder: Path) -> None:
        if not artifacts:
            return
        folder.mkdir(parents=True, exist_ok=True)
        total_bytes = sum(artifact.size_bytes for artifact in artifacts)
        stop = threading.Event()
        with (
            tempfile.TemporaryDirectory(dir=self._cache, prefix=_DOWNLOADING) as scratch,
            self._progress.download(title, total_bytes) as advance,
            ThreadPoolExecutor(_PARALLEL) as pool,
        ):
            try:
                waiting = [
                    pool.submit(fetch_one, artifact, Path(scratch), advance, stop, self._repositories)
                    for artifact in artifacts
                ]
                for artifact, future in zip(artifacts, waiting, strict=True):
                    future.result().replace(folder / artifact.filename)
            finally:
                stop.set()  # else Ctrl-C would wait for whole transfers, and for their further attempts
                pool.shutdown(wait=True, cancel_futures=True)

    def _unpack_registry(self) -> None:
        with tempfile.TemporaryDirectory(dir=self._cache, prefix=_UNPACKING) as scratch:
            archives = Path(scratch) / "archives"
            self._fetch(f"Apicurio Registry {REGISTRY_VERSION}", self._archives, archives)
            unpacked = Path(scratch) / "unpacked"
            for archive in self._archives:
                with tarfile.open(archives / archive.filename) as tar:
                    # A pinned archive anyway; Python 3.11.2, that of Debian 12, has no filters yet.
                    tar.extraction_filter = getattr(tarfile, "data_filter", None)
                    tar.extractall(unpacked)
            if not (unpacked / _REGISTRY_RUNNER).exists():
                raise StackError(f"the registry's archive lacks {_REGISTRY_RUNNER}: this release of headrace is broken")
            unpacked.replace(self._registry_folder)


class StoppedError(Exception):
    """The transfer was broken off because nobody waits for it any more."""


def fetch_one(
    artifact: Artifact,
    scratch: Path,
    advance: Advance,
    stop: threading.Event,
    repositories: dict[str, str] | None = None,
) -> Path:
    """Download and verify one artifact, with a few attempts.

    Raises:
        StackError: if it cannot be had, or is not what was pinned.
        StoppedError: ``stop`` was set.
    """

    def advance_unless_stopped(count: int) -> None:
        if stop.is_set():
            raise StoppedError
        advance(count)

    for attempt in range(1, _ATTEMPTS + 1):
        attempt_folder = scratch / f"{artifact.filename}.{attempt}"
        try:
            path = _resolve(artifact, attempt_folder, advance_unless_stopped, repositories)
            break
        except (OSError, RuntimeError) as error:  # requests' errors are OSErrors; RuntimeError is jgo's "not found"
            shutil.rmtree(attempt_folder, ignore_errors=True)
            if attempt == _ATTEMPTS:
                raise StackError(
                    f"{artifact.filename} could not be downloaded ({type(error).__name__}: {error}). "
                    "The first start needs Maven Central (or the mirror in HEADRACE_MAVEN_URL): "
                    "check network and proxy, then start again"
                ) from error
            if stop.wait(BACKOFF_SECONDS * attempt):
                raise StoppedError from error
    found = sha256_of(path)
    if found != artifact.sha256:
        raise StackError(
            f"{artifact.filename} as downloaded is not the pinned file (sha256 {found}, pinned {artifact.sha256}): "
            "it was damaged or altered on the way. Nothing of it was kept; start again, and if it happens again, "
            "look at the proxy or mirror in between"
        )
    return path


def _resolve(artifact: Artifact, folder: Path, advance: Advance, repositories: dict[str, str] | None) -> Path:
    from jgo.maven import MavenContext, PythonResolver  # takes 0.2 s to import: only when something is missing

    @contextlib.contextmanager
    def report(_filename: str, _total_bytes: int) -> Iterator[Callable[[int], None]]:
        yield advance

    resolver = PythonResolver(progress_callback=report)
    context = MavenContext(resolver=resolver, repo_cache=folder, remote_repos=repositories, timeout=_REQUEST_SECONDS)
    component = context.project(artifact.group, artifact.name).at_version(artifact.version)
    return component.artifact(artifact.classifier, artifact.packaging).resolve()


def is_there(path: Path) -> bool:
    """True if a path exists and this user can see it; ``Path.exists`` raises where it cannot tell."""
    return os.access(path, os.F_OK)


def verify_cached(path: Path, artifact: Artifact) -> None:
    """Refuse a cached file that is not the pinned one.

    Raises:
        StackError: naming the file to delete.
    """
    if path.stat().st_size != artifact.size_bytes or sha256_of(path) != artifact.sha256:
        raise StackError(
            f"{path} is damaged or was altered (its sha256 is not the pinned one): "
            "delete that file and start again; it is then downloaded anew"
        )
