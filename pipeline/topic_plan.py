"""What is to be done so that the topics are as the settings want them, and what exactly-once misses there. Pure.

Nothing that takes something away, or moves keys to other partitions, is done without being asked for by name. Topics
are never deleted: whose one is cannot be told from its name for sure.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from headrace.pipeline.config import Settings
from headrace.pipeline.config_base import DELAY_PATTERN
from headrace.pipeline.overviews import TopicState
from headrace.pipeline.records import TopicSpec
from headrace.pipeline.setup import topic_specs
from headrace.pipeline.topic_check import replicas_problem, retention_problem

INTERNAL = ("__consumer_offsets", "__transaction_state")
"""Kafka's own, in which transactions and offsets are kept."""
MIN_INSYNC, DEFAULT_MIN_INSYNC = "min.insync.replicas", "1"
_LAYOUT = ("segment.", "index.", "flush.", "file.", "preallocate")
"""What keys of the configuration begin with that say how a log lies on the disk, and not what is in it."""
_WITHOUT_END = -1


class Flag(enum.StrEnum):
    """What has to be allowed, by the option of ``headrace topics apply``."""

    ADD_PARTITIONS = "--add-partitions"
    """Keys move to other partitions: records of a key that are there already are no longer in order with new ones."""
    SHRINK = "--shrink"
    """Records go sooner, are no longer taken, or are less safe."""


class Kind(enum.StrEnum):
    """Of a change."""

    CREATE = "create"
    PARTITIONS = "partitions"
    CONFIG = "config"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differs.

    Attributes:
        topic: where.
        kind: what is done about it.
        key: of the topic's configuration, if it is that.
        before, after: as it is, and as it is to be; empty for topics that are made.
        needs: what has to be allowed first.
    """

    topic: str
    kind: Kind
    key: str = ""
    before: str = ""
    after: str = ""
    needs: Flag | None = None

    def __str__(self) -> str:
        match self.kind:
            case Kind.CREATE:
                return f"+ {self.topic}: {self.after}"
            case Kind.PARTITIONS:
                return f"~ {self.topic}: partitions {self.before} -> {self.after}"
            case Kind.CONFIG:
                return f"~ {self.topic}: {self.key} {self.before} -> {self.after}"


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """Attributes:
    changes: what ``apply`` can do.
    problems: what it cannot, and what to do instead.
    warnings: under which circumstances exactly-once does not hold.
    """

    changes: tuple[Change, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]

    def allowed(self, flags: Collection[Flag]) -> tuple[Change, ...]:
        """Of the changes."""
        return tuple(each for each in self.changes if each.needs is None or each.needs in flags)


def left_over(settings: Settings, names: Collection[str]) -> tuple[str, ...]:
    """Of a cluster's topics those of delays that this pipeline had, by their names, and that no setting names now."""
    prefix = settings.delay_topic("")
    named = {spec.name for spec in topic_specs(settings)}
    return tuple(
        name
        for name in sorted(names)
        if name.startswith(prefix) and re.match(DELAY_PATTERN, name.removeprefix(prefix)) and name not in named
    )


def plan(settings: Settings, states: Mapping[str, TopicState | None], unnamed: Collection[str] = ()) -> TopicPlan:
    """How the topics differ from what the settings want.

    Args:
        settings: what names them.
        states: as they are, by name: the settings' and ``INTERNAL``; None, or missing, if there is no such topic.
        unnamed: topics that are left over (see ``left_over``).
    """
    specs = topic_specs(settings)
    changes: list[Change] = []
    problems: list[str] = []
    warnings: list[str] = []
    for spec in specs:
        state = states.get(spec.name)
        partitions = _partitions(spec, specs, states)
        if state is None:
            changes.append(Change(spec.name, Kind.CREATE, after=_described(spec, partitions)))
            continue
        found = _changes(spec, state, partitions, settings.topics.config.get(spec.name, {}).keys())
        changes += [each for each in found if not _stops_writing(each, state)]
        if any(_stops_writing(each, state) for each in found):
            problems.append(
                f"{spec.name} has {state.replication_factor} replicas, too few for min.insync.replicas "
                f"{spec.config[MIN_INSYNC]}: nothing could be written to it any more"
            )
        if state.replication_factor < spec.replication_factor:
            problems.append(replicas_problem(spec, state))
    for spec in specs:
        warnings += _warnings(spec, states.get(spec.name))
    warnings += _internal_warnings(states)
    warnings += [
        f"{topic} is of a delay that no setting names any more: records that wait in it are not processed; put the "
        "delay back until there are none, then delete the topic"
        for topic in unnamed
    ]
    # A worker that is assigned a new partition reads its ids back: they must have somewhere to be.
    changes.sort(key=lambda change: not (change.kind is Kind.PARTITIONS and change.needs is None))
    return TopicPlan(tuple(changes), tuple(problems), tuple(warnings))


