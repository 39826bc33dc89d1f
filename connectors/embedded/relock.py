"""Writes ``artifacts.lock`` anew: ``python -m headrace.connectors.embedded.relock``. For developers, online."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from jgo.maven import MavenContext, PythonResolver

from headrace.connectors.embedded.artifacts import (
    KAFKA_EXTRAS,
    KAFKA_ROOTS,
    LOCK_FILE,
    PYTHON_ROOTS,
    REGISTRY_ROOTS,
    parse_coordinate,
    sha256_of,
)

_HEADER = """\
# Pinned files of the embedded stack: sha256, size in bytes, group:name:packaging[:classifier]:version.
# Written by: python -m headrace.connectors.embedded.relock
"""


def closure(context: MavenContext, root: str) -> set[str]:
    """Coordinates of an artifact and of all it needs at run time."""
    group, name, _, _, version = parse_coordinate(root)
    _, nodes = PythonResolver().get_dependency_list([context.create_dependency(f"{group}:{name}:{version}")])
    needed = (node.dep for node in nodes)
    return {root} | {f"{d.groupId}:{d.artifactId}:{d.type}:{d.version}" for d in needed}


def lock_line(context: MavenContext, coordinate: str) -> str:
    group, name, packaging, classifier, version = parse_coordinate(coordinate)
    path = context.project(group, name).at_version(version).artifact(classifier, packaging).resolve()
    return f"{sha256_of(path)} {path.stat().st_size:>9} {coordinate}"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        context = MavenContext(repo_cache=Path(folder), timeout=60)
        coordinates = {*KAFKA_EXTRAS, *PYTHON_ROOTS, *REGISTRY_ROOTS}
        for root in KAFKA_ROOTS:
            coordinates |= closure(context, root)
        lines = [lock_line(context, coordinate) for coordinate in sorted(coordinates)]
    LOCK_FILE.write_text(_HEADER + "\n".join(lines) + "\n")
    sys.stdout.write(f"{LOCK_FILE}: {len(lines)} files\n")


if __name__ == "__main__":
    main()
