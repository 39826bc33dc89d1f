"""Fetches the pinned artifacts, once: verified by sha256, moved into the cache in one step, under a lock.

With everything cached no network is touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

from headrace.connectors.embedded.artifacts import (
    KAFKA_VERSION,
    LOCK_FILE,
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
_REGISTRY_RUNNER = f"apicurio-registry-app-{REGISTRY_VERSION}-runner.jar"


class Downloads:
    """The Java artifacts, in ``<cache>/jars`` and ``<cache>/registry-<version>``.

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
        self._jars = tuple(artifact for artifact in artifacts if artifact.packaging == "jar")
        self._archives = tuple(artifact for artifact in artifacts if artifact.packaging == "tar.gz")

    def cached(self) -> bool:
        """True if nothing is left to download (contents are not verified)."""
        jars = all((self._cache / "jars" / jar.filename).exists() for jar in self._jars)
        return jars and self._registry_folder.exists()

    def kafka_classpath(self) -> tuple[Path, ...]:
        """Every jar of the broker, downloaded if need be and verified.

        Raises:
            StackError: if one cannot be downloaded, or is not the file that was pinned.
        """
        folder = self._cache / "jars"
        missing = [jar for jar in self._jars if not (folder / jar.filename).exists()]
        if missing:
            with self._locked():
                missing = [jar for jar in self._jars if not (folder / jar.filename).exists()]
                self._fetch(f"Apache Kafka {KAFKA_VERSION}", missing, folder)
        for jar in self._jars:
            verify_cached(folder / jar.filename, jar)
        return tuple(folder / jar.filename for jar in self._jars)

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
    def _registry_folder(self) -> Path:
        return self._cache / f"registry-{REGISTRY_VERSION}"

    def _locked(self) -> AbstractContextManager[None]:
        return file_lock(self._cache / "downloads.lock", _LOCK_SECONDS, "downloads")

    def _fetch(self, title: str, artifacts: Sequence[Artifact], folder: Path) -> None:
        if not artifacts:
            return
        folder.mkdir(parents=True, exist_ok=True)
        total_bytes = sum(artifact.size_bytes for artifact in artifacts)
        with (
            tempfile.TemporaryDirectory(dir=self._cache, prefix="downloading-") as scratch,
            self._progress.download(title, total_bytes) as advance,
            ThreadPoolExecutor(_PARALLEL) as pool,
        ):
            waiting = [
                pool.submit(fetch_one, artifact, Path(scratch), advance, self._repositories) for artifact in artifacts
            ]
            try:
                for artifact, future in zip(artifacts, waiting, strict=True):
                    future.result().replace(folder / artifact.filename)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _unpack_registry(self) -> None:
        with tempfile.TemporaryDirectory(dir=self._cache, prefix="unpacking-") as scratch:
            archives = Path(scratch) / "archives"
            self._fetch(f"Apicurio Registry {REGISTRY_VERSION}", self._archives, archives)
            unpacked = Path(scratch) / "unpacked"
            for archive in self._archives:
                with tarfile.open(archives / archive.filename) as tar:
                    tar.extractall(unpacked, filter="data")
            if not (unpacked / _REGISTRY_RUNNER).exists():
                raise StackError(f"the registry's archive lacks {_REGISTRY_RUNNER}: this release of headrace is broken")
            unpacked.replace(self._registry_folder)


def fetch_one(artifact: Artifact, scratch: Path, advance: Advance, repositories: dict[str, str] | None = None) -> Path:
    """Download and verify one artifact, with a few attempts.

    Raises:
        StackError: if it cannot be had, or is not what was pinned.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        attempt_folder = scratch / f"{artifact.filename}.{attempt}"
        try:
            path = _resolve(artifact, attempt_folder, advance, repositories)
            break
        except (OSError, RuntimeError) as error:  # requests' errors are OSErrors; RuntimeError is jgo's "not found"
            shutil.rmtree(attempt_folder, ignore_errors=True)
            if attempt == _ATTEMPTS:
                raise StackError(
                    f"{artifact.filename} could not be downloaded ({type(error).__name__}: {error}). "
                    "The first start needs Maven Central (or the mirror in HEADRACE_MAVEN_URL): "
                    "check network and proxy, then start again"
                ) from error
            time.sleep(BACKOFF_SECONDS * attempt)
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
