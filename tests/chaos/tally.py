"""Inputs and outputs of a chaos run, condensed and counted. Pure: records in, numbers out; about 14 bytes an input, and
100 more if its route has idempotency."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

RETRIED = "retried"
DELAYS = ("1s", "2s")
"""Of the route ``RETRIED``, which puts off what fails."""
ROUTES = {"by-key": "key", "by-partition": "partition", "unordered": "none", RETRIED: "none"}
"""Routes, which are named as the type of the events that take them, and what each keeps in order."""
ONCE = "by-key"
"""The route with idempotency."""
WINDOW_SECONDS = 30
"""What repeats an event that was answered has no outcome, if it was sent within so many seconds."""
RESULT, TWIN, DEAD, SHADOW = range(4)
KINDS = ("result", "twin", "dead letter", "shadow")
EXAMPLES = 20
_CODES = ("", "EMPTY_VALUE", "NOT_WIRE_FORMAT", "UNKNOWN_SCHEMA", "CORRUPT", "INVALID_INPUT", "RETRIES_EXHAUSTED")
_ROUTE_NAMES = ("", *ROUTES)
_ORDERINGS = ("none", *ROUTES.values())


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of a run. Twins are what ``also_to`` writes: copies of the results. Shadows are of a sample alone."""

    requests: str
    results: str
    twins: str
    dead_letters: str
    shadows: str
    retry: str
    """What the delay topics' names begin with."""

    @classmethod
    def of(cls, prefix: str) -> Topics:
        return cls(*(f"{prefix}.{name}" for name in ("in", "out", "twin", "dead", "shadow", "retry")))

    @property
    def outputs(self) -> tuple[str, str, str, str]:
        """In the order of ``KINDS``."""
        return self.results, self.twins, self.dead_letters, self.shadows

    @property
    def delays(self) -> tuple[str, ...]:
        """The delay topics."""
        return tuple(f"{self.retry}.{delay}" for delay in DELAYS)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run came to: numbers of records, but for ``missing`` and ``torn`` (inputs), ``uncommitted`` and
    ``unended`` (partitions).

    Attributes:
        duplicates: outputs of a topic beyond the first for their input.
        missing: inputs without any output.
        torn: inputs with a result and no twin, a twin and no result, a dead letter beside either, or a shadow without
            a result.
        foreign: outputs whose position is no input's.
        order_violations: outputs after one of a later input that they had to come before.
        wrong: first outputs whose content is not that of their input: id, tensor, key, route; bytes and reason;
            or that are in the topic of another kind.
        uncommitted: committed offset is not the end (in a delay topic: not past the last record), or has metadata
            there.
        unended: an open transaction did not end in time, so what it hides is not counted.
        duplicates_answered: inputs with an output that repeat an event which had its result inside the window.
        wrongly_dropped: inputs without any output that repeat an event which had none; not counted as missing.
        repeats: inputs whose event id came before in their partition.
        dropped: those of them that have no outcome, as they repeat a result.
        put_off: records in the delay topics.
        longest_stall_s: in seconds; the ``Watcher`` knows it.
        examples: up to 20 of each kind of error.
    """

    records: int
    results: int
    twins: int
    dead_letters: int
    shadows: int
    duplicates: int
    missing: int
    torn: int
    foreign: int
    order_violations: int
    wrong: int
    uncommitted: int
    unended: int
    duplicates_answered: int
    wrongly_dropped: int
    repeats: int = 0
    dropped: int = 0
    put_off: int = 0
    longest_stall_s: float = 0.0
    examples: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def errors(self) -> dict[str, int]:
        """What must be 0 and is not."""
        counts = {name: getattr(self, name) for name in _ERRORS}
        return {name: count for name, count in counts.items() if count}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def explain(self) -> str:
        """For the message of a failed test."""
        counts = ", ".join(f"{name}={value}" for name, value in self.to_json().items() if name != "examples")
        lines = [f"{name}: {example}" for name, examples in self.examples.items() for example in examples]
        return "\n".join([counts, *lines])


_ERRORS = (
    *("duplicates", "missing", "torn", "foreign", "order_violations", "wrong", "uncommitted", "unended"),
    *("duplicates_answered", "wrongly_dropped"),
)


class Asked(NamedTuple):
    """What must come of an input: its route ("" if it has none), a dead letter's code ("" for a result), and a hash
    of what must come back with it. ``once_id`` is its event id, if its route has idempotency."""

    route: str
    code: str
    identity: int
    once_id: str = ""


class Again(IntEnum):
    """What an input is to those of its event id that came before, in its partition."""

    FIRST = 0
    OWED = 1
    """It repeats one, but no result that was sent inside the window: it has an outcome of its own."""
    DUPLICATE = 2
    """It has none."""


class Answered:
    """The rule of docs/idempotency.md, for inputs of a route that keeps an id's results in order. Pure."""

    def __init__(self) -> None:
        self._results: dict[Hashable, int] = {}

    def take(self, once_id: Hashable, sent_ms: int, result: bool) -> Again:
        """The next input in the order of offsets.

        Args:
            once_id: event id and whatever else tells it from others.
            sent_ms: its timestamp, in milliseconds since 1970.
            result: whether it has a result, if it is processed, and not a dead letter.
        """
        before = self._results.get(once_id)
        if before is not None and abs(sent_ms - before) <= 1000 * WINDOW_SECONDS:
            return Again.DUPLICATE
        self._results[once_id] = sent_ms if result else _NO_RESULT if before is None else before
        return Again.FIRST if before is None else Again.OWED


