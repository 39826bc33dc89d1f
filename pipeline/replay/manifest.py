"""A run as a thing: what it reads, what answers it, and how far it is."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.pipeline.avro import Contract
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.ports import StartPosition
from headrace.pipeline.replay.ranges import PartitionRange
from headrace.pipeline.wire import Decoder, encode

RUN_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
"""It is part of topics' names and of a transactional id."""


class RunState(enum.StrEnum):
    """``RUNNING`` is also what a run says whose process was killed: see when it was updated."""

    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    COMPLETE = "COMPLETE"


@dataclass(frozen=True, slots=True)
class Pin:
    """What answers a route.

    ``forced``: also events that name another version themselves. Otherwise this is what stands for a version that
    neither the event nor the route names.
    """

    route: str
    model: str
    version: str
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to do; never changes.

    Attributes:
        run: its id.
        topic: what is replayed.
        ranges: its records.
        filters: which of them, as ``--filter`` says it (see ``chosen``).
        limit: how many of these at most; the ranges end there already.
        routes: whose parts are answered; all, if empty.
        models: what answers each route.
        results_topic, dead_letters_topic: where to.
        progress_topic: where it stands how far the run is.
        partitions: of the first two.
        settings_sha256: of what in the settings bears on results.
        git_revision: of the settings' folder, if it is under git.
        headrace_version: that began it.
        created_ms: when, epoch milliseconds.
    """

    run: str
    topic: str
    ranges: tuple[PartitionRange, ...]
    filters: tuple[str, ...]
    limit: int | None
    routes: tuple[str, ...]
    models: tuple[Pin, ...]
    results_topic: str
    dead_letters_topic: str
    progress_topic: str
    partitions: int
    settings_sha256: str
    git_revision: str | None
    headrace_version: str
    created_ms: int


@dataclass(frozen=True, slots=True)
class Run:
    """A plan, and what its process last said of it. Exact is only its ``Progress``."""

    plan: Plan
    state: RunState
    updated_ms: int
    results: int = 0
    dead_letters: int = 0
    resumed: int = 0
    active_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. Exact: it is written in the transaction that it tells of.

    Attributes:
        run: its id.
        writer, number: which process's how manieth transaction.
        positions: by partition, of those of which something is done.
        results, dead_letters: written so far.
        resumed: how often another process went on.
        updated_ms: epoch milliseconds.
        active_seconds: that processes were at it.
    """

    run: str
    writer: str = ""
    number: int = 0
    positions: Mapping[int, StartPosition] = field(default_factory=dict)
    results: int = 0
    dead_letters: int = 0
    resumed: int = 0
    updated_ms: int = 0
    active_seconds: float = 0.0


def check_run_id(run: str) -> str:
    """The id, if it can be one. Raises ConfigError."""
    if not RUN_ID.fullmatch(run):
        raise ConfigError(f"{run!r} is no id of a run: lower-case letters, digits, - and _, at most 63 of them")
    return run


def run_fields(run: Run) -> dict[str, Any]:
    """The run as its record has it, times in epoch milliseconds."""
    plan = run.plan
    return {
        "run": plan.run,
        "state": run.state.value,
        "topic": plan.topic,
        "ranges": [{"partition": each.partition, "start": each.start, "end": each.end} for each in plan.ranges],
        "filters": list(plan.filters),
        "limit": plan.limit,
        "routes": list(plan.routes),
        "models": [
            {"route": pin.route, "model": pin.model, "version": pin.version, "forced": pin.forced}
            for pin in plan.models
        ],
        "results_topic": plan.results_topic,
        "dead_letters_topic": plan.dead_letters_topic,
        "progress_topic": plan.progress_topic,
        "partitions": plan.partitions,
        "settings_sha256": plan.settings_sha256,
        "git_revision": plan.git_revision,
        "headrace_version": plan.headrace_version,
        "results": run.results,
        "dead_letters": run.dead_letters,
        "resumed": run.resumed,
        "created": plan.created_ms,
        "updated": run.updated_ms,
        "active_seconds": run.active_seconds,
    }


def encode_run(run: Run, schema_id: int) -> bytes:
    """The run as the value of a record."""
    return encode(Contract.REPLAY_RUN, schema_id, run_fields(run))


def encode_progress(progress: Progress, schema_id: int) -> bytes:
    """The progress as the value of a record."""
    fields = {
        "run": progress.run,
        "writer": progress.writer,
        "number": progress.number,
        "positions": [
            {"partition": partition, "offset": at.offset, "metadata": at.metadata}
            for partition, at in progress.positions.items()
        ],
        "results": progress.results,
        "dead_letters": progress.dead_letters,
        "resumed": progress.resumed,
        "updated": progress.updated_ms,
        "active_seconds": progress.active_seconds,
    }
    return encode(Contract.REPLAY_PROGRESS, schema_id, fields)


class RunDecoder(Decoder[Run]):
    """Values of the runs topic → runs."""

    def __init__(self) -> None:
        super().__init__(Contract.REPLAY_RUN, _run_from)


class ProgressDecoder(Decoder[Progress]):
    """Values of a run's progress topic → progress."""

    def __init__(self) -> None:
        super().__init__(Contract.REPLAY_PROGRESS, _progress_from)


def _run_from(fields: dict[str, Any]) -> Run:
    plan = Plan(
        run=fields["run"],
        topic=fields["topic"],
        ranges=tuple(PartitionRange(each["partition"], each["start"], each["end"]) for each in fields["ranges"]),
        filters=tuple(fields.get("filters", ())),
        limit=fields.get("limit"),
        routes=tuple(fields.get("routes", ())),
        models=tuple(
            Pin(each["route"], each["model"], each["version"], each.get("forced", False)) for each in fields["models"]
        ),
        results_topic=fields["results_topic"],
        dead_letters_topic=fields["dead_letters_topic"],
        progress_topic=fields["progress_topic"],
        partitions=fields["partitions"],
        settings_sha256=fields.get("settings_sha256", ""),
        git_revision=fields.get("git_revision"),
        headrace_version=fields.get("headrace_version", ""),
        created_ms=fields["created"],
    )
    states = {state.value: state for state in RunState}
    return Run(
        plan,
        # a state that a newer release added: of a run that is not over
        state=states.get(fields.get("state", ""), RunState.RUNNING),
        updated_ms=fields["updated"],
        results=fields.get("results", 0),
        dead_letters=fields.get("dead_letters", 0),
        resumed=fields.get("resumed", 0),
        active_seconds=fields.get("active_seconds", 0.0),
    )


def _progress_from(fields: dict[str, Any]) -> Progress:
    return Progress(
        run=fields["run"],
        writer=fields["writer"],
        number=fields["number"],
        positions={
            each["partition"]: StartPosition(each["offset"], each.get("metadata", "")) for each in fields["positions"]
        },
        results=fields["results"],
        dead_letters=fields["dead_letters"],
        resumed=fields.get("resumed", 0),
        updated_ms=fields["updated"],
        active_seconds=fields.get("active_seconds", 0.0),
    )
