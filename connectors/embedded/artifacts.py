"""The pinned list of Java artifacts: every file's name, size and sha256, in ``artifacts.lock`` beside this file.

The list is the dependency closure of ``ROOTS``, as resolved by jgo; ``python -m headrace.connectors.embedded.relock``
writes it anew after a version here was changed. It carries no addresses: jgo knows Maven's repository.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from headrace.pipeline.errors import StackError

KAFKA_VERSION = "4.2.2"
REGISTRY_VERSION = "3.0.9"
PYTHON_VERSION = "3.12.1"

KAFKA_ROOTS = (f"org.apache.kafka:kafka_2.13:jar:{KAFKA_VERSION}",)
"""Resolved with their dependencies."""
KAFKA_EXTRAS = (
    f"org.apache.kafka:kafka-tools:jar:{KAFKA_VERSION}",  # Java's own console and verifiable clients
    "org.slf4j:slf4j-simple:jar:1.7.36",  # without a binding of slf4j the broker logs nothing
)
"""Taken alone: what they need of their dependencies is among the broker's."""
PYTHON_ROOTS = (f"org.bytedeco:cpython:jar:linux-x86_64:{PYTHON_VERSION}-1.5.10",)
"""A whole CPython with its shared library, which Triton's python backend needs and most systems' Python lacks."""
REGISTRY_ROOTS = (f"io.apicurio:apicurio-registry-app:tar.gz:all:{REGISTRY_VERSION}",)

LOCK_FILE = Path(__file__).with_name("artifacts.lock")


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of Maven's repository: ``group:name:packaging[:classifier]:version``, its size and its sha256."""

    group: str
    name: str
    packaging: str
    classifier: str
    version: str
    size_bytes: int
    sha256: str

    @property
    def filename(self) -> str:
        suffix = f"-{self.classifier}" if self.classifier else ""
        return f"{self.name}-{self.version}{suffix}.{self.packaging}"


def parse_coordinate(text: str) -> tuple[str, str, str, str, str]:
    """Group, name, packaging, classifier (maybe empty) and version of a coordinate as written in this package.

    Raises:
        ValueError: if it is not of that form.
    """
    match text.split(":"):
        case [group, name, packaging, version]:
            return group, name, packaging, "", version
        case [group, name, packaging, classifier, version]:
            return group, name, packaging, classifier, version
    raise ValueError(f"not a coordinate: {text!r}")


def read_lock(path: Path = LOCK_FILE) -> tuple[Artifact, ...]:
    """All pinned artifacts.

    Raises:
        StackError: if the file cannot be read or a line is malformed.
    """
    artifacts = []
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise StackError(f"{path} cannot be read ({error.strerror}): install headrace again") from error
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        try:
            sha256, size, coordinate = line.split()
            artifacts.append(Artifact(*parse_coordinate(coordinate), size_bytes=int(size), sha256=sha256))
        except ValueError as error:
            raise StackError(f"{path}:{number}: expected 'sha256 size coordinate': install headrace again") from error
    return tuple(artifacts)


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