_NO_RESULT = -(2**62)


class Said(NamedTuple):
    """What an output says: the position it answers, its code ("" for a result), its key, and the hash as above."""

    topic: str
    partition: int
    offset: int
    code: str
    key: bytes | None
    identity: int


class _Inputs:
    """A partition of the request topic, 14 bytes an offset."""

    __slots__ = ("again", "answered", "counts", "identities", "kinds")

    def __init__(self) -> None:
        self.kinds = bytearray()  # 0: no record has this offset; else 1 + route + len(_ROUTE_NAMES) * code
        self.again = bytearray()  # an Again each
        self.answered = Answered()
        self.identities = array("q")
        self.counts = tuple(bytearray() for _ in KINDS)

    def add(self, offset: int, kind: int, identity: int, again: Again) -> None:
        more = offset + 1 - len(self.kinds)
        if more > 0:
            self.identities.frombytes(bytes(8 * more))
            for each in (self.kinds, self.again, *self.counts):
                each.extend(bytes(more))
        self.kinds[offset] = kind
        self.again[offset] = again
        self.identities[offset] = identity


class Tally:
    """Counts inputs and outputs. Pure. All inputs come first; outputs of a partition come in the order of its offsets.

    A duplicate is counted as such and nowhere else.
    """

    def __init__(self, requests: str) -> None:
        self._requests = requests
        self._inputs: dict[int, _Inputs] = {}
        self._records = 0
        self._outputs = [0] * len(KINDS)
        self._put_off = self._repeats = self._dropped = 0
        self._last: dict[tuple[int, int, int, bytes | None], int] = {}
        self._homes: set[tuple[int, int, bytes]] = set()
        self._errors = dict.fromkeys(_ERRORS, 0)
        self._examples: dict[str, list[str]] = {}

    def add_input(self, partition: int, offset: int, asked: Asked, sent_ms: int = 0) -> None:
        """Takes note of one input; of a partition in the order of their offsets.

        Args:
            partition: of the request topic.
            offset: there.
            asked: what must come of it.
            sent_ms: its timestamp, in milliseconds since 1970.
        """
        inputs = self._inputs.get(partition)
        if inputs is None:
            inputs = self._inputs[partition] = _Inputs()
        kind = 1 + _ROUTE_NAMES.index(asked.route) + len(_ROUTE_NAMES) * _CODES.index(asked.code)
        again = inputs.answered.take(asked.once_id, sent_ms, not asked.code) if asked.once_id else Again.FIRST
        inputs.add(offset, kind, asked.identity, again)
        self._records += 1
        self._repeats += again is not Again.FIRST

    def add_output(self, kind: int, partition: int, offset: int, said: Said) -> None:
        """Takes note of one output.

        Args:
            kind: ``RESULT``, ``TWIN``, ``DEAD`` or ``SHADOW``.
            partition: of the output topic.
            offset: there.
            said: its content.
        """
        self._outputs[kind] += 1
        inputs = self._inputs.get(said.partition) if said.topic == self._requests else None
        if inputs is None or not 0 <= said.offset < len(inputs.kinds) or not inputs.kinds[said.offset]:
            self._error("foreign", kind, partition, offset, said)
            return
        counts = inputs.counts[kind]
        if counts[said.offset]:
            self._error("duplicates", kind, partition, offset, said)
            return
        counts[said.offset] = 1
        code, route = divmod(inputs.kinds[said.offset] - 1, len(_ROUTE_NAMES))
        at_home = (kind == DEAD) == bool(said.code)
        if not at_home or said.code != _CODES[code] or said.identity != inputs.identities[said.offset]:
            self._error("wrong", kind, partition, offset, said)
        if not self._in_order(kind, partition, said, route):
            self._error("order_violations", kind, partition, offset, said)

    def add_put_off(self) -> None:
        """One more record in a delay topic."""
        self._put_off += 1

    def _in_order(self, kind: int, partition: int, said: Said, route: int) -> bool:
        """Whether no output of a later input in its lane came before.

        A key has one partition of each output topic: each further one counts as out of order once.
        """
        ordering = _ORDERINGS[route]
        if ordering == "none" or (ordering == "key" and said.key is None):
            return True
        lane = (kind, partition, said.partition, said.key if ordering == "key" else None)
        last = self._last.get(lane)
        if last is not None:
            self._last[lane] = max(last, said.offset)
            return said.offset > last
        self._last[lane] = said.offset
        if lane[3] is None:
            return True
        home = (kind, said.partition, lane[3])
        at_home = home not in self._homes
        self._homes.add(home)
        return at_home

    def add_partition_error(self, name: str, text: str) -> None:
        """One more ``uncommitted`` or ``unended`` partition."""
        self._errors[name] += 1
        self._example(name, text)

    def _error(self, name: str, kind: int, partition: int, offset: int, said: Said) -> None:
        self._errors[name] += 1
        code = f" ({said.code})" if said.code else ""
        self._example(
            name, f"{KINDS[kind]}{code} [{partition}]@{offset} of {said.topic}[{said.partition}]@{said.offset}"
        )

    def _example(self, name: str, text: str) -> None:
        examples = self._examples.setdefault(name, [])
        if len(examples) < EXAMPLES:
            examples.append(text)

    def verdict(self) -> Verdict:
        """The counts. To be called once, when everything has been added."""
        for partition, inputs in self._inputs.items():
            for offset, (kind, again, *counts) in enumerate(
                zip(inputs.kinds, inputs.again, *inputs.counts, strict=True)
            ):
                name = _error_of(again, counts) if kind else ""
                self._dropped += again == Again.DUPLICATE and not name
                if not name:
                    continue
                has = [name for name, count in zip(KINDS, counts, strict=True) if count]
                self._errors[name] += 1
                self._example(name, f"{self._requests}[{partition}]@{offset} has {' and '.join(has) or 'no output'}")
        results, twins, dead_letters, shadows = self._outputs
        return Verdict(
            self._records,
            results,
            twins,
            dead_letters,
            shadows,
            **self._errors,
            repeats=self._repeats,
            dropped=self._dropped,
            put_off=self._put_off,
            examples=self._examples,
        )


def _error_of(again: int, counts: Sequence[int]) -> str:
    """What is wrong with an input that has so many outputs of each kind; empty if nothing is."""
    result, twin, dead, shadow = counts
    if again == Again.DUPLICATE:
        return "duplicates_answered" if any(counts) else ""
    if not any(counts):
        return "wrongly_dropped" if again else "missing"
    return "" if result == twin and dead != result and shadow <= result else "torn"
