"""A run for the tests of replays."""

from __future__ import annotations

from headrace.pipeline.replay.manifest import Pin, Plan
from headrace.pipeline.replay.ranges import PartitionRange

PLAN = Plan(
    run="try-1",
    topic="requests",
    ranges=(PartitionRange(0, 5, 20), PartitionRange(3, 0, 7)),
    filters=("key=cam-*",),
    limit=None,
    routes=(),
    models=(Pin("photos", "image_jpeg", "4"), Pin("rest", "echo", "3")),
    results_topic="runs.try-1.results",
    dead_letters_topic="runs.try-1.dead-letters",
    progress_topic="runs.try-1.progress",
    partitions=12,
    settings_sha256="",
    git_revision=None,
    headrace_version="",
    created_ms=1_800_000_000_000,
)
