"""What Java source files need to run: a JDK on the path, the embedded broker's jars, and Avro's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

from headrace.connectors.embedded.artifacts import Artifact, read_lock
from headrace.connectors.embedded.downloads import Downloads, fetch_one, verify_cached
from headrace.connectors.embedded.paths import cache_dir
from headrace.connectors.embedded.progress import Progress

MIN_JAVA = 17
_LOCK = Path(__file__).with_name("java_sources.lock")
_LIST_SECONDS = 60


def avro() -> Artifact:
    """Apache Avro as pinned for the tests. What it needs of Jackson and slf4j the broker has as well."""
    (artifact,) = read_lock(_LOCK)
    return artifact


def no_jdk() -> str:
    """Why ``java`` on the path cannot run source files; empty if it can."""
    java = shutil.which("java")
    if java is None:
        return "there is no java on the path"
    listed = subprocess.run([java, "--list-modules"], capture_output=True, text=True, timeout=_LIST_SECONDS)
    compiler = re.search(r"^jdk\.compiler@(\d+)", listed.stdout, re.MULTILINE)
    if compiler is None:
        return f"{java} is a runtime without a compiler"
    return "" if int(compiler[1]) >= MIN_JAVA else f"{java} is Java {compiler[1]}, older than {MIN_JAVA}"


def link_libraries(folder: Path) -> None:
    """Link every jar into a folder, as Maven's ``copy-dependencies`` would put them there."""
    folder.mkdir()
    for jar in (*Downloads(cache_dir(), Progress()).kafka_classpath(), _cached(avro())):
        (folder / jar.name).symlink_to(jar)


def _cached(artifact: Artifact) -> Path:
    """From the cache of the tests' own, downloaded and verified if it is not there."""
    folder = cache_dir() / "test-jars"
    jar = folder / artifact.filename
    if not jar.exists():
        folder.mkdir(parents=True, exist_ok=True)
        url = os.environ.get("HEADRACE_MAVEN_URL")
        repositories = {"maven": url.rstrip("/")} if url else None
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            fetch_one(artifact, Path(scratch), lambda _: None, threading.Event(), repositories).replace(jar)
    verify_cached(jar, artifact)
    return jar