def _partitions(spec: TopicSpec, specs: Collection[TopicSpec], states: Mapping[str, TopicState | None]) -> int:
    """How many it is to have."""
    if spec.as_wide_as is None:
        return spec.partitions
    model = states.get(spec.as_wide_as)
    wanted = next((each.partitions for each in specs if each.name == spec.as_wide_as), spec.partitions)
    return max(wanted, model.partitions if model else 0)


def _described(spec: TopicSpec, partitions: int) -> str:
    told = ", ".join(f"{key}={value}" for key, value in sorted(spec.config.items()))
    return f"{partitions} partitions, {spec.replication_factor} replicas, {told}"


def _changes(spec: TopicSpec, state: TopicState, partitions: int, exact: Collection[str]) -> list[Change]:
    """``exact`` has the keys of the configuration that the user has set; the others are as little as will do."""
    changes = []
    if state.partitions < partitions:
        # The changelog of ids follows its topic: nobody's order depends on it.
        needs = None if spec.as_wide_as is not None else Flag.ADD_PARTITIONS
        changes.append(
            Change(spec.name, Kind.PARTITIONS, before=str(state.partitions), after=str(partitions), needs=needs)
        )
    for key, wanted in sorted(spec.config.items()):
        found = state.config.get(key, "")
        if not _same(key, found, wanted) and (key in exact or not _will_do(key, spec, state)):
            needs = Flag.SHRINK if _shrinks(key, found, wanted) else None
            changes.append(Change(spec.name, Kind.CONFIG, key, found, wanted, needs))
    return changes


def _stops_writing(change: Change, state: TopicState) -> bool:
    return change.key == MIN_INSYNC and int(change.after) > state.replication_factor


def _will_do(key: str, spec: TopicSpec, state: TopicState) -> bool:
    """What headrace itself asks for is a least."""
    match key:
        case "max.message.bytes":
            return state.max_message_bytes >= int(spec.config[key])
        case "cleanup.policy" | "retention.ms":
            return retention_problem(spec, state.cleanup_policy, state.retention_ms) is None
        case "segment.bytes":
            return True
    return False


def _same(key: str, found: str, wanted: str) -> bool:
    if key == "cleanup.policy":
        return _policies(found) == _policies(wanted)
    return found == wanted


def _policies(value: str) -> set[str]:
    return {each.strip() for each in value.split(",")}


def _shrinks(key: str, found: str, wanted: str) -> bool:
    if key == "cleanup.policy":
        return bool(_policies(wanted) - _policies(found))  # what deletes or compacts more
    if key == "unclean.leader.election.enable":
        return wanted == "true"
    if key.startswith(_LAYOUT):
        return False
    before, after = _number(found), _number(wanted)
    if before is None or after is None or after == _WITHOUT_END:
        return False
    return before == _WITHOUT_END or after < before


def _number(value: str) -> int | None:
    try:
        return int(value)
    except ValueError:
        return None


def _warnings(spec: TopicSpec, state: TopicState | None) -> list[str]:
    """Of one topic, as it is or, if it is not there, as it would be made."""
    name = spec.name
    replicas = state.replication_factor if state else spec.replication_factor
    config = {**state.config, **spec.config} if state else spec.config
    found = [f"{name}: {each}" for each in _durability(replicas, config)]
    policies = _policies(config.get("cleanup.policy", "delete"))
    if "compact" in policies and spec.as_wide_as is None:
        found.append(
            f"{name} is compacted (cleanup.policy is {config['cleanup.policy']}): of records with the same key all but "
            "the last are lost; set it to delete"
        )
    return found


def _internal_warnings(states: Mapping[str, TopicState | None]) -> list[str]:
    found = []
    for name in INTERNAL:
        if state := states.get(name):
            found += [f"{name}: {each}" for each in _durability(state.replication_factor, state.config)]
    return found


def _durability(replicas: int, config: Mapping[str, str]) -> list[str]:
    """What can be lost that producers were told is written, and when nothing can be written."""
    min_insync = _number(config.get(MIN_INSYNC, DEFAULT_MIN_INSYNC)) or 1
    found = []
    if replicas == 1:
        found.append("1 replica: what is committed is lost with the broker's disk; have 3 (topics.replication_factor)")
    elif min_insync < 2:
        found.append(
            f"min.insync.replicas is {min_insync} with {replicas} replicas: what is committed may be on one broker, "
            "and is lost with it; set topics.min_insync_replicas to 2"
        )
    elif min_insync >= replicas:
        found.append(
            f"min.insync.replicas is {min_insync} with {replicas} replicas: while one broker is away nothing is "
            "written; have more replicas"
        )
    if config.get("unclean.leader.election.enable") == "true":
        found.append(
            "unclean.leader.election.enable is true: a broker that lags behind may become leader, and what is "
            "committed is lost; set it to false"
        )
    return found
