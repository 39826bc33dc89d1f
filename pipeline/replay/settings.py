"""Live's settings → those of a run: the same routes, answering into the run's own topics and nowhere else. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from headrace.pipeline.config import Settings
from headrace.pipeline.config_routes import RouteSettings
from headrace.pipeline.records import TopicSpec
from headrace.pipeline.replay.manifest import Plan
from headrace.pipeline.setup import DEAD_LETTER_HEADROOM_BYTES, configured

KEPT = {"retention.ms": "-1"}
"""What a run has written is there until the run is removed."""
RECORD_BYTES = 4 * 1024 * 1024
"""Of a run's record and of its progress: each partition takes a few dozen bytes, and never more than 4,200."""


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What a replay asks of its models at a time, on each route; None: as much as the route does live.

    Attributes:
        max_concurrency: infer calls in flight.
        max_batch: records in one of them, if the route's own limit is not lower.
        timeout_seconds: how long one may take.
    """

    max_concurrency: int | None = None
    max_batch: int | None = None
    timeout_seconds: float | None = None


AS_LIVE = CallLimits()


def replay_settings(live: Settings, plan: Plan, limits: CallLimits = AS_LIVE) -> Settings:
    """Settings of a worker that replays.

    Args:
        live: those of the pipeline.
        plan: of the run.
        limits: of its infer calls.
    """
    topics = live.topics.model_copy(
        update={
            "requests": (plan.topic,),
            "results": plan.results_topic,
            "dead_letters": plan.dead_letters_topic,
        }
    )
    return live.model_copy(
        update={
            "name": identity(live, plan.run),
            "topics": topics,
            "routes": tuple(_replayed(route, limits) for route in live.routes),
            "worker": live.worker.model_copy(update={"slot": 0}),
        }
    )


def _replayed(route: RouteSettings, limits: CallLimits) -> RouteSettings:
    batch = route.batch
    changed = {
        "reply_topic": None,
        "reply_topics_allowed": (),
        "deadline_seconds": None,
        "retries": route.retries.model_copy(update={"delays": ()}),
        "breaker": None,
        "fallback": None,
        "idempotency": None,
        "max_concurrency": limits.max_concurrency or route.max_concurrency,
        "timeout_seconds": limits.timeout_seconds or route.timeout_seconds,
        "batch": batch.model_copy(
            update={"max_records": min(limits.max_batch or batch.max_records, batch.max_records)}
        ),
    }
    return route.model_copy(update=changed)


def identity(live: Settings, run: str) -> str:
    """A run's transactional id, and the beginning of its topics' names: its own, whatever the settings' ``name``."""
    return f"{live.topics.runs}.{run}"


def run_topics(live: Settings, run: str) -> tuple[str, str, str]:
    """Of a run's results, dead letters and progress."""
    prefix = identity(live, run)
    return f"{prefix}.results", f"{prefix}.dead-letters", f"{prefix}.progress"


def runs_topic_spec(live: Settings) -> TopicSpec:
    """The topic that the runs themselves are in."""
    config = {"cleanup.policy": "compact", "max.message.bytes": str(RECORD_BYTES)}
    return TopicSpec(live.topics.runs, 1, live.topics.replication_factor, config)


def progress_topic_spec(live: Settings, run: str) -> TopicSpec:
    """Where it stands how far a run is."""
    config = {
        # Only the newest is wanted. What is older goes away in whole segments, but never the one that is written to.
        "cleanup.policy": "delete",
        "retention.bytes": str(RECORD_BYTES),
        "segment.bytes": str(2 * RECORD_BYTES),
        "max.message.bytes": str(RECORD_BYTES),
        **KEPT,
    }
    return configured(live, TopicSpec(run_topics(live, run)[2], 1, live.topics.replication_factor, config))


def run_topic_specs(live: Settings, plan: Plan) -> tuple[TopicSpec, ...]:
    """A run's own topics of results and dead letters."""
    largest = live.topics.max_message_bytes
    sizes = {plan.results_topic: largest, plan.dead_letters_topic: largest + DEAD_LETTER_HEADROOM_BYTES}
    replicas = live.topics.replication_factor
    specs = (
        TopicSpec(name, plan.partitions, replicas, {"max.message.bytes": str(size), **KEPT})
        for name, size in sizes.items()
    )
    return tuple(configured(live, spec) for spec in specs)


def settings_sha256(live: Settings) -> str:
    """A digest of what in the settings bears on results: routes and user code."""
    routes = {"__all__": {"name", "model", "version", "match", "video"}}
    told = live.model_dump(mode="json", include={"routes": routes, "user_code": True})
    return hashlib.sha256(json.dumps(told, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
