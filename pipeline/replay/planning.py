"""A run's plan, fixed when it begins: what a user says, and what Kafka and Triton say to it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.errors import ConfigError, PoisonError
from headrace.pipeline.ports import InferenceClient
from headrace.pipeline.records import SourceRecord
from headrace.pipeline.replay.manifest import Pin
from headrace.pipeline.replay.ranges import PartitionRange

GIT_SECONDS = 5.0


async def pinned(
    routes: Sequence[RouteSettings], forced: Mapping[str, tuple[str, str]], inference: InferenceClient
) -> tuple[Pin, ...]:
    """What answers each route, versions that nobody names fixed to what is served now.

    Args:
        routes: those that are replayed.
        forced: model and version by route (see ``rules.forced_pins``).
        inference: is asked for versions.

    Raises:
        UnavailableError: the model server does not answer.
        ConfigError: it does not serve what is forced. Another route's model may be missing: its events become dead
            letters, as they do live.
    """
    pins = []
    for route in routes:
        model, version = forced.get(route.name, (route.model, route.version))
        try:
            served = (await inference.signature(model, version)).version
        except PoisonError as error:
            if route.name in forced:
                named = f"{model}:{version}" if version else model
                raise ConfigError(f"--model {named}: {error.message}") from error
            served = ""
        pins.append(Pin(route.name, model, version or served, route.name in forced))
    return tuple(pins)


def limited(
    ranges: Sequence[PartitionRange],
    limit: int,
    records: Iterable[SourceRecord],
    takes: Callable[[SourceRecord], bool],
) -> tuple[PartitionRange, ...]:
    """The ranges, cut so that they hold the first ``limit`` chosen records by time, or all if there are fewer.

    Args:
        ranges: of one topic.
        limit: how many.
        records: all of the ranges', each partition's in order.
        takes: which are chosen.
    """
    times: dict[int, list[tuple[int, int]]] = {each.partition: [] for each in ranges}
    for record in records:
        at = record.provenance
        found = times[at.partition]
        if len(found) < limit and takes(record):
            # A partition is cut once: what comes after a record with a later time comes at that time, too.
            found.append((max(at.timestamp_ms, found[-1][0] if found else at.timestamp_ms), at.offset))
    first = sorted((time, partition, offset) for partition, found in times.items() for time, offset in found)[:limit]
    ends = {each.partition: each.start for each in ranges}
    if len(first) < limit:
        ends = {each.partition: each.end for each in ranges}
    for _, partition, offset in first:
        ends[partition] = max(ends[partition], offset + 1)
    return tuple(PartitionRange(each.partition, each.start, ends[each.partition]) for each in ranges)


def git_revision(folder: Path) -> str | None:
    """The commit that a folder is at, with ``+`` if it has changes; None if it is under no git, or there is none."""
    try:
        commit = _git(folder, "rev-parse", "HEAD").strip()
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no").strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+" if changed else commit


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIT_SECONDS).stdout
